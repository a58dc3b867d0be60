//! A cluster in one process: nodes over one state in memory, with faults and pauses on demand.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::{Semaphore, watch};
use tsoracle_core::{
    BootTime, Clock, CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Granted,
    Leadership, ManualClock, Membership, MemoryStore, NodeId, Oracle, OracleOptions, Phase, Reject,
    Result, SeqKey, SeqRequest, SeqStore,
    state::{Answer, Command, Query, ReignRecord, Reply, answer, apply},
};

pub(crate) const NOON_MS: u64 = 1_800_000_000_000;
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// The state all nodes share, and what was committed to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    store: MemoryStore,
    epoch: u128,
    /// Every commit that took effect.
    log: Vec<Vec<Step>>,
}

/// What a command is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Fence,
    Open,
    Extend,
    Release,
    Advance,
    Lease,
    Other,
}

/// What goes wrong with one commit.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It fails, and nothing is committed.
    Refuse(ErrorKind),
    /// It is committed, but the caller is told that it failed.
    LoseReply(ErrorKind),
    /// It waits before it is committed.
    HoldBefore(Gate),
    /// It is committed, but the answer waits.
    HoldAfter(Gate),
    Panic,
    /// It is committed, but the caller is told something else.
    Lie(fn(&mut Vec<Result<Reply, Reject>>)),
}

/// What goes wrong with every query.
#[derive(Clone, Copy, Debug)]
pub(crate) enum BadRead {
    Hang,
    Panic,
    Lie(fn(Answer) -> Answer),
}

/// Something waits here until let through.
#[derive(Clone, Debug)]
pub(crate) struct Gate {
    reached: Arc<Semaphore>,
    open: Arc<Semaphore>,
}

impl Gate {
    pub(crate) fn new() -> Self {
        Self { reached: Arc::new(Semaphore::new(0)), open: Arc::new(Semaphore::new(0)) }
    }

    /// Returns once something waits here.
    pub(crate) async fn reached(&self) {
        self.reached.acquire().await.unwrap().forget();
    }

    pub(crate) fn open(&self) {
        self.open.add_permits(1);
    }

    async fn pass(&self) {
        self.reached.add_permits(1);
        self.open.acquire().await.unwrap().forget();
    }
}

/// One node: a driver, its clock, and the oracle over it.
#[derive(Clone, Debug)]
pub(crate) struct Node {
    pub(crate) driver: Arc<Driver>,
    pub(crate) clock: ManualClock,
    pub(crate) oracle: Oracle,
}

#[derive(Debug)]
pub(crate) struct Driver {
    cluster: Cluster,
    id: NodeId,
    leadership: Mutex<Option<watch::Sender<Leadership>>>,
    faults: Mutex<VecDeque<(Step, Fault)>>,
    commits_of_nothing: AtomicUsize,
    pub(crate) bad_read: Mutex<Option<BadRead>>,
    pub(crate) limits: Mutex<CommitLimits>,
    pub(crate) replaced_seen: Mutex<Option<BootTime>>,
    pub(crate) membership: Mutex<Option<Arc<dyn Membership>>>,
}

impl Cluster {
    /// A node with the clock given and default options.
    pub(crate) fn node(&self, id: u128, clock: &ManualClock) -> Node {
        self.node_with(id, clock, |_| ())
    }

    pub(crate) fn node_with(
        &self,
        id: u128,
        clock: &ManualClock,
        change: impl FnOnce(&mut OracleOptions),
    ) -> Node {
        let driver = Arc::new(Driver {
            cluster: self.clone(),
            id: NodeId(id),
            leadership: Mutex::new(Some(watch::Sender::new(Leadership::Unknown))),
            faults: Mutex::default(),
            commits_of_nothing: AtomicUsize::new(0),
            bad_read: Mutex::default(),
            limits: Mutex::new(CommitLimits { commands: 1_000, bytes: 1 << 20 }),
            replaced_seen: Mutex::default(),
            membership: Mutex::default(),
        });
        let mut options =
            OracleOptions { clock: Arc::new(clock.clone()), lease: LEASE, ..Default::default() };
        change(&mut options);
        let oracle = Oracle::start(driver.clone(), options).unwrap();
        Node { driver, clock: clock.clone(), oracle }
    }

