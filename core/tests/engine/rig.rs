//! A cluster in one process: nodes over one state in memory, with faults and pauses on demand.

use std::{
    collections::HashMap,
    sync::{
        Arc, Mutex, MutexGuard,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::sync::Semaphore;
use tsoracle_core::{
    Clock, CommitLimits, Effect, Entry, Epoch, Error, ErrorKind, Grant, Leadership, ManualClock,
    MemoryStore, NodeId, Oracle, OracleOptions, Outcome, Phase, Random, Reads, Result, SeqKey,
    SeqRequest, SeqStore, VERSION, Version,
    state::{REIGN, Record, ReignRecord, Stage},
};

pub(crate) use crate::driver::{BadRead, Driver, Fault};

pub(crate) const NOON_MS: u64 = 1_800_000_000_000;
pub(crate) const LEASE: Duration = Duration::from_secs(1);

/// The state all nodes share, and what was committed to it.
#[derive(Clone, Debug, Default)]
pub(crate) struct Cluster(Arc<Mutex<Inner>>);

#[derive(Debug, Default)]
struct Inner {
    store: MemoryStore,
    claims: u64,
    processes: u128,
    /// Every commit that took effect.
    log: Vec<Vec<Step>>,
    /// The state of each version, if that is kept.
    history: Option<HashMap<Version, MemoryStore>>,
}

/// What a commit is about.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Step {
    Fence,
    /// With the first window.
    Open,
    Extend,
    Release,
    Advance,
    Lease,
    /// Nothing but a version, to find out what became of another commit.
    Settle,
    Other,
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

    pub(crate) async fn pass(&self) {
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
        let driver = Arc::new(Driver::new(self.clone(), NodeId(id)));
        let process = {
            let mut inner = self.lock();
            inner.processes += 1;
            inner.processes
        };
        // No two processes draw the same number, and pauses are the shortest there are.
        let drawn = AtomicU64::new(1);
        let draw = move || process << 64 | u128::from(drawn.fetch_add(1, Ordering::Relaxed));
        let mut options = OracleOptions {
            clock: Arc::new(clock.clone()),
            lease: LEASE,
            random: Random::new(draw),
            ..OracleOptions::default()
        };
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

    /// Every commit that took effect, as what it was about.
    pub(crate) fn log(&self) -> Vec<Vec<Step>> {
        self.lock().log.clone()
    }

    pub(crate) fn count(&self, step: Step) -> usize {
        self.log().iter().flatten().filter(|&&logged| logged == step).count()
    }

    /// Keeps the state of each version from now on.
    pub(crate) fn keep_history(&self) {
        let now = (self.version(), self.store());
        self.lock().history = Some(HashMap::from([now]));
    }

    /// The state of a version.
    pub(crate) fn at(&self, version: Version) -> MemoryStore {
        let inner = self.lock();
        let history = inner.history.as_ref().expect("it is kept");
        history.get(&version).expect("there was such a version").clone()
    }

    /// A copy of the state as it is now.
    pub(crate) fn store(&self) -> MemoryStore {
        self.lock().store.clone()
    }

    /// Puts another state in its place.
    pub(crate) fn restore(&self, store: MemoryStore) {
        self.lock().store = store;
    }

    pub(crate) fn version(&self) -> Version {
        Version::decode(self.lock().store.get(VERSION).unwrap().as_deref()).unwrap()
    }

    pub(crate) fn record(&self) -> ReignRecord {
        reign(&self.lock().store).expect("it was fenced")
    }

    /// The next value of a sequence.
    pub(crate) fn next(&self, name: &str) -> u64 {
        let key = [b"s", name.as_bytes()].concat();
        let stored = self.lock().store.get(&key).unwrap();
        match stored.map(|bytes| Record::decode(&key, bytes).unwrap()) {
            None => 0,
            Some(Record::Next(next)) => next,
            Some(other) => panic!("{other:?}"),
        }
    }

    /// How many entries there are of a kind, by the first byte of their keys.
    pub(crate) fn entries(&self, kind: u8) -> Vec<Entry> {
        self.lock().store.scan(&[kind], &[kind + 1], usize::MAX).unwrap()
    }

    /// Stores an effect if the state is at its base.
    pub(crate) fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let next = effect.version()?;
        let current = self.version();
        let Some(outcome) = base.admits(next, current) else {
            // Some driver said that it was stored, and it was not.
            return Err(injected(ErrorKind::Unavailable));
        };
        if outcome == Outcome::Stored && current != next {
            let steps = self.steps(&effect);
            let mut inner = self.lock();
            inner.store.commit(effect)?;
            inner.log.push(steps);
            let store = inner.store.clone();
            if let Some(history) = &mut inner.history {
                history.insert(next, store);
            }
        }
        Ok(outcome)
    }

    /// What an effect is about, at the present state.
    pub(crate) fn steps(&self, effect: &Effect) -> Vec<Step> {
        let begins = |kinds: &[u8]| {
            effect.iter().any(|(key, _)| key.first().is_some_and(|kind| kinds.contains(kind)))
        };
        let about_leases = begins(b"lhebk");
        let mut steps = vec![];
        if let Some(Some(bytes)) = effect.get(REIGN) {
            let Ok(Record::Reign(new)) = Record::decode(REIGN, bytes.to_vec()) else {
                panic!("no reign record: {bytes:?}");
            };
            let old = reign(&self.lock().store);
            let before = old.as_ref().map(|old| (old.epoch, old.stage));
            steps.extend(match new.stage {
                Stage::Fenced => Some(Step::Fence),
                Stage::Open if before == Some((new.epoch, Stage::Fenced)) => Some(Step::Open),
                // A request about leases writes the record as well.
                Stage::Open => (!about_leases).then_some(Step::Extend),
                Stage::Released if new.released => Some(Step::Release),
                Stage::Released | Stage::Importing => Some(Step::Other),
            });
        }
        steps.extend(about_leases.then_some(Step::Lease));
        steps.extend(begins(b"sua").then_some(Step::Advance));
        if effect.len() == 1 {
            steps.push(Step::Settle);
        } else if steps.is_empty() {
            steps.push(Step::Other);
        }
        steps
    }

    pub(crate) fn read(&self, wanted: &Reads) -> Result<tsoracle_core::Snapshot> {
        wanted.read_from(&self.lock().store)
    }
}

fn reign(store: &MemoryStore) -> Option<ReignRecord> {
    let stored = store.get(REIGN).unwrap()?;
    match Record::decode(REIGN, stored).unwrap() {
        Record::Reign(record) => Some(*record),
        other => panic!("{other:?}"),
    }
}

impl Node {
    /// Makes this node the leader, under the next claim. The others are not told.
    pub(crate) fn elect(&self) -> u64 {
        let claim = {
            let mut inner = self.driver.cluster.lock();
            inner.claims += 1;
            inner.claims
        };
        self.set(Leadership::Leader { claim });
        claim
    }

    /// Makes another one the leader, as far as this node knows.
    pub(crate) fn follow(&self) {
        self.set(Leadership::Follower { leader: None });
    }

    pub(crate) fn set(&self, leadership: Leadership) {
        self.driver.leadership.lock().unwrap().as_ref().unwrap().send_replace(leadership);
    }

    /// Ends the leadership channel.
    pub(crate) fn close_leadership(&self) {
        self.driver.leadership.lock().unwrap().take();
    }

    /// Every read goes wrong like this from now on.
    pub(crate) fn read_badly(&self, how: BadRead) {
        *self.driver.bad_read.lock().unwrap() = Some(how);
    }

    pub(crate) fn read_well(&self) {
        *self.driver.bad_read.lock().unwrap() = None;
    }

    /// From now on this node's driver reads the state as it is now, until one of its own commits is
    /// stored, or it has caught up.
    pub(crate) fn fall_behind(&self) {
        *self.driver.behind.lock().unwrap() = Some(self.driver.cluster.store());
    }

    pub(crate) fn catch_up(&self) {
        *self.driver.behind.lock().unwrap() = None;
    }

    /// Its driver observes the present version now.
    pub(crate) fn observe(&self) {
        let mut seen = self.driver.seen.lock().unwrap();
        seen.insert(self.driver.cluster.version(), self.clock.now().boot);
    }

    /// The next commit that is about this meets this fault.
    pub(crate) fn fault(&self, step: Step, fault: Fault) {
        self.driver.faults.lock().unwrap().push_back((step, fault));
    }

    /// The next commit that is about this waits before it takes effect.
    pub(crate) fn hold(&self, step: Step) -> Gate {
        let gate = Gate::new();
        self.fault(step, Fault::HoldBefore(gate.clone()));
        gate
    }

    /// The outcome of the next commit that is about this is not known, and it takes effect later.
    pub(crate) fn delay(&self, step: Step) -> Gate {
        let gate = Gate::new();
        self.fault(step, Fault::Late(gate.clone()));
        gate
    }

    pub(crate) async fn serving(&self) -> Epoch {
        self.serving_after(Epoch::default()).await
    }

    /// Returns once this node serves under a later epoch.
    pub(crate) async fn serving_after(&self, before: Epoch) -> Epoch {
        let serves = |phase: &Phase| matches!(phase, Phase::Serving { epoch } if *epoch > before);
        match self.phase(serves).await {
            Phase::Serving { epoch } => epoch,
            _ => unreachable!("only serving was waited for"),
        }
    }

    pub(crate) async fn failed(&self) -> String {
        match self.phase(|phase| matches!(phase, Phase::Failed(_))).await {
            Phase::Failed(reason) => reason.to_string(),
            _ => unreachable!("only failures were waited for"),
        }
    }

    /// Returns once something keeps this node from taking over, with what it is.
    pub(crate) async fn troubled(&self) -> String {
        let is_troubled = |phase: &_| matches!(phase, Phase::TakingOver { trouble: Some(_), .. });
        match self.phase(is_troubled).await {
            Phase::TakingOver { trouble: Some(trouble), .. } => trouble.to_string(),
            _ => unreachable!("only trouble was waited for"),
        }
    }

    pub(crate) async fn phase(&self, is: impl Fn(&Phase) -> bool) -> Phase {
        self.oracle.phase().wait_for(|phase| is(phase)).await.unwrap().clone()
    }

    /// One timestamp, which must be there at once.
    pub(crate) fn grant(&self) -> Grant {
        self.oracle.try_get_ts(1).unwrap().expect("this node serves")
    }

    pub(crate) fn refuses(&self) -> bool {
        self.oracle.try_get_ts(1).unwrap().is_none()
    }

    /// Sends a request without waiting for its answer.
    pub(crate) fn send(&self, request: SeqRequest) -> tokio::task::JoinHandle<Result<u64>> {
        let oracle = self.oracle.clone();
        tokio::spawn(async move { Ok(oracle.get_seq(request).await?.blocks[0].start) })
    }

    /// Asks for a block without waiting for it.
    pub(crate) fn ask(&self, name: &str, count: u32) -> tokio::task::JoinHandle<Result<u64>> {
        self.send(SeqRequest::single(SeqKey::new(name).unwrap(), count).unwrap())
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

    /// Lets time pass in small steps until something has ended.
    pub(crate) async fn until<T>(&self, task: tokio::task::JoinHandle<T>) -> T {
        for _ in 0..10_000 {
            settle().await;
            if task.is_finished() {
                return task.await.unwrap();
            }
            self.clock.advance(Duration::from_millis(10));
        }
        panic!("it does not end");
    }

    /// Lets time pass in small steps until something waits at a gate.
    pub(crate) async fn pass_until(&self, gate: &Gate) {
        let gate = gate.clone();
        self.until(tokio::spawn(async move { gate.reached().await })).await;
    }

    /// The claims that its driver was asked to resign.
    pub(crate) fn resigned(&self) -> Vec<u64> {
        self.driver.resigned.lock().unwrap().clone()
    }
}

/// Lets every task run until it waits for something.
pub(crate) async fn settle() {
    for _ in 0..100 {
        tokio::task::yield_now().await;
    }
}

pub(crate) fn injected(kind: ErrorKind) -> Error {
    Error::new(kind, "injected")
}

/// What each driver starts from.
pub(crate) const LIMITS: CommitLimits = CommitLimits { writes: 16_384, bytes: 1 << 20 };

/// When each version was observed.
pub(crate) type Seen = HashMap<Version, tsoracle_core::BootTime>;
