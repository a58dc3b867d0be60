//! A whole state moves from one driver to another, and goes on there as if nothing had happened.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use common::Shared;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Epoch, Error, ErrorKind, Leadership,
    LeaseHolder, LocalDriver, MemoryStore, Migration, NodeId, Oracle, OracleOptions, Outcome,
    Phase, Reads, RequestId, Result, SeqKey, SeqRequest, Session, Snapshot, StateCounts,
    SystemClock, Version,
    state::{
        Advance, Command, LeaseAsk, Limits, Moment, Plan, REIGN, Record, ReignRecord, Reply,
        Requester, Seed, WorkingSet,
    },
};

const PATIENCE: Duration = Duration::from_secs(60);
const NOON_MS: u64 = 1_800_000_000_000;

/// A driver over another one.
#[derive(Debug)]
struct Wrapped {
    inner: Arc<LocalDriver>,
    commits: AtomicU64,
    /// Of every other commit the answer is lost.
    loses_answers: bool,
    /// The last entry of what there is.
    loses_entries: bool,
    /// What it takes in a commit.
    limits: CommitLimits,
    /// The most writes, and the most bytes, that a commit had.
    fullest: AtomicUsize,
    largest: AtomicUsize,
}

#[async_trait]
impl ConsensusDriver for Wrapped {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let mut snapshot = self.inner.read(wanted).await?;
        if self.loses_entries
            && let Some(last) = snapshot.ranges.iter_mut().rev().find(|range| !range.is_empty())
        {
            last.pop();
        }
        Ok(snapshot)
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let (limits, writes, bytes) = (self.limits(), effect.len(), effect.size());
        if writes > limits.writes || bytes > limits.bytes {
            let context = format!("{writes} writes of {bytes} bytes go beyond {limits:?}");
            return Err(Error::new(ErrorKind::Fatal, context));
        }
        self.fullest.fetch_max(writes, Ordering::Relaxed);
        self.largest.fetch_max(bytes, Ordering::Relaxed);
        let committed = self.inner.commit(base, effect).await;
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        match self.loses_answers && number.is_multiple_of(2) {
            true => Err(Error::new(ErrorKind::Uncertain, "the answer was lost")),
            false => committed,
        }
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.inner.seen(version)
    }

    async fn resign(&self, claim: u64) {
        self.inner.resign(claim).await;
    }

    fn limits(&self) -> CommitLimits {
        self.limits
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.shutdown().await
    }
}

async fn memory() -> Arc<LocalDriver> {
    LocalDriver::open(MemoryStore::default()).await.unwrap()
}

async fn target(
    store: &Shared,
    loses_answers: bool,
    loses_entries: bool,
) -> Arc<dyn ConsensusDriver> {
    // So little that a page takes several commits.
    let limits = CommitLimits { writes: 8, bytes: 2_000 };
    Arc::new(wrapped(store, limits, loses_answers, loses_entries).await)
}

async fn wrapped(
    store: &Shared,
    limits: CommitLimits,
    loses_answers: bool,
    loses_entries: bool,
) -> Wrapped {
    let inner = LocalDriver::open(store.clone()).await.unwrap();
    let (fullest, largest, commits) = Default::default();
    Wrapped { inner, commits, loses_answers, loses_entries, limits, fullest, largest }
}

fn request(session: &str, number: u64) -> SeqRequest {
    let id = RequestId::new(Session::from_text(session), number, 1).unwrap();
    let entries = vec![(SeqKey::new("orders").unwrap(), 3), (SeqKey::new(session).unwrap(), 1)];
    SeqRequest::new(entries, Some(id)).unwrap()
}

