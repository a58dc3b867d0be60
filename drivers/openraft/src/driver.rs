use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use openraft::{
    RaftNetworkFactory, SnapshotPolicy,
    error::RaftError,
    storage::{RaftLogStorage, RaftStateMachine},
};
use tokio::sync::{oneshot, watch};
use tsoracle_core::{
    BootTime, Clock, CommitLimits, ConsensusDriver, Effect, Error, ErrorKind, Leadership,
    Membership, NodeId, OpenContext, Outcome, Random, Reads, Report, Result, Snapshot, SystemClock,
    Version, supervised,
};
use tsoracle_replica::{
    Announcer, Cluster, Config, Formed, Identity, StoreThread, Tasks, Waiters, own_thread,
    transport::{Connections, PeerIds, Transport},
};

use crate::{
    commit,
    elections::{self, Contact},
    give_way,
    inbound::Inbound,
    leadership,
    log::Log,
    machine::StateMachine,
    members::{self, Members},
    network::Network,
    numbers::Numbers,
    removal,
    shared::Shared,
    shutdown,
    store::{self, Found},
    types::{Raft, TypeConfig},
};

/// Bounds the memory and the time of one commit. A message to a peer holds several.
const LIMITS: CommitLimits = CommitLimits { writes: 16_384, bytes: 1 << 20 };

/// A node of a cluster that replicates by Raft.
#[derive(Debug)]
pub struct OpenraftDriver {
    id: NodeId,
    pub(crate) shared: Arc<Shared>,
}

/// Opens the driver: locks the directory, verifies the state in it, listens for peers, and takes its
/// place in the cluster, or forms it.
///
/// Returns without waiting for the others. Dropping the future does not undo the opening; the lock is
/// released as soon as it has ended.
///
/// # Errors
/// `Config` for options that are wrong, or do not fit the directory, and for an address that cannot be
/// listened on; `Corrupt` if the state is damaged; `Fatal` if the disk fails.
pub async fn open(config: Config) -> Result<Arc<OpenraftDriver>> {
    open_within(config, OpenContext::default()).await
}

/// As [`open`], within a process that tells when files are to be read again.
pub(crate) async fn open_within(
    config: Config,
    context: OpenContext,
) -> Result<Arc<OpenraftDriver>> {
    let cluster = Cluster { reload: context.reload, ..config.check()? };
    own_thread::run("tsoracle-raft", move |opened| run(cluster, opened)).await
}

async fn run(cluster: Cluster, opened: oneshot::Sender<Result<Arc<OpenraftDriver>>>) {
    let driver = open_here(cluster).await;
    let shared = driver.as_ref().map(|driver| driver.shared.clone()).ok();
    // Dropped, if no caller waits for it any more, it stops.
    drop(opened.send(driver));
    if let Some(shared) = shared {
        // A caller that stops it gets the result.
        let _ = shared.lifecycle.ended().await;
    }
}

async fn open_here(cluster: Cluster) -> Result<Arc<OpenraftDriver>> {
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let (opened, now) = (cluster.clone(), clock.now().boot);
    let opening = StoreThread::start(clock.clone(), move || store::open(&opened, now));
    let (store, (identity, found)) = opening.await?;
    let started = listen(cluster, clock, store.clone(), identity, found).await;
    if started.is_err() {
        // So that the directory can be opened again at once.
        store.stop().await?;
    }
    started
}

async fn listen(
    cluster: Cluster,
    clock: Arc<dyn Clock>,
    store: StoreThread,
    identity: Identity,
    mut found: Found,
) -> Result<Arc<OpenraftDriver>> {
    let ids = PeerIds::remembered_by(&store, &identity, std::mem::take(&mut found.peers));
    let transport = Arc::new(Transport::open(&cluster, &identity, ids).await?);
    let (tasks, random) = (Tasks::here(), Random::default());
    let outside = Outside { id: identity.opener(), tasks, clock, random, transport };
    Ok(Arc::new(start(cluster, store, found, outside, |parts| parts).await?))
}

