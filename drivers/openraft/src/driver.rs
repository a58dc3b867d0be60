use std::{
    sync::{Arc, atomic::AtomicBool},
    thread,
    time::Duration,
};

use async_trait::async_trait;
use openraft::{SnapshotPolicy, error::CheckIsLeaderError, error::RaftError};
use tokio::{
    runtime::{Builder, Handle},
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
    time::timeout,
};
use tsoracle_cluster::{
    Cluster, Config, Identity,
    transport::{Sender, Transport},
};
use tsoracle_core::{
    Clock as _, CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership,
    Membership, NodeId, Result, SystemClock,
    state::{Answer, Command, Query},
};

use crate::{
    elections::{self, Contact, Standing},
    ending,
    keeper::{Keeper, Opened},
    known::Known,
    leading,
    log::Log,
    machine::StateMachine,
    members::Members,
    network::Network,
    peers::Peers,
    proposer::{self, Proposal},
    shared::Shared,
    types::Raft,
    waiting::Waiting,
};

/// How many calls may wait to be put into raft. The engine has a few under way at once.
const QUEUE: usize = 64;

/// Bounds the memory and the time of one commit. A message to a peer holds several.
const LIMITS: CommitLimits = CommitLimits { commands: 4_096, bytes: 1 << 20 };

/// How long a query may wait for a majority.
const READ_DEADLINE: Duration = Duration::from_secs(2);

/// How long to wait before a majority is asked again.
const READ_PAUSE: Duration = Duration::from_millis(10);

/// A node of a cluster that replicates by Raft.
#[derive(Debug)]
pub struct OpenraftDriver {
    id: NodeId,
    proposals: mpsc::Sender<Proposal>,
    shared: Arc<Shared>,
}

/// Opens the driver: locks the directory, verifies the state in it, listens for peers, and takes its
/// place in the cluster, or forms it.
///
/// Returns without waiting for the others. Dropping the future does not undo the opening; the lock is
/// let go as soon as it has ended.
///
/// # Errors
/// `Config` for options that are wrong, or do not fit the directory, and for an address that cannot be
/// listened on; `Corrupt` if the state is damaged; `Fatal` if the disk fails.
pub async fn open(config: Config) -> Result<Arc<OpenraftDriver>> {
    let cluster = config.check()?;
    let (opened, opening) = oneshot::channel();
    thread::Builder::new()
        .name("tsoracle-raft".into())
        .spawn(move || run(cluster, opened))
        .map_err(|source| fatal("the node's thread cannot be started", &source))?;
    opening.await.map_err(|error| fatal("the node's thread ended while it started", &error))?
}

/// The thread of a node: raft, and the ways to its peers. A message and a commit pass through many tasks
/// of these, which wake each other at no cost where they share a thread.
fn run(cluster: Cluster, opened: oneshot::Sender<Result<Arc<OpenraftDriver>>>) {
    let runtime = Builder::new_current_thread().enable_all().build();
    let runtime = match runtime {
        Ok(runtime) => runtime,
        Err(error) => {
            return drop(opened.send(Err(fatal("the node's thread cannot work", &error))));
        }
    };
    runtime.block_on(async move {
        let driver = open_here(cluster).await;
        let ended = driver.as_ref().map(|driver| driver.shared.ended.subscribe()).ok();
        // Dropped, if nobody waits for it any more, it stops.
        drop(opened.send(driver));
        if let Some(mut ended) = ended {
            let _ = ended.wait_for(Option::is_some).await;
        }
    });
}

async fn open_here(cluster: Cluster) -> Result<Arc<OpenraftDriver>> {
    let waiting = Arc::new(Waiting::default());
    let (keeper, identity, opened) = Keeper::open(&cluster, waiting.clone()).await?;
    let started = start(cluster, keeper.clone(), identity, opened, waiting).await;
    if started.is_err() {
        // So that the directory can be opened again at once.
        keeper.stop().await?;
    }
    started
}

async fn start(
    cluster: Cluster,
    keeper: Keeper,
    identity: Identity,
    opened: Opened,
    waiting: Arc<Waiting>,
) -> Result<Arc<OpenraftDriver>> {
    let transport = Transport::open(&cluster, &identity).await?;
    let own = Sender { node: identity.node(), id: identity.id() };
    let known = Known::new(own, opened.known, keeper.clone(), transport.clone());
    let log = Log::open(cluster.node.into(), keeper.clone(), waiting.clone(), opened.last).await?;
    let to_peers = transport.clone();
    let network = Network { transport: to_peers, known: known.clone(), log: log.clone() };
    let machine = StateMachine::new(keeper.clone());
    let config = Arc::new(raft_config(&cluster)?);
    let raft = Raft::new(cluster.node.into(), config, network, log, machine).await;
    let raft = raft.map_err(|error| fatal("raft cannot be started", &error))?;
    let contact = Arc::new(Contact::default());
    let standing =
        Standing { raft: raft.clone(), contact: contact.clone(), election: cluster.election };
    let peers = Peers {
        raft: raft.clone(),
        standing,
        keeper: keeper.clone(),
        known,
        incoming: Default::default(),
    };
    transport.serve(Arc::new(peers));
    let (says, leadership) = watch::channel(Leadership::Unknown);
    let shared = Arc::new(Shared {
        runtime: Handle::current(),
        cluster,
        keeper,
        transport,
        raft,
        waiting,
        contact,
        elected: Contact::default(),
        leadership,
        stopping: watch::Sender::new(false),
        is_told_to_stop: AtomicBool::new(false),
        leaving: watch::Sender::new(0),
        failure: Default::default(),
        changing: Default::default(),
        ended: watch::Sender::new(None),
    });
    form(&shared).await?;
    let (proposals, queue) = mpsc::channel(QUEUE);
    let id = identity.id();
    tokio::spawn(leading::follow(shared.clone(), says, identity.claim()));
    tokio::spawn(elections::run(shared.clone()));
    tokio::spawn(proposer::run(shared.clone(), identity, queue));
    Ok(Arc::new(OpenraftDriver { id, proposals, shared }))
}