/// A driver whose state has something of everything, and whose node died while it served.
async fn used() -> Arc<LocalDriver> {
    let driver = memory().await;
    let base = driver.read(&Reads::default()).await.unwrap().version;
    let fence = Command::Fence { base, now_ms: NOON_MS, headroom_ms: 1_000, lease_ms: 300 };
    let Reply::Fenced { epoch, .. } = commit(&driver, Epoch::default(), vec![fence]).await[0]
    else {
        panic!("not a fence");
    };
    let limits = Limits::default();
    let advance = |session: &str, number: u64| {
        let request = request(session, number);
        let (entries, id) = (request.entries().to_vec(), request.id().copied());
        Command::Advance(Advance { entries, id, name: None, elapsed_ms: 0, limits })
    };
    let mut commands = vec![
        Command::Open { node: driver.node(), lease_ms: 300 },
        Command::Seed(Seed { key: SeqKey::new("seeded").unwrap(), start: 42, limits }),
    ];
    for caller in 0..100 {
        commands.extend((1..=3).map(|number| advance(&format!("caller {caller}"), number)));
    }
    for holder in 0..5 {
        let holder = LeaseHolder::new([holder]).unwrap();
        let ask = LeaseAsk::Acquire {
            by: Requester::Process,
            holder,
            holder_epoch: 1,
            ttl_ms: 60_000,
            limits,
        };
        let at = Moment { now_ms: NOON_MS, elapsed_ms: 0 };
        commands.push(Command::Lease { ask, at });
    }
    commit(&driver, epoch, commands).await;
    driver
}

/// Works out commands, none of which is refused, and stores them.
async fn commit(driver: &LocalDriver, epoch: Epoch, commands: Vec<Command>) -> Vec<Reply> {
    let mut known = WorkingSet::at(driver.read(&Reads::default()).await.unwrap().version);
    loop {
        let mut plan = Plan::default();
        let planned: Result<Vec<_>> = commands
            .iter()
            .map(|command| plan.add(&known, epoch, command, driver.limits()))
            .collect();
        if let Some(missing) = known.take_missing() {
            let snapshot = driver.read(&missing).await.unwrap();
            known.learn(missing, snapshot).unwrap();
            continue;
        }
        let base = known.version();
        let (effect, _) = plan.finish(base.next(u128::from(base.number)).unwrap());
        assert_eq!(driver.commit(base, effect).await.unwrap(), Outcome::Stored);
        return planned.unwrap().into_iter().map(|planned| planned.unwrap().unwrap()).collect();
    }
}

async fn record(driver: &dyn ConsensusDriver) -> ReignRecord {
    let snapshot = driver.read(&Reads::keys([REIGN])).await.unwrap();
    let stored = snapshot.values.into_iter().next().unwrap().unwrap();
    match Record::decode(REIGN, stored).unwrap() {
        Record::Reign(record) => *record,
        other => panic!("{other:?}"),
    }
}

async fn version(driver: &dyn ConsensusDriver) -> Version {
    driver.read(&Reads::default()).await.unwrap().version
}

async fn migration(source: Arc<LocalDriver>) -> Migration {
    Migration::of(source, Arc::new(SystemClock)).await.unwrap()
}

async fn migrate(
    migration: &Migration,
    target: &Arc<dyn ConsensusDriver>,
    told: impl FnMut(u64),
) -> Result<StateCounts> {
    migration.begin(target).await?;
    migration.copy(target, told).await
}

fn oracle(driver: Arc<dyn ConsensusDriver>) -> Oracle {
    let options = OracleOptions { hold: PATIENCE, ..OracleOptions::default() };
    Oracle::start(driver, options).unwrap()
}

