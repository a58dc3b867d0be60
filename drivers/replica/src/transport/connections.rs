use std::{
    collections::{BTreeMap, BTreeSet},
    net::SocketAddr,
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, Clock as _, Error, ErrorKind, Finding, Report, Result, SystemClock, Unreached,
};

use super::{Handler, Transport, form, lock, peer::Peer, proto::Failure, server};
use crate::{Calls, Formed, PeerTls};

/// What to do about a cluster that is not formed.
const FORMING: &str =
    "start that node, with the same list of peers on all nodes, or mend the network between them";

/// What a driver does with the connections of its node: a [`Transport`] does it over gRPC, and a simulation in
/// its own way. By default the nodes are those that there are, and nothing is known of them.
#[async_trait]
pub trait Connections: Calls {
    /// Begins to answer peers, with `handler`; and to form a cluster with them, if this node belongs to none.
    fn serve(&self, handler: Arc<dyn Handler>);

    /// Where `node` is from now on. That it is there already is no change.
    ///
    /// # Errors
    /// `Config` if the address cannot be used, or may not be spoken to in plaintext.
    fn set_peer(&self, _node: u32, _address: &str) -> Result<()> {
        Ok(())
    }

    /// Why this node must end, once it must. `Excluded`: a majority of the members that knew it refuses it, since
    /// they knew it under another id, or removed it; it must not take part as if nothing had happened. `Fatal`: a
    /// task that speaks with peers has panicked.
    fn failure(&self) -> watch::Receiver<Option<Error>>;

    /// The cluster that this node belongs to, once it does. Before that, the handler hears nothing.
    fn formed(&self) -> watch::Receiver<Option<Formed>>;

    /// What this node waits for while it belongs to no cluster.
    fn waits_for(&self) -> Option<String> {
        None
    }

    /// The cluster was changed, and has these nodes now, whose addresses are known. Those that were `removed` are
    /// refused from now on, and told why. The others are called, since it is by their refusal that this node learns
    /// that it was removed itself.
    fn set_members(&self, _members: BTreeSet<u32>, _removed: BTreeSet<u32>) {}

    /// Has the node at the address of `node` known as that, if it waits there to be added to a cluster: true if it
    /// did. Durable on return.
    ///
    /// # Errors
    /// Those of the store.
    async fn invite(&self, _node: u32) -> Result<bool> {
        Ok(false)
    }

    /// Forgets a node that was not added after all.
    ///
    /// # Errors
    /// Those of the store.
    async fn forget(&self, _node: u32) -> Result<()> {
        Ok(())
    }

    /// Ends the connection to a node that is spoken to no more.
    fn drop_peer(&self, _node: u32) {}

    /// Whether that node was a member once, and was removed.
    fn was_removed(&self, _node: u32) -> bool {
        false
    }

    /// What this node waits for to be in a cluster, which nodes run twice, and where, and the certificates with what is
    /// wrong with them.
    fn report(&self) -> Report {
        Report::default()
    }

    /// The peers with which no session of this node's stands.
    fn unreached(&self) -> BTreeMap<u32, Unreached> {
        BTreeMap::new()
    }

    /// What the wall clocks of the peers show when the boot clock of this node shows `boot`, in milliseconds since 1970,
    /// as far as they have told.
    fn peer_clocks(&self, _boot: BootTime) -> Vec<u64> {
        vec![]
    }

    /// The address really bound.
    fn local_addr(&self) -> SocketAddr;

    /// Stops listening and speaking. Afterwards the address is free again, and the handler is not
    /// called any more, but for calls that it has not answered yet.
    async fn shutdown(&self);
}

#[async_trait]
impl Connections for Transport {
    fn serve(&self, handler: Arc<dyn Handler>) {
        *lock(&self.0.handler) = Some(handler);
        if let Some(listener) = lock(&self.0.listener).take() {
            let accepting = server::accept(self.0.clone(), listener);
            let accepting = self.0.spawn("the connections of peers", accepting);
            *lock(&self.0.accepting) = Some(accepting);
            let forming = self.0.spawn("the formation of the cluster", form(self.0.clone()));
            *lock(&self.0.forming) = Some(forming);
            if let Some(tls) = &self.0.cluster.tls {
                let keeping_up = tls.keep_up(self.0.cluster.reload.clone());
                let mut stop = self.0.stop.subscribe();
                self.0.spawn("the certificates of this node", async move {
                    tokio::select! {
                        () = keeping_up => {}
                        _ = stop.wait_for(|stop| *stop) => {}
                    }
                });
            }
        }
    }