    /// A cluster whose one node serves already.
    pub(crate) async fn serving() -> (Self, Node) {
        let cluster = Self::default();
        let node = cluster.node(1, &ManualClock::new(NOON_MS));
        node.elect();
        node.serving().await;
        (cluster, node)
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap()
    }

    /// Every commit that took effect, as what its commands were about.
    pub(crate) fn log(&self) -> Vec<Vec<Step>> {
        self.lock().log.clone()
    }

    pub(crate) fn count(&self, step: Step) -> usize {
        self.log().iter().flatten().filter(|&&logged| logged == step).count()
    }

    pub(crate) fn record(&self) -> ReignRecord {
        match answer(&self.lock().store, &Query::Reign).unwrap() {
            Answer::Reign(Some(record)) => record,
            other => panic!("{other:?}"),
        }
    }

    /// The next value of a sequence.
    pub(crate) fn next(&self, name: &str) -> u64 {
        let query = Query::Sequence(SeqKey::new(name).unwrap());
        match answer(&self.lock().store, &query).unwrap() {
            Answer::Sequence(next) => next.unwrap_or(0),
            other => panic!("{other:?}"),
        }
    }

    fn commit(&self, epoch: Epoch, commands: &[Command]) -> Vec<Result<Reply, Reject>> {
        let mut inner = self.lock();
        let (results, effect) = apply(&inner.store, epoch, commands).unwrap();
        inner.store.commit(effect).unwrap();
        let accepted = commands.iter().zip(&results).filter(|(_, result)| result.is_ok());
        let steps: Vec<_> = accepted.map(|(command, _)| step(command)).collect();
        if !steps.is_empty() {
            inner.log.push(steps);
        }
        results
    }
}

impl Node {
    /// Makes this node the leader, under the next epoch. The others are not told.
    pub(crate) fn elect(&self) -> Epoch {
        let epoch = {
            let mut inner = self.driver.cluster.lock();
            inner.epoch += 1;
            Epoch(inner.epoch)
        };
        self.set(Leadership::Leader { epoch });
        epoch
    }

    /// Claims leadership under this epoch, whatever was claimed before.
    pub(crate) fn claim(&self, epoch: u128) {
        self.set(Leadership::Leader { epoch: Epoch(epoch) });
    }

    /// Every query goes wrong like this from now on.
    pub(crate) fn read_badly(&self, how: BadRead) {
        *self.driver.bad_read.lock().unwrap() = Some(how);
    }

    pub(crate) fn set(&self, leadership: Leadership) {
        self.driver.leadership.lock().unwrap().as_ref().unwrap().send_replace(leadership);
    }

    /// Ends the leadership channel.
    pub(crate) fn close_leadership(&self) {
        self.driver.leadership.lock().unwrap().take();
    }

    /// The next commit with a command of this kind meets this fault.
    pub(crate) fn fault(&self, step: Step, fault: Fault) {
        self.driver.faults.lock().unwrap().push_back((step, fault));
    }

    /// The next commit with a command of this kind waits before it takes effect.
    pub(crate) fn hold(&self, step: Step) -> Gate {
        let gate = Gate::new();
        self.fault(step, Fault::HoldBefore(gate.clone()));
        gate
    }

    pub(crate) async fn serving(&self) {
        self.phase(|phase| matches!(phase, Phase::Serving { .. })).await;
    }

    pub(crate) async fn failed(&self) -> String {
        match self.phase(|phase| matches!(phase, Phase::Failed(_))).await {
            Phase::Failed(reason) => reason.to_string(),
            _ => unreachable!("only failures were waited for"),
        }
    }

    pub(crate) async fn phase(&self, is: impl Fn(&Phase) -> bool) -> Phase {
        self.oracle.phase().wait_for(|phase| is(phase)).await.unwrap().clone()
    }

