//! Peers over gRPC: one stream to each, with messages, calls, and the answers to them.

mod callers;
mod clocks;
mod connection;
mod disowned;
mod formation;
#[cfg(test)]
mod formation_test;
mod frame;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod meeting;
mod peer;
pub(crate) mod peer_ids;
mod presence;
mod secret;
mod server;

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};
use tsoracle_core::{
    BootTime, Clock as _, Error, ErrorKind, Finding, NodeId, Refusals, Report, Result, SystemClock,
    Unreached, supervised,
};

use self::{
    callers::Callers, clocks::PeerClocks, disowned::Disowned, formation::Formation,
    frame::Envelope, peer::Peer, presence::Presence, proto::Failure,
};
use crate::{Cluster, Formed, Identity, PeerTls};

pub use frame::{MAX_BODY_BYTES, VERSION};
pub use peer_ids::{KnownId, PeerIds, Remember};
pub use secret::Secret;

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("tsoracle.peer.v1");
}

/// Who has sent a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// Its place in the cluster.
    pub node: u32,
    /// The id of its directory: another one under the same number is another, wiped node.
    pub id: NodeId,
}

/// How a driver answers its peers.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whether to listen to `sender`, as far as the driver knows: by which id it is known is checked
    /// besides. Asked for every call, answer, and new session.
    ///
    /// # Errors
    /// The reason why not: `Config` if that will not change by itself. The other side gets it.
    fn admit(&self, sender: Sender) -> Result<()>;

    /// Answers a call. It runs in a task of its own, to its end, even if the caller gives up.
    ///
    /// # Errors
    /// The caller gets `Config` as such, anything else as `Unavailable`.
    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes>;

    /// Takes a message from `sender`. Nothing more of it is read before this is done.
    async fn received(&self, sender: Sender, body: Bytes);

    /// The session with `peer` stands, for the first time or again. What was sent since it broke, or
    /// shortly before, is lost.
    fn connected(&self, peer: u32);

    /// No session that `peer` has begun stands any more: what it was about to bring comes no more.
    fn disconnected(&self, _peer: u32) {}

    /// The peer address of `node`, if it is a member that the driver knows of besides those of the config.
    fn address(&self, _node: u32) -> Option<String> {
        None
    }
}

/// What a driver does with the connections of its node: a [`Transport`] does it over gRPC, and a simulation in
/// its own way. Each method is as that of the transport.
#[allow(missing_docs, reason = "the transport's methods say it")]
#[async_trait]
pub trait Connections: Calls {
    fn serve(&self, handler: Arc<dyn Handler>);
    fn set_peer(&self, node: u32, address: &str) -> Result<()>;
    fn failure(&self) -> watch::Receiver<Option<Error>>;
    fn formed(&self) -> watch::Receiver<Option<Formed>>;
    fn waits_for(&self) -> Option<String>;
    fn set_members(&self, members: BTreeSet<u32>, removed: BTreeSet<u32>);
    async fn invite(&self, node: u32) -> Result<bool>;
    async fn forget(&self, node: u32) -> Result<()>;
    fn drop_peer(&self, node: u32);
    fn was_removed(&self, node: u32) -> bool;
    fn report(&self) -> Report;
    fn unreached(&self) -> BTreeMap<u32, Unreached>;
    fn peer_clocks(&self, boot: BootTime) -> Vec<u64>;
    fn local_addr(&self) -> SocketAddr;
    async fn shutdown(&self);
}

/// Of the [`Connections`] what most parts need.
#[async_trait]
pub trait Calls: fmt::Debug + Send + Sync + 'static {
    /// As [`Transport::call`].
    ///
    /// # Errors
    /// As there.
    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes>;
}

#[async_trait]
impl Connections for Transport {
    fn serve(&self, handler: Arc<dyn Handler>) {
        self.serve(handler);
    }

    fn set_peer(&self, node: u32, address: &str) -> Result<()> {
        self.set_peer(node, address)
    }

    fn failure(&self) -> watch::Receiver<Option<Error>> {
        self.failure()
    }

    fn formed(&self) -> watch::Receiver<Option<Formed>> {
        self.formed()
    }

    fn waits_for(&self) -> Option<String> {
        self.waits_for()
    }

    fn set_members(&self, members: BTreeSet<u32>, removed: BTreeSet<u32>) {
        self.set_members(members, removed);
    }

    async fn invite(&self, node: u32) -> Result<bool> {
        self.invite(node).await
    }

    async fn forget(&self, node: u32) -> Result<()> {
        self.forget(node).await
    }

    fn drop_peer(&self, node: u32) {
        self.drop_peer(node);
    }

    fn was_removed(&self, node: u32) -> bool {
        self.was_removed(node)
    }

    fn report(&self) -> Report {
        self.report()
    }

    fn unreached(&self) -> BTreeMap<u32, Unreached> {
        self.unreached()
    }

    fn peer_clocks(&self, boot: BootTime) -> Vec<u64> {
        self.peer_clocks(boot)
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr()
    }

    async fn shutdown(&self) {
        self.shutdown().await;
    }
}