/// Forms the cluster, if this node was never part of one. Every node does so with the same members,
/// and whoever is elected first leads. One that is alone stands for election at once.
async fn form(shared: &Shared) -> Result<()> {
    let failed = |error: &dyn std::error::Error| fatal("the cluster cannot be formed", error);
    let raft = &shared.raft;
    if raft.is_initialized().await.map_err(|error| failed(&error))? {
        let membership = raft.metrics().borrow().membership_config.clone();
        if membership.membership().voter_ids().eq([shared.node()]) {
            raft.trigger().elect().await.map_err(|error| failed(&error))?;
        }
        return Ok(());
    }
    if shared.cluster.join {
        return Ok(());
    }
    let members = shared.cluster.members.iter().map(|(&node, at)| (u64::from(node), at.clone()));
    let members: std::collections::BTreeMap<_, _> = members.collect();
    match raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Somebody else was faster.
        Err(RaftError::APIError(error)) => {
            tracing::debug!(%error, "the cluster was formed meanwhile");
            Ok(())
        }
        Err(RaftError::Fatal(error)) => Err(failed(&error)),
    }
}

fn raft_config(cluster: &Cluster) -> Result<openraft::Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // Whoever has heard a leader within `max` votes for nobody else; `min` is how long a vote may take.
    // When to stand for election is decided in `elections`.
    let config = openraft::Config {
        cluster_name: cluster.name.clone(),
        heartbeat_interval: millis(cluster.heartbeat),
        enable_elect: false,
        election_timeout_min: millis(elections::vote_deadline(cluster)),
        election_timeout_max: millis(elections::vote_lease(cluster)),
        snapshot_policy: SnapshotPolicy::LogsSinceLast(cluster.snapshot_every),
        max_in_snapshot_log_to_keep: cluster.log_keep,
        replication_lag_threshold: cluster.snapshot_every.saturating_mul(2),
        ..openraft::Config::default()
    };
    config.validate().map_err(|error| {
        Error::new(ErrorKind::Config, format!("heartbeat and election cannot be used: {error}"))
    })
}

impl OpenraftDriver {
    /// The address on which this node listens for its peers.
    pub fn peer_addr(&self) -> std::net::SocketAddr {
        self.shared.transport.local_addr()
    }

    /// Makes sure that this node leads, and that its state holds all that was committed.
    async fn catch_up(&self) -> Result<()> {
        loop {
            match self.shared.raft.ensure_linearizable().await {
                Ok(_) => return Ok(()),
                Err(RaftError::APIError(CheckIsLeaderError::ForwardToLeader(forward))) => {
                    return Err(self.shared.forwarded(&forward));
                }
                Err(RaftError::APIError(CheckIsLeaderError::QuorumNotEnough(error))) => {
                    tracing::debug!(%error, "no majority answers");
                }
                Err(RaftError::Fatal(_)) => return Err(self.shared.gone()),
            }
            SystemClock.sleep(READ_PAUSE).await;
        }
    }
}

#[async_trait]
impl ConsensusDriver for OpenraftDriver {
    fn node(&self) -> NodeId {
        self.id
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let (reply, answer) = oneshot::channel();
        let proposal = Proposal { epoch, commands, reply };
        // Calls take effect in the order in which they were made. A task whose turn is over would not
        // even be queued, while one that called later may have its turn now.
        let sent = unconstrained(self.proposals.send(proposal)).await;
        sent.map_err(|_| self.shared.gone())?;
        answer.await.map_err(|_| self.shared.gone())?
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        let caught_up = timeout(READ_DEADLINE, self.catch_up()).await;
        caught_up.map_err(|_| {
            let context = "no majority of the nodes answers, so this one may not lead any more";
            Error::new(ErrorKind::Unavailable, context)
        })??;
        self.shared.keeper.answer(query).await
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        Some(Arc::new(Members(self.shared.clone())))
    }

    async fn shutdown(&self) -> Result<()> {
        ending::shutdown(&self.shared).await
    }
}

/// Without a shutdown, the node goes on until it is dropped, and is then stopped without handing over.
impl Drop for OpenraftDriver {
    fn drop(&mut self) {
        let shared = self.shared.clone();
        if !shared.is_stopping() {
            self.shared.runtime.spawn(async move { ending::stop(&shared).await });
        }
    }
}

fn fatal(context: &str, error: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::Fatal, format!("{context}: {error}"))
}
