use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use openraft::{
    OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tsoracle_core::{
    BootTime, Clock, Error, ErrorKind, Result,
    series::{self, Counter},
};
use tsoracle_replica::{Addresses, Tasks, transfer, transport::Connections};

use crate::{
    numbers::{self, Numbers},
    types::{Id, TypeConfig, Vote, peer_id},
    wire::{APPEND, INSTALL, Install, VOTE, pack, unpack},
};

// openraft gives a call up after `hard_ttl` by itself, and tries again with the next heartbeat; only what
// fails earlier shows that a node cannot be reached.

/// How long a node that cannot be reached is left alone. It must be found soon after it is back: its
/// vote may be what is missing.
const BACKOFF: Duration = Duration::from_millis(50);

/// How long it may take to install a snapshot.
const INSTALLED: Duration = Duration::from_secs(120);

/// Makes the connections to the peers, at the addresses that the membership says.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) transport: Arc<dyn Connections>,
    pub(crate) numbers: Arc<Numbers>,
    /// Whether no entry and no heartbeat is sent: who hears of a leader votes for no other node.
    pub(crate) is_silent: Arc<AtomicBool>,
    /// Numbers the states that are sent.
    pub(crate) transfers: Arc<AtomicU64>,
}

impl Network {
    pub(crate) fn new(
        tasks: Tasks,
        clock: Arc<dyn Clock>,
        transport: Arc<dyn Connections>,
        numbers: Arc<Numbers>,
    ) -> Self {
        let (is_silent, transfers) = Default::default();
        Self { tasks, clock, transport, numbers, is_silent, transfers }
    }
}

/// The connection to one peer, for one purpose.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    node: u32,
    /// Up to where its log is known to be ours, and when it confirmed that.
    matched: Option<(Option<Id>, BootTime)>,
    /// States that were sent to it.
    snapshots: Counter,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Addresses) -> Peer {
        let target = peer_id(target);
        if let Err(error) = self.transport.set_peer(target, &node.peer) {
            tracing::error!(peer = target, error = %format_args!("{error:#}"), "a peer cannot be connected to");
        }
        let snapshots = series::PEER_SNAPSHOTS.counter_of(&[&target.to_string()]);
        Peer { network: self.clone(), node: target, matched: None, snapshots }
    }
}

impl Peer {
    async fn ask<A: DeserializeOwned>(
        &self,
        kind: u32,
        message: &impl Serialize,
        deadline: Duration,
    ) -> Result<A> {
        let transport = &self.network.transport;
        unpack(&transport.call(self.node, kind, pack(message)?, deadline).await?)
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
    ) -> Result<SnapshotResponse<u64>> {
        let Network { transport, tasks, transfers, .. } = &self.network;
        let transfer = transfers.fetch_add(1, Ordering::Relaxed);
        let Snapshot { meta, snapshot } = snapshot;
        transfer::send(&**transport, tasks, self.node, transfer, snapshot.0).await?;
        self.snapshots.increment(1);
        let answer: SnapshotResponse<u64> =
            self.ask(INSTALL, &Install { vote, meta, transfer }, INSTALLED).await?;
        self.network.numbers.admit(&answer.vote, None).await?;
        Ok(answer)
    }
}

fn unreachable<E: std::error::Error>(error: Error) -> RPCError<u64, Addresses, E> {
    RPCError::Unreachable(Unreachable::new(&error))
}

impl RaftNetwork<TypeConfig> for Peer {
    async fn append_entries(
        &mut self,
        mut rpc: AppendEntriesRequest<TypeConfig>,
        option: RPCOption,
    ) -> Result<AppendEntriesResponse<u64>, RPCError<u64, Addresses, RaftError<u64>>> {
        // Whatever openraft still tries to replicate would keep its successor from being elected.
        if self.network.is_silent.load(Ordering::Acquire) {
            let context = "leadership is being handed over";
            return Err(unreachable(Error::new(ErrorKind::Unavailable, context)));
        }
        // openraft announces each commit at once, in a message of its own, though the next entries will
        // do so as well. A node that has answered just now need not hear it sooner.
        let just_now = option.hard_ttl() / 4;
        let now = self.network.clock.now().boot;
        if let Some((matched, since)) = self.matched
            && rpc.entries.is_empty()
            && rpc.prev_log_id == matched
            && now.since(since) < just_now
        {
            return Ok(AppendEntriesResponse::Success);
        }
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        rpc.leader_commit = self.network.numbers.log.announceable(rpc.leader_commit);
        let asking = async {
            let answer = self.ask(APPEND, &rpc, option.hard_ttl() * 2).await?;
            numbers::check_answer(&answer, last.as_ref())?;
            if let AppendEntriesResponse::HigherVote(vote) = &answer {
                self.network.numbers.admit(vote, None).await?;
            }
            Ok(answer)
        };
        let answer = asking.await.map_err(unreachable)?;
        self.matched = matches!(answer, AppendEntriesResponse::Success).then_some((last, now));
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Addresses, RaftError<u64>>> {
        let asking = async {
            let answer: VoteResponse<u64> = self.ask(VOTE, &rpc, option.hard_ttl() * 2).await?;
            self.network.numbers.admit(&answer.vote, None).await?;
            Ok(answer)
        };
        asking.await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        tokio::select! {
            biased;
            closed = cancel => Err(StreamingError::Closed(closed)),
            sent = self.send_snapshot(vote, snapshot) => {
                sent.map_err(|error| StreamingError::Unreachable(Unreachable::new(&error)))
            }
        }
    }

    fn backoff(&self) -> Backoff {
        Backoff::new(std::iter::repeat(BACKOFF))
    }
}