#[tokio::test]
async fn what_was_handed_out_is_remembered_though_answers_are_lost() {
    let source = used().await;
    let migration = migration(source.clone()).await;
    let store = Shared::default();
    let target = target(&store, true, false).await;
    let mut told = vec![];
    let migrated = migrate(&migration, &target, |entries| told.push(entries)).await.unwrap();
    let StateCounts { entries, sequences, sessions, named_requests, leases, high_water_ms } =
        migrated;
    assert_eq!((sequences, sessions, leases, high_water_ms), (102, 100, 5, NOON_MS + 60_000));
    assert_eq!(named_requests, 0);
    assert!(told.is_sorted() && told.last() == Some(&entries), "{told:?}");
    let old = record(&*source).await;
    let copied = record(&*target).await;
    assert_eq!(copied.version, version(&*target).await, "the record notes its own version");
    let source_era = version(&*source).await.era;
    assert!(copied.version.era > source_era, "epochs of the copy begin above all of the source");
    source.shutdown().await.unwrap();
    target.shutdown().await.unwrap();
    let oracle = oracle(LocalDriver::open(store).await.unwrap());
    // The target's wall clock is long before the source's.
    assert!(oracle.get_ts(1).await.unwrap().range.first().physical_ms() > high_water_ms);
    for caller in [0, 57, 99] {
        let grant = oracle.get_seq(request(&format!("caller {caller}"), 2)).await.unwrap();
        assert_eq!(grant.blocks[0].start, caller * 9 + 3, "the same block as before");
    }
    let next = async |key| oracle.read_seq(SeqKey::new(key).unwrap()).await.unwrap();
    assert_eq!((next("orders").await, next("seeded").await), (Some(900), Some(42)));
    // The leases all reach to the high-water, and still hold the frontier there.
    let frontier = oracle.safe_frontier().await.unwrap();
    assert_eq!(frontier.physical_ms, old.high_water_ms);
    assert!(frontier.epoch > old.epoch);
    oracle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_page_goes_in_parts_that_the_target_takes() {
    let migration = migration(used().await).await;
    // Cut by the number of writes, and by their bytes; each part is as full as it may be.
    for (writes, bytes) in [(3, 1 << 20), (8, 1 << 20), (100, 1_500), (1_000, 4_000)] {
        let (store, limits) = (Shared::default(), CommitLimits { writes, bytes });
        let wrapped = Arc::new(wrapped(&store, limits, false, false).await);
        let target: Arc<dyn ConsensusDriver> = wrapped.clone();
        migrate(&migration, &target, |_| ()).await.unwrap();
        let fullest = wrapped.fullest.load(Ordering::Relaxed);
        let largest = wrapped.largest.load(Ordering::Relaxed);
        match bytes {
            0..10_000 => assert!(largest > bytes / 4, "{largest} of {bytes} bytes"),
            _ => assert_eq!(fullest, writes),
        }
    }
}

#[tokio::test]
async fn a_source_that_is_used_meanwhile_leaves_a_copy_that_never_serves() {
    let source = used().await;
    let migration = migration(source.clone()).await;
    let epoch = record(&*source).await.epoch;
    let store = Shared::default();
    let target = target(&store, false, false).await;
    migration.begin(&target).await.unwrap();
    let extend = Command::Extend { high_water_ms: NOON_MS + 99_000, elapsed_ms: 1 };
    commit(&source, epoch, vec![extend]).await;
    let error = migration.copy(&target, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("used while it was copied"), "{error}");
    target.shutdown().await.unwrap();
    let oracle = oracle(LocalDriver::open(store).await.unwrap());
    let is_told = |phase: &Phase| matches!(phase, Phase::TakingOver { trouble: Some(why), .. } if why.contains("is not whole"));
    oracle.phase().wait_for(is_told).await.unwrap();
    assert!(oracle.try_get_ts(1).unwrap().is_none());
}

#[tokio::test]
async fn a_target_that_loses_something_is_found_out() {
    let migration = migration(used().await).await;
    let target = target(&Shared::default(), false, true).await;
    let error = migrate(&migration, &target, |_| ()).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    let again = migration.begin(&target).await.unwrap_err();
    assert!(again.to_string().contains("is not whole"), "{again}");
}

#[tokio::test]
async fn only_a_used_source_goes_into_an_unused_target() {
    let empty = memory().await;
    let error = Migration::of(empty, Arc::new(SystemClock)).await.unwrap_err();
    assert!(error.to_string().contains("never used"), "{error}");
    let migration = migration(used().await).await;
    let target: Arc<dyn ConsensusDriver> = used().await;
    let error = migrate(&migration, &target, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("holds state already"), "{error}");
    assert_eq!(*error.kind(), ErrorKind::Config);
}

#[tokio::test]
async fn a_copy_is_not_copied_before_it_is_whole() {
    let half: Arc<LocalDriver> = memory().await;
    let target: Arc<dyn ConsensusDriver> = half.clone();
    migration(used().await).await.begin(&target).await.unwrap();
    let error = Migration::of(half, Arc::new(SystemClock)).await.unwrap_err();
    assert!(error.to_string().contains("did not become whole"), "{error}");
}
