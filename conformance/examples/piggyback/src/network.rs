use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use openraft::{
    BasicNode, OptionalSend, RaftNetwork, RaftNetworkFactory,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::types::{Raft, Snapshot, TypeConfig, Vote};

/// How long a node that cannot be reached is left alone. It must be found soon after it is back: its
/// vote may be what is missing.
const BACKOFF: Duration = Duration::from_millis(50);

/// The nodes of one process, which call each other. A service over several machines has its own here.
#[derive(Clone, Default)]
pub struct Network(Arc<Mutex<BTreeMap<u32, Raft>>>);

impl Network {
    /// Cuts a node off from the others, until it is opened again.
    pub fn disconnect(&self, node: u32) {
        self.nodes().remove(&node);
    }

    pub(crate) fn connect(&self, node: u32, raft: Raft) {
        self.nodes().insert(node, raft);
    }

    /// Has node `to` campaign.
    pub(crate) async fn campaign(&self, from: u32, to: u32) -> Result<()> {
        let raft = self.call(from, to)?;
        raft.trigger().elect().await.map_err(|error| unreachable(to).with_source(error))
    }

    /// Node `to`, as far as `from` can reach it.
    fn call(&self, from: u32, to: u32) -> Result<Raft> {
        let nodes = self.nodes();
        match nodes.get(&to) {
            Some(raft) if nodes.contains_key(&from) => Ok(raft.clone()),
            _ => Err(unreachable(to)),
        }
    }

    fn nodes(&self) -> MutexGuard<'_, BTreeMap<u32, Raft>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

fn unreachable(node: u32) -> Error {
    Error::new(ErrorKind::Unavailable, format!("node {node} cannot be reached"))
}

impl fmt::Debug for Network {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Network").field(&self.nodes().keys()).finish()
    }
}

/// Makes one node's connections to the others.
pub(crate) struct Connector {
    pub(crate) network: Network,
    pub(crate) node: u32,
}

/// The connection of one node to another.
pub(crate) struct Peer {
    network: Network,
    from: u32,
    to: u32,
}

impl RaftNetworkFactory<TypeConfig> for Connector {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, _: &BasicNode) -> Peer {
        Peer { network: self.network.clone(), from: self.node, to: node_id(target) }
    }
}

/// A node's number here, of that in raft; config has no larger ones.
pub(crate) fn node_id(node: u64) -> u32 {
    u32::try_from(node).unwrap_or(u32::MAX)
}

impl Peer {
    fn raft(&self) -> Result<Raft, Unreachable> {
        self.network.call(self.from, self.to).map_err(|error| Unreachable::new(&error))
    }
}

type Called<T> = Result<T, RPCError<u64, BasicNode, RaftError<u64>>>;

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        rpc: AppendEntriesRequest<TypeConfig>,
        _: RPCOption,
    ) -> Called<AppendEntriesResponse<u64>> {
        let answer = self.raft()?.append_entries(rpc).await;
        answer.map_err(|error| Unreachable::new(&error).into())
    }

    async fn vote(&mut self, rpc: VoteRequest<u64>, _: RPCOption) -> Called<VoteResponse<u64>> {
        self.raft()?.vote(rpc).await.map_err(|error| Unreachable::new(&error).into())
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        let raft = self.raft()?;
        tokio::select! {
            closed = cancel => Err(StreamingError::Closed(closed)),
            installed = raft.install_full_snapshot(vote, snapshot) => {
                installed.map_err(|error| Unreachable::new(&error).into())
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