/// What a node has from outside.
pub(crate) struct Outside {
    pub(crate) id: NodeId,
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) transport: Arc<dyn Connections>,
}

/// What raft is given of a node.
pub(crate) type Parts<N = Network, L = Log, M = StateMachine> = (N, L, M);

/// Starts a node over its store. What raft is given of it is as `fit` makes it.
pub(crate) async fn start<N, L, M>(
    cluster: Cluster,
    store: StoreThread,
    found: Found,
    outside: Outside,
    fit: impl FnOnce(Parts) -> Parts<N, L, M>,
) -> Result<OpenraftDriver>
where
    N: RaftNetworkFactory<TypeConfig>,
    L: RaftLogStorage<TypeConfig>,
    M: RaftStateMachine<TypeConfig>,
{
    let Outside { id, tasks, clock, random, transport } = outside;
    let Found { last, applied, inbox, .. } = found;
    let waiters = Arc::<Waiters>::default();
    let (node, own) = (cluster.node.into(), store.clone());
    let log = Log::open(node, own, waiters.clone(), last, applied).await?;
    let numbers =
        Arc::new(Numbers::new(cluster.node, log.clone(), transport.clone(), clock.clone()));
    let network = Network::new(tasks.clone(), clock.clone(), transport.clone(), numbers.clone());
    let is_silent = network.is_silent.clone();
    let machine = StateMachine::new(store.clone(), waiters.clone(), clock.clone(), log.clone());
    let committed = machine.committed.clone();
    let config = Arc::new(raft_config(&cluster)?);
    let (network, log, machine) = fit((network, log, machine));
    let raft = Raft::new(cluster.node.into(), config, network, log, machine).await;
    let raft = raft.map_err(|error| fatal("raft cannot be started", &error))?;
    let _ = numbers.raft.set(raft.clone());
    if let Some(purged) = applied.and_then(|last| last.index.checked_sub(cluster.log_keep)) {
        purge(&raft, purged).await?;
    }
    let contact = Arc::new(Contact::new(cluster.election, clock.clone()));
    let removed = Arc::<watch::Sender<bool>>::default();
    let inbound = Inbound {
        raft: raft.clone(),
        contact: contact.clone(),
        inbox,
        tasks: tasks.clone(),
        numbers,
        removed: removed.clone(),
    };
    transport.serve(Arc::new(inbound));
    let (announcer, leadership) = Announcer::new();
    let shared = Arc::new(Shared {
        elected: Contact::new(cluster.election, clock.clone()),
        tasks,
        clock,
        random,
        cluster,
        store,
        transport,
        raft,
        waiters,
        contact,
        leadership,
        lifecycle: Default::default(),
        leaving: Default::default(),
        is_silent,
        transfers: watch::Sender::new(0),
        changing: Default::default(),
        committed,
        removed,
    });
    begin(&shared).await?;
    shared.tasks.spawn(leadership::follow(shared.clone(), announcer));
    supervise(&shared, "elections", elections::run(shared.clone()));
    supervise(&shared, "the removal of this node", removal::follow(shared.clone()));
    Ok(OpenraftDriver { id, shared })
}

/// Has the state take the place of the log up to there from the start, or that would never be purged where starts
/// are frequent.
async fn purge(raft: &Raft, purged: u64) -> Result<()> {
    let purging = raft.trigger().purge_log(purged).await;
    purging.map_err(|error| fatal("raft cannot be started", &error))
}

/// Runs a task that lasts as long as the node. If it panics, the node ends: without it the cluster might never have
/// a leader again, though every process is alive.
fn supervise(
    shared: &Arc<Shared>,
    what: &'static str,
    task: impl Future<Output = ()> + Send + 'static,
) {
    let own = shared.clone();
    shared.tasks.spawn(async move {
        if let Err(error) = supervised(what, task).await {
            own.lifecycle.fail(error);
            // The announcement of who leads ends with raft.
            let _ = own.raft.shutdown().await;
        }
    });
}