    /// One timestamp, which must be there at once.
    pub(crate) fn grant(&self) -> Granted {
        self.oracle.try_get_ts(1).unwrap().expect("this node serves")
    }

    pub(crate) fn refuses(&self) -> bool {
        self.oracle.try_get_ts(1).unwrap().is_none()
    }

    /// Asks for a block without waiting for it.
    pub(crate) fn ask(&self, name: &str, count: u32) -> tokio::task::JoinHandle<Result<u64>> {
        let request = SeqRequest::single(SeqKey::new(name).unwrap(), count).unwrap();
        let oracle = self.oracle.clone();
        tokio::spawn(async move { Ok(oracle.get_seq(request).await?.blocks[0].start) })
    }

    pub(crate) async fn seq(&self, name: &str, count: u32) -> Result<u64> {
        self.ask(name, count).await.unwrap()
    }

    /// Lets time pass in small steps, with requests coming in all the while.
    pub(crate) async fn busy_for(&self, duration: Duration) {
        let step = Duration::from_millis(50);
        let end = self.clock.now().boot + duration;
        while self.clock.now().boot < end {
            self.clock.advance(step);
            let _ = self.oracle.try_get_ts(1).unwrap();
            settle().await;
        }
    }
}

impl Driver {
    /// How often it was asked to commit no command at all.
    pub(crate) fn commits_of_nothing(&self) -> usize {
        self.commits_of_nothing.load(Ordering::Relaxed)
    }

    /// Whether it was not stopped.
    pub(crate) fn leads(&self) -> bool {
        self.leadership.lock().unwrap().is_some()
    }
}

/// Lets every task run until it waits for something.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

fn step(command: &Command) -> Step {
    match command {
        Command::Fence { .. } => Step::Fence,
        Command::Open { .. } => Step::Open,
        Command::Extend { .. } => Step::Extend,
        Command::Release => Step::Release,
        Command::Advance(_) => Step::Advance,
        Command::Lease { .. } => Step::Lease,
        _ => Step::Other,
    }
}

#[async_trait]
impl ConsensusDriver for Driver {
    fn node(&self) -> NodeId {
        self.id
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.lock().unwrap().as_ref().unwrap().subscribe()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let fault = {
            let mut faults = self.faults.lock().unwrap();
            let meets = |(at, _): &(Step, Fault)| commands.iter().any(|c| step(c) == *at);
            faults.iter().position(meets).and_then(|index| faults.remove(index))
        };
        if commands.is_empty() {
            self.commits_of_nothing.fetch_add(1, Ordering::Relaxed);
        }
        let cluster = self.cluster.clone();
        let replaced_seen = *self.replaced_seen.lock().unwrap();
        let fail = |kind| Err(Error::new(kind, "injected"));
        // Work of its own, which goes on if the caller is gone.
        tokio::spawn(async move {
            match &fault {
                Some((_, Fault::Refuse(kind))) => return fail(kind.clone()),
                Some((_, Fault::HoldBefore(gate))) => gate.pass().await,
                Some((_, Fault::Panic)) => panic!("injected"),
                _ => {}
            }
            let mut results = cluster.commit(epoch, &commands);
            match &fault {
                Some((_, Fault::LoseReply(kind))) => return fail(kind.clone()),
                Some((_, Fault::HoldAfter(gate))) => gate.pass().await,
                Some((_, Fault::Lie(lie))) => lie(&mut results),
                _ => {}
            }
            Ok(Committed { results, replaced_seen })
        })
        .await
        .expect("injected panics are passed on")
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        let bad = *self.bad_read.lock().unwrap();
        match bad {
            Some(BadRead::Hang) => pending().await,
            Some(BadRead::Panic) => panic!("injected"),
            Some(BadRead::Lie(lie)) => answer(&self.cluster.lock().store, &query).map(lie),
            None => answer(&self.cluster.lock().store, &query),
        }
    }

    fn limits(&self) -> CommitLimits {
        *self.limits.lock().unwrap()
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        self.membership.lock().unwrap().clone()
    }

    async fn shutdown(&self) -> Result<()> {
        self.leadership.lock().unwrap().take();
        Ok(())
    }
}