#[async_trait]
impl Calls for Transport {
    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes> {
        self.call(to, kind, body, deadline).await
    }
}

/// The connections to the peers, and from them. Cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    envelope: Envelope,
    formation: Formation,
    presence: Presence,
    clocks: PeerClocks,
    cluster: Cluster,
    peers: Mutex<BTreeMap<u32, Arc<Peer>>>,
    listener: Mutex<Option<TcpListener>>,
    local_addr: SocketAddr,
    handler: Mutex<Option<Arc<dyn Handler>>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    forming: Mutex<Option<JoinHandle<()>>>,
    /// Where the tasks of the transport run, whichever thread sends.
    runtime: Handle,
    stop: watch::Sender<bool>,
    refusals: Refusals,
    callers: Arc<Callers>,
    /// How many sessions each peer has begun that stand.
    sessions: Mutex<BTreeMap<u32, usize>>,
}

impl Transport {
    /// Listens for peers, and knows those of the config. No peer is answered before
    /// [`serve`](Self::serve). All its tasks run on the runtime that this is called on.
    ///
    /// # Errors
    /// `Config` if the address cannot be listened on, or the certificates are of no use.
    pub async fn open(cluster: &Cluster, identity: &Identity, ids: PeerIds) -> Result<Self> {
        let unusable = |source| {
            let context = format!("cannot listen for peers on {}", cluster.listen);
            Error::new(ErrorKind::Config, context).with_source(source)
        };
        let listener = TcpListener::bind(&cluster.listen).await.map_err(unusable)?;
        let local_addr = listener.local_addr().map_err(unusable)?;
        let formation = Formation::new(cluster, identity, ids.clone());
        let transport = Self(Arc::new(Inner {
            formation,
            presence: Presence::default(),
            clocks: PeerClocks::default(),
            envelope: Envelope {
                cluster: cluster.name.clone(),
                node: identity.node(),
                id: identity.id(),
                ids,
                disowned: Disowned::default(),
            },
            cluster: cluster.clone(),
            peers: Mutex::default(),
            listener: Mutex::new(Some(listener)),
            local_addr,
            handler: Mutex::default(),
            accepting: Mutex::default(),
            forming: Mutex::default(),
            runtime: Handle::current(),
            stop: watch::Sender::new(false),
            refusals: Refusals::default(),
            callers: Arc::new(Callers::new(cluster.callers.0, cluster.callers.1)),
            sessions: Mutex::default(),
        }));
        if let Some(tls) = &cluster.tls {
            tls.watch(cluster.reload.clone());
        }
        for (&node, addresses) in &cluster.members {
            if node != cluster.node {
                transport.set_peer(node, &addresses.peer)?;
            }
        }
        Ok(transport)
    }

    /// Begins to answer peers, with `handler`; and to form a cluster with them, if this node belongs to none.
    pub fn serve(&self, handler: Arc<dyn Handler>) {
        *lock(&self.0.handler) = Some(handler);
        if let Some(listener) = lock(&self.0.listener).take() {
            let accepting = server::accept(self.0.clone(), listener);
            let accepting = self.0.spawn("the connections of peers", accepting);
            *lock(&self.0.accepting) = Some(accepting);
            let forming = self.0.spawn("the formation of the cluster", form(self.0.clone()));
            *lock(&self.0.forming) = Some(forming);
        }
    }

    /// The cluster that this node belongs to, once it does. Before that, the handler hears nothing.
    pub fn formed(&self) -> watch::Receiver<Option<Formed>> {
        self.0.formation.subscribe()
    }

    /// What this node waits for while it belongs to no cluster.
    pub fn waits_for(&self) -> Option<String> {
        self.0.formation.waits_for(SystemClock.now().boot)
    }

    /// The cluster was changed, and has these nodes now, whose addresses are known. Those that were `removed` are
    /// refused from now on, and told why. The others are called, since it is by their refusal that this node learns
    /// that it was removed itself.
    pub fn set_members(&self, members: BTreeSet<u32>, removed: BTreeSet<u32>) {
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

    /// Ends the connection to a node that is spoken to no more.
    pub fn drop_peer(&self, node: u32) {
        if let Some(peer) = lock(&self.0.peers).remove(&node) {
            peer.dropped();
        }
        self.0.clocks.forget(node);
    }

    /// What the wall clocks of the peers show when the boot clock of this node shows `boot`, in milliseconds since 1970,
    /// as far as they have told.
    pub fn peer_clocks(&self, boot: BootTime) -> Vec<u64> {
        self.0.clocks.at(boot)
    }

    /// Whether that node was a member once, and was removed.
    pub fn was_removed(&self, node: u32) -> bool {
        self.0.envelope.ids.was_removed(node)
    }

    /// What this node waits for to be in a cluster, which nodes run twice, and where, and the certificates with what is
    /// wrong with them.
    pub fn report(&self) -> Report {
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

    /// The peers with which no session of this node's stands.
    pub fn unreached(&self) -> BTreeMap<u32, Unreached> {
        let peers = lock(&self.0.peers);
        peers.iter().filter_map(|(node, peer)| Some((*node, peer.unreached()?))).collect()
    }

    /// Has the node at the address of `node` known as that, if it waits there to be added to a cluster: true if it
    /// did. Durable on return.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn invite(&self, node: u32) -> Result<bool> {
        let directory = self.0.formation.waiting_directory(node, SystemClock.now().boot);
        let ids = &self.0.envelope.ids;
        match directory.filter(|directory| ids.get(node) != Some(*directory)) {
            Some(directory) => ids.remember(vec![(node, directory)], vec![]).await.map(|()| true),
            None => Ok(false),
        }
    }

    /// Forgets a node that was not added after all.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn forget(&self, node: u32) -> Result<()> {
        self.drop_peer(node);
        self.0.envelope.ids.forget(node).await
    }

