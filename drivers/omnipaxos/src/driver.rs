//! The driver: what callers hold of a node.

use std::{collections::BTreeMap, sync::Arc};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
};
use tsoracle_core::{
    BootTime, Clock, CommitLimits, ConsensusDriver, Effect, Error, ErrorKind, Latency, Leadership,
    MemberReport, NodeId, OpenContext, Outcome, Reads, Report, Result, Snapshot, SystemClock,
    Version, supervised,
};
use tsoracle_replica::{
    Addresses, Announcer, Cluster, Config, Evidence, Identity, Lifecycle, LogEntry, Replica,
    Waiters, own_thread,
    transport::{Connections as _, PeerIds, Sender, Transport},
};
use tsoracle_store::Store;

use crate::{
    entry::Commit,
    inbound::{self, Event, Inbound, Listener, Progress},
    jobs::Job,
    log::Log,
    node::Node,
    peers::Peers,
    runner::{self, Runner},
};

/// The name in config strings, and of whom a directory is.
pub(crate) const NAME: &str = "omnipaxos";

/// How many calls, and how many messages of peers, may wait for the node's thread.
pub(crate) const QUEUE: usize = 1_024;

/// Bounds the size of a log entry.
const LIMITS: CommitLimits = CommitLimits { writes: 16_384, bytes: 1 << 20 };

/// OmniPaxos has a list with a place for each id up to the highest.
const HIGHEST_ID: u32 = 1_024;

/// A node of a cluster that agrees by OmniPaxos.
#[derive(Debug)]
pub struct OmnipaxosDriver {
    node: NodeId,
    clock: Arc<dyn Clock>,
    leadership: watch::Receiver<Leadership>,
    evidence: Evidence,
    waiters: Arc<Waiters>,
    jobs: mpsc::Sender<Job>,
    pub(crate) lifecycle: Arc<Lifecycle>,
    /// Who is heard; none in a simulation.
    transport: Option<Transport>,
    own: u32,
    cluster: BTreeMap<u32, Addresses>,
    progress: Arc<Progress>,
    writes: Arc<Latency>,
}

/// Opens the driver: locks the directory, reads the log, and begins to speak to the peers. Whether
/// they answer is not waited for.
///
/// Dropping the future does not undo the opening; the lock is released as soon as it has ended.
///
/// # Errors
/// `Config` if the options do not make a cluster, or if the directory is in use, cannot be used, or
/// is another driver's, node's or cluster's, or an earlier release's; `Corrupt` if the state or the log
/// is damaged, missing although it was there once, or of an unknown format; `Fatal` if the disk fails.
pub async fn open(config: Config) -> Result<Arc<OmnipaxosDriver>> {
    open_within(config, OpenContext::default()).await
}

/// As [`open`], within a process that tells when files are to be read again.
pub(crate) async fn open_within(
    config: Config,
    context: OpenContext,
) -> Result<Arc<OmnipaxosDriver>> {
    let cluster = Cluster { reload: context.reload, ..check(config)? };
    // Made on the thread, which it never leaves.
    let driver = own_thread::run("tsoracle-paxos", move |started| async move {
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (events, heard) = mpsc::channel(QUEUE);
        let (driver, runner) = match start(&cluster, events, jobs).await {
            Ok(opened) => opened,
            // Everything is released by now: it may be opened again at once.
            Err(error) => return drop(started.send(Err(error))),
        };
        let lifecycle = driver.lifecycle.clone();
        // If no caller waits for the driver any more, the queue is closed as well.
        let _ = started.send(Ok(driver));
        let ended = supervised(runner::TASK, runner.run(queue, heard)).await;
        lifecycle.end(ended.unwrap_or_else(|panic| {
            lifecycle.fail(panic.clone());
            Err(panic)
        }));
    });
    Ok(Arc::new(driver.await?))
}

/// What the config shows without the directory.
pub(crate) fn check(config: Config) -> Result<Cluster> {
    let refused = |context: &str| Err(Error::setting(context));
    // Addresses are not stored: nodes may see each other at different ones.
    let cluster = Cluster { compares_addresses: false, ..config.check()? };
    if cluster.join {
        return refused(
            "join=true is of no use here: the nodes of an omnipaxos cluster are those in `peers`, \
             and stay; the openraft driver takes in nodes at run time",
        );
    }
    if cluster.members.len() < 2 {
        return refused(
            "one peer is no cluster: OmniPaxos needs two nodes at least, and three to survive the \
             loss of one. Name three, or use the file driver",
        );
    }
    if let Some(id) = cluster.members.keys().find(|id| **id > HIGHEST_ID) {
        return refused(&format!("peer id {id} is too high; {HIGHEST_ID} is the most"));
    }
    Ok(cluster)
}

