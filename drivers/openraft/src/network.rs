use std::{future::Future, sync::Arc, time::Duration};

use openraft::{
    OptionalSend, RaftNetwork, RaftNetworkFactory, Snapshot,
    error::{Fatal, RPCError, RaftError, ReplicationClosed, StreamingError, Unreachable},
    network::{Backoff, RPCOption},
    raft::{
        AppendEntriesRequest, AppendEntriesResponse, SnapshotResponse, VoteRequest, VoteResponse,
    },
};
use serde::{Serialize, de::DeserializeOwned};
use tokio::sync::mpsc;
use tsoracle_cluster::{Addresses, snapshot, transport::Transport};
use tsoracle_core::{BootTime, Clock as _, Error, Result, SystemClock};

use crate::{
    known::Known,
    log::Log,
    types::{Id, SnapshotFile, TypeConfig, Vote},
    wire::{APPEND, Part, SNAPSHOT, Told, VOTE, pack, unpack},
};

// openraft gives a call up after `hard_ttl` by itself, and tries again with the next heartbeat; only what
// fails earlier shows that nobody is there.

/// How long a node that cannot be reached is left alone. It must be found soon after it is there
/// again: its vote may be what is missing.
const BACKOFF: Duration = Duration::from_millis(50);

/// How long a part of a snapshot may take, and how long it may take to install the whole.
const PART: Duration = Duration::from_secs(5);
const INSTALL: Duration = Duration::from_secs(120);

/// Parts of a snapshot that are read ahead.
const AHEAD: usize = 2;

/// Makes the ways to the peers, at the addresses that the membership says.
#[derive(Clone, Debug)]
pub(crate) struct Network {
    pub(crate) transport: Transport,
    pub(crate) known: Arc<Known>,
    pub(crate) log: Log,
}

/// The way to one peer, for one purpose.
#[derive(Debug)]
pub(crate) struct Peer {
    network: Network,
    node: u32,
    /// Up to where its log is known to be ours, and when it said so.
    matched: Option<(Option<Id>, BootTime)>,
}

impl RaftNetworkFactory<TypeConfig> for Network {
    type Network = Peer;

    async fn new_client(&mut self, target: u64, node: &Addresses) -> Peer {
        let target = peer_id(target);
        if let Err(error) = self.transport.set_peer(target, &node.peer) {
            tracing::error!(peer = target, %error, "a peer cannot be spoken to");
        }
        Peer { network: self.clone(), node: target, matched: None }
    }
}

/// The node of that id. Ids come from config and membership, which take no larger ones.
pub(crate) fn peer_id(node: u64) -> u32 {
    u32::try_from(node).unwrap_or(u32::MAX)
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

    async fn tell<A: DeserializeOwned>(
        &self,
        kind: u32,
        message: impl Serialize,
        deadline: Duration,
    ) -> Result<A> {
        self.ask(kind, &Told { known: self.network.known.tell(), message }, deadline).await
    }

    async fn send_snapshot(
        &self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
    ) -> Result<SnapshotResponse<u64>> {
        let Snapshot { meta, snapshot } = snapshot;
        let mut chunks = read_ahead(*snapshot);
        for number in 0.. {
            let chunk = chunks.recv().await.transpose()?;
            let (is_last, deadline) = match chunk {
                Some(_) => (false, PART),
                None => (true, INSTALL),
            };
            let part = Part { vote, meta: meta.clone(), number, chunk: chunk.map(Into::into) };
            let response: SnapshotResponse<u64> = self.ask(SNAPSHOT, &part, deadline).await?;
            if is_last || response.vote > vote {
                return Ok(response);
            }
        }
        unreachable!("a snapshot has an end")
    }
}

/// Reads a snapshot in a thread that may block.
fn read_ahead(file: SnapshotFile) -> mpsc::Receiver<Result<Vec<u8>>> {
    let (chunks, read) = mpsc::channel(AHEAD);
    tokio::task::spawn_blocking(move || {
        let failed = match snapshot::load(&file.0) {
            Ok(mut all) => {
                all.find_map(|chunk| chunks.blocking_send(chunk).err().map(|gone| gone.0))
            }
            Err(error) => Some(Err(error)),
        };
        if let Some(Err(error)) = failed {
            let _ = chunks.blocking_send(Err(error));
        }
    });
    read
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
        // openraft tells each commit at once, in a message of its own, though the next entries will say
        // so as well. Who has answered just now need not hear it sooner.
        let just_now = option.hard_ttl() / 4;
        let now = SystemClock.now().boot;
        if let Some((matched, since)) = self.matched
            && rpc.entries.is_empty()
            && rpc.prev_log_id == matched
            && now.since(since) < just_now
        {
            return Ok(AppendEntriesResponse::Success);
        }
        let last = rpc.entries.last().map(|entry| entry.log_id).or(rpc.prev_log_id);
        rpc.leader_commit = self.network.log.tellable(rpc.leader_commit);
        let answer = self.tell(APPEND, rpc, option.hard_ttl() * 2).await.map_err(unreachable)?;
        self.matched = matches!(answer, AppendEntriesResponse::Success).then_some((last, now));
        Ok(answer)
    }

    async fn vote(
        &mut self,
        rpc: VoteRequest<u64>,
        option: RPCOption,
    ) -> Result<VoteResponse<u64>, RPCError<u64, Addresses, RaftError<u64>>> {
        self.tell(VOTE, rpc, option.hard_ttl() * 2).await.map_err(unreachable)
    }

    async fn full_snapshot(
        &mut self,
        vote: Vote,
        snapshot: Snapshot<TypeConfig>,
        cancel: impl Future<Output = ReplicationClosed> + OptionalSend + 'static,
        _: RPCOption,
    ) -> Result<SnapshotResponse<u64>, StreamingError<TypeConfig, Fatal<u64>>> {
        tokio::select! {
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