    /// The address really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Where `node` is from now on. That it is there already is no change.
    ///
    /// # Errors
    /// `Config` if the address cannot be used, or may not be spoken to in plaintext.
    pub fn set_peer(&self, node: u32, address: &str) -> Result<()> {
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

    /// Why this node must end, once it must. `Excluded`: a majority of the members that knew it refuses it, since
    /// they knew it under another id, or removed it; it must not take part as if nothing had happened. `Fatal`: a
    /// task that speaks with peers has panicked.
    pub fn failure(&self) -> watch::Receiver<Option<Error>> {
        self.0.envelope.disowned.failure()
    }

    /// Asks `to`, and waits for its answer, for `deadline` at most.
    ///
    /// # Errors
    /// `Unavailable` if there was none; the call may have been heard all the same. `Config` if one
    /// side refuses the other: another cluster or format, or a node that was wiped. `Invalid` if the
    /// body is too large.
    pub async fn call(
        &self,
        to: u32,
        kind: u32,
        body: impl Into<Bytes>,
        deadline: Duration,
    ) -> Result<Bytes> {
        let frame = self.0.envelope.wrap(to, kind, body.into())?;
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

    /// Sends a message to `to`, after all those sent before. If there is no session at the moment, or
    /// it is full, the message is dropped, and [`Handler::connected`] tells when there is one again.
    /// Never waits.
    pub fn send(&self, to: u32, body: impl Into<Bytes>) {
        let frame = match self.0.envelope.wrap(to, 0, body.into()) {
            Ok(frame) => frame,
            Err(error) => {
                return tracing::error!(error = %format_args!("{error:#}"), "a message is dropped");
            }
        };
        if let Ok(peer) = self.0.peer(to) {
            peer.send(&self.0, frame);
        }
    }

    /// Stops listening and speaking. Afterwards the address is free again, and the handler is not
    /// called any more, but for calls that it has not answered yet.
    pub async fn shutdown(&self) {
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

/// What to do about a cluster that is not formed.
const FORMING: &str =
    "start that node, with the same list of peers on all nodes, or mend the network between them";

/// How often a node that belongs to no cluster looks what it waits for, and logs it; the first time after a
/// little longer, since others may be about to start.
const LOOK: Duration = Duration::from_millis(500);

/// Calls the nodes that a cluster is to be formed with, until it is.
async fn form(inner: Arc<Inner>) {
    let (mut stop, mut formed) = (inner.stop.subscribe(), inner.formation.subscribe());
    if inner.formation.is_formed() {
        return;
    }
    if !inner.formation.joins() {
        for (node, _) in inner.formation.others() {
            if let Ok(peer) = inner.peer(node) {
                peer.keep_session(&inner);
            }
        }
    }
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = formed.wait_for(Option::is_some) => return,
            () = SystemClock.sleep(LOOK) => inner.formation.log(SystemClock.now().boot),
        }
    }
}

impl Inner {
    /// Runs a task without which this node would seem to be well, and not be: if it panics, the node fails.
    fn spawn(
        self: &Arc<Self>,
        task: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let inner = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = supervised(task, work).await {
                inner.envelope.disowned.fail(error);
            }
        })
    }

    /// Whether to listen to `sender`.
    fn admit(&self, handler: &dyn Handler, sender: Sender) -> Result<()> {
        handler.admit(sender)?;
        self.envelope.ids.admit(sender)
    }

    fn handler(&self) -> Result<Arc<dyn Handler>> {
        let handler = lock(&self.handler).clone();
        handler.ok_or_else(|| Error::new(ErrorKind::Unavailable, "this node is not up"))
    }

    fn peer(&self, node: u32) -> Result<Arc<Peer>> {
        lock(&self.peers).get(&node).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("the address of peer {node} is not known"))
        })
    }

    /// Node `node` has told what its wall clock shows.
    fn note_clock(&self, node: u32, wall_ms: u64) {
        self.clocks.note(node, wall_ms, SystemClock.now().boot);
    }

    /// Logs why a message was refused, unless that was logged lately.
    fn refuse(&self, reason: &str) {
        if let Some((reason, left_out)) = self.refusals.to_log(reason, SystemClock.now().boot) {
            tracing::warn!(reason, left_out, "a message on the peer port is refused");
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("local_addr", &self.0.local_addr).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod proof_test;
#[cfg(test)]
mod transport_test;