/// Has raft begin, if it has not: with the nodes that the cluster was formed of, once it is. A node that is alone
/// campaigns at once.
async fn begin(shared: &Arc<Shared>) -> Result<()> {
    let raft = &shared.raft;
    let is_initialized = raft.is_initialized().await;
    if is_initialized.map_err(|error| fatal("raft cannot be started", &error))? {
        let membership = raft.metrics().borrow().membership_config.clone();
        if membership.membership().voter_ids().eq([shared.node()]) {
            let elected = raft.trigger().elect().await;
            elected.map_err(|error| fatal("raft cannot be started", &error))?;
        }
        return Ok(());
    }
    // One that joins gets its members from the leader.
    if shared.cluster.join {
        return Ok(());
    }
    let mut formed = shared.transport.formed();
    let found = formed.borrow().clone();
    if let Some(formed) = found {
        return initialize(shared, formed).await;
    }
    let own = shared.clone();
    supervise(shared, "the formation of the cluster", async move {
        let formed = tokio::select! {
            biased;
            () = own.lifecycle.stopping() => return,
            formed = formed.wait_for(Option::is_some) => {
                formed.ok().and_then(|formed| formed.clone())
            }
        };
        let Some(formed) = formed else { return };
        if let Err(error) = initialize(&own, formed).await {
            own.lifecycle.fail(error);
            // The announcement of who leads ends with raft.
            let _ = own.raft.shutdown().await;
        }
    });
    Ok(())
}

/// Every node does so with the same members, and the first that is elected leads.
async fn initialize(shared: &Shared, formed: Formed) -> Result<()> {
    // A directory of before there were ids does not know of what its cluster was formed.
    let nodes = match formed.nodes.is_empty() {
        true => &shared.cluster.members,
        false => &formed.nodes,
    };
    let members = nodes.iter().map(|(&node, at)| (u64::from(node), at.clone()));
    let members: std::collections::BTreeMap<_, _> = members.collect();
    match shared.raft.initialize(members).await {
        Ok(()) => Ok(()),
        // Another node was faster.
        Err(RaftError::APIError(error)) => {
            tracing::debug!(error = %format_args!("{error:#}"), "raft has begun meanwhile");
            Ok(())
        }
        Err(RaftError::Fatal(error)) => Err(fatal("raft cannot be started", &error)),
    }
}

fn raft_config(cluster: &Cluster) -> Result<openraft::Config> {
    let millis = |duration: Duration| u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    // A node that has heard a leader within `max` votes for no other; `min` is how long a vote may take.
    // When to campaign is decided in `elections`.
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
        Error::setting(format!("heartbeat and election cannot be used: {error:#}"))
    })
}

impl OpenraftDriver {
    /// The address on which this node listens for its peers.
    pub fn peer_addr(&self) -> std::net::SocketAddr {
        self.shared.transport.local_addr()
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

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.shared.lifecycle.check()?;
        self.shared.store.read(wanted).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        commit::commit(&self.shared, base, effect).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.shared.store.evidence().seen(version)
    }

    fn peer_clocks(&self, boot: BootTime) -> Vec<u64> {
        self.shared.transport.peer_clocks(boot)
    }

    async fn resign(&self, claim: u64) {
        give_way::resign(&self.shared, claim).await;
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        Some(Arc::new(Members(self.shared.clone())))
    }

    fn report(&self, now: BootTime) -> Report {
        Report {
            members: members::report(&self.shared),
            writes: Some(self.shared.store.writes().summary(now)),
            ..self.shared.transport.report()
        }
    }

    async fn shutdown(&self) -> Result<()> {
        shutdown::shutdown(&self.shared).await
    }
}

/// Without a shutdown, the node goes on until it is dropped, and is then stopped without handing over.
impl Drop for OpenraftDriver {
    fn drop(&mut self) {
        if self.shared.lifecycle.is_first_to_stop() {
            let shared = self.shared.clone();
            self.shared.tasks.spawn(async move { shutdown::stop(&shared).await });
        }
    }
}

fn fatal(context: &str, error: &dyn std::error::Error) -> Error {
    Error::new(ErrorKind::Fatal, format!("{context}: {error:#}"))
}