async fn start(
    cluster: &Cluster,
    events: mpsc::Sender<Event>,
    jobs: mpsc::Sender<Job>,
) -> Result<(OmnipaxosDriver, Runner)> {
    let store = Store::open(&cluster.path, cluster.store)?;
    let identity = Identity::open(&store, NAME, cluster, Log::is_used)?;
    identity.bind_members(&store, cluster)?;
    let own = Sender { node: identity.node(), id: identity.id() };
    let known = PeerIds::stored(&store)?;
    let ids = PeerIds::new(own, known, inbound::remember(events.clone()));
    let transport = Transport::open(cluster, &identity, ids).await?;
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let started = (identity.opener(), identity.starts());
    let (driver, node) = connect(cluster, store, started, clock.clone(), jobs)?;
    let inbound = Inbound::new(cluster, events.clone(), node.own_progress.clone(), clock)?;
    transport.serve(Arc::new(Listener { inbound, peers: Arc::new(transport.clone()) }));
    let driver = OmnipaxosDriver { transport: Some(transport.clone()), ..driver };
    let lifecycle = driver.lifecycle.clone();
    Ok((driver, Runner::new(node, transport, events, lifecycle)))
}

/// A node over a store, and the driver over the node, which has started so often under that id.
pub(crate) fn connect(
    cluster: &Cluster,
    store: Store,
    (id, starts): (NodeId, u64),
    clock: Arc<dyn Clock>,
    jobs: mpsc::Sender<Job>,
) -> Result<(OmnipaxosDriver, Node)> {
    let now = clock.now().boot;
    let replica = Replica::open(store, now)?;
    let (announcer, leadership) = Announcer::new();
    let (evidence, writes) = (replica.evidence(), replica.writes());
    let (waiters, lifecycle) = (Arc::<Waiters>::default(), Arc::<Lifecycle>::default());
    let peers = Peers::new(cluster, starts);
    let node = Node::new(cluster, replica, peers, waiters.clone(), announcer, now)?;
    let driver = OmnipaxosDriver {
        node: id,
        clock,
        leadership,
        evidence,
        waiters,
        jobs,
        lifecycle,
        transport: None,
        own: cluster.node,
        cluster: cluster.members.clone(),
        progress: node.own_progress.clone(),
        writes,
    };
    Ok((driver, node))
}

impl OmnipaxosDriver {
    /// The nodes of the cluster as this one sees them.
    fn members(&self) -> Vec<MemberReport> {
        let mut unreached = self.transport.as_ref().map(Transport::unreached).unwrap_or_default();
        let (lags, leadership) = (self.progress.lags(), self.leadership.borrow().clone());
        let leads = |id: u32, at: &Addresses| match &leadership {
            Leadership::Leader { .. } => id == self.own,
            Leadership::Follower { leader: Some(leader) } => leader.endpoint == at.service,
            _ => false,
        };
        let members = self.cluster.iter().map(|(&id, at)| MemberReport {
            id: id.into(),
            peer: at.peer.clone(),
            service: at.service.clone(),
            votes: true,
            is_own: id == self.own,
            leads: leads(id, at),
            unreached: unreached.remove(&id).filter(|_| id != self.own),
            lag: lags.get(&id).copied(),
        });
        members.collect()
    }

    /// A place in the queue. Calls take effect in the order in which they were made: a task whose turn is
    /// over would not even be queued, while one that called later may have its turn now.
    async fn place(&self) -> Result<mpsc::Permit<'_, Job>> {
        unconstrained(self.jobs.reserve()).await.map_err(|_| self.lifecycle.gone())
    }
}

#[async_trait]
impl ConsensusDriver for OmnipaxosDriver {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let (reply, answer) = oneshot::channel();
        self.place().await?.send(Job::Read { wanted: wanted.clone(), reply });
        answer.await.map_err(|_| self.lifecycle.gone())?
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let commit = Commit::new(&LogEntry::new(base, effect)?)?;
        let (place, next) = (self.place().await?, commit.next());
        let (mut answer, is_first) = self.waiters.wait(next, self.clock.now().boot);
        if is_first {
            place.send(Job::Commit(commit));
        }
        let reason = "the node ended before it answered";
        tokio::select! {
            biased;
            _ = self.jobs.closed() => {
                // What the node has not taken from its queue by now, it never will.
                self.waiters.give_up(&next, reason);
            }
            answered = &mut answer => {
                return answered.map_err(|_| Error::new(ErrorKind::Uncertain, reason))?;
            }
        }
        answer.await.map_err(|_| Error::new(ErrorKind::Uncertain, reason))?
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.evidence.seen(version)
    }

    fn peer_clocks(&self, boot: BootTime) -> Vec<u64> {
        self.transport.as_ref().map_or_else(Vec::new, |transport| transport.peer_clocks(boot))
    }

    async fn resign(&self, claim: u64) {
        if let Ok(place) = self.place().await {
            place.send(Job::Resign { claim });
        }
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    /// Its nodes are those of the config, and stay.
    fn report(&self, now: BootTime) -> Report {
        let report = self.transport.as_ref().map(Transport::report).unwrap_or_default();
        Report { members: self.members(), writes: Some(self.writes.summary(now)), ..report }
    }

    async fn shutdown(&self) -> Result<()> {
        // A closed queue means that the node has ended already.
        let _ = self.jobs.send(Job::Stop).await;
        self.lifecycle.ended().await
    }
}