    fn set_peer(&self, node: u32, address: &str) -> Result<()> {
        let mut peers = lock(&self.0.peers);
        if peers.get(&node).is_some_and(|peer| peer.address() == address) {
            return Ok(());
        }
        self.0.cluster.allow(address)?;
        let peer = Peer::new(node, address, &self.0.cluster)?;
        peers.insert(node, Arc::new(peer));
        self.0.envelope.disowned.note_member(node);
        Ok(())
    }

    fn failure(&self) -> watch::Receiver<Option<Error>> {
        self.0.envelope.disowned.failure()
    }

    fn formed(&self) -> watch::Receiver<Option<Formed>> {
        self.0.formation.subscribe()
    }

    fn waits_for(&self) -> Option<String> {
        self.0.formation.waits_for(SystemClock.now().boot)
    }

    fn set_members(&self, members: BTreeSet<u32>, removed: BTreeSet<u32>) {
        let own = self.0.envelope.node;
        let others: BTreeSet<_> = members.iter().copied().filter(|node| *node != own).collect();
        for node in &others {
            if let Ok(peer) = self.0.peer(*node) {
                peer.keep_session(&self.0);
            }
        }
        self.0.envelope.disowned.set_members(others);
        for removed in self.0.envelope.ids.set_members(members, removed) {
            self.drop_peer(removed);
        }
    }

    async fn invite(&self, node: u32) -> Result<bool> {
        let directory = self.0.formation.waiting_directory(node, SystemClock.now().boot);
        let ids = &self.0.envelope.ids;
        match directory.filter(|directory| ids.get(node) != Some(*directory)) {
            Some(directory) => ids.remember(vec![(node, directory)], vec![]).await.map(|()| true),
            None => Ok(false),
        }
    }

    async fn forget(&self, node: u32) -> Result<()> {
        self.drop_peer(node);
        self.0.envelope.ids.forget(node).await
    }

    fn drop_peer(&self, node: u32) {
        if let Some(peer) = lock(&self.0.peers).remove(&node) {
            peer.dropped();
        }
        self.0.clocks.forget(node);
    }

    fn was_removed(&self, node: u32) -> bool {
        self.0.envelope.ids.was_removed(node)
    }

    fn report(&self) -> Report {
        let mut report = self.0.cluster.tls.as_ref().map(PeerTls::report).unwrap_or_default();
        let waits = self.waits_for().map(|what| Finding::new("cluster_not_formed", what, FORMING));
        let twice = self.0.presence.duplicates().into_iter().map(|(node, what)| {
            let remedy =
                "stop one of the two; a directory that was copied is of no use to a second process";
            Finding::new("node_runs_twice", what, remedy).about(node.to_string())
        });
        report.findings.extend(waits.into_iter().chain(twice));
        report
    }

    fn unreached(&self) -> BTreeMap<u32, Unreached> {
        let peers = lock(&self.0.peers);
        peers.iter().filter_map(|(node, peer)| Some((*node, peer.unreached()?))).collect()
    }

    fn peer_clocks(&self, boot: BootTime) -> Vec<u64> {
        self.0.clocks.at(boot)
    }

    fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        lock(&self.0.handler).take();
        lock(&self.0.listener).take();
        lock(&self.0.peers).clear();
        let accepting = lock(&self.0.accepting).take();
        let forming = lock(&self.0.forming).take();
        for task in accepting.into_iter().chain(forming) {
            let _ = task.await;
        }
    }
}

#[async_trait]
impl Calls for Transport {
    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes> {
        let frame = self.0.envelope.wrap(to, kind, body)?;
        let peer = self.0.peer(to)?;
        let handler = self.0.handler()?;
        let mut answer = peer.call(&self.0, frame, deadline).await?;
        let failure = answer.failure.take();
        let (sender, body) = self.0.envelope.open(answer).map_err(|reason| {
            Error::new(ErrorKind::Config, format!("the answer of peer {to} is refused: {reason}"))
        })?;
        self.0.admit(&*handler, sender)?;
        match failure {
            None => Ok(body),
            Some(Failure { reason, is_lasting }) => Err(peer.refused(&reason, is_lasting)),
        }
    }
}
