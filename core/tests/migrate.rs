//! A whole state moves from one driver to another, and goes on there as if nothing had happened.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, LeaseHolder,
    LocalDriver, Membership, MemoryStore, Migrated, Migration, NodeId, Oracle, OracleOptions,
    Phase, RequestId, Result, SeqKey, SeqRequest, SeqStore, Session, SystemClock, elected,
    state::{Advance, Answer, Command, Effect, Entry, LeaseAsk, Limits, Moment, Query, Seed},
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
}

#[async_trait]
impl ConsensusDriver for Wrapped {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.inner.leadership()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let committed = self.inner.commit(epoch, commands).await;
        let number = self.commits.fetch_add(1, Ordering::Relaxed);
        match self.loses_answers && number.is_multiple_of(2) {
            true => Err(Error::new(ErrorKind::Uncertain, "the answer was lost")),
            false => committed,
        }
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        match self.inner.read(query).await? {
            Answer::Exported(mut page) if self.loses_entries => {
                page.pop();
                Ok(Answer::Exported(page))
            }
            answer => Ok(answer),
        }
    }

    fn limits(&self) -> CommitLimits {
        // So little that a page takes several commits.
        CommitLimits { commands: 4, bytes: 2_000 }
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        self.inner.shutdown().await
    }
}

/// A store that can be opened again.
#[derive(Clone, Default, Debug)]
struct Shared(Arc<Mutex<MemoryStore>>);

impl SeqStore for Shared {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        SeqStore::get(&*self.0.lock().unwrap(), key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        SeqStore::scan(&*self.0.lock().unwrap(), from, to, limit)
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        self.0.lock().unwrap().commit(effect)
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
    let inner = LocalDriver::open(store.clone()).await.unwrap();
    Arc::new(Wrapped { inner, commits: AtomicU64::new(0), loses_answers, loses_entries })
}

fn request(session: &str, number: u64) -> SeqRequest {
    let id = RequestId::new(Session::from_text(session), number, 1).unwrap();
    let entries = vec![(SeqKey::new("orders").unwrap(), 3), (SeqKey::new(session).unwrap(), 1)];
    SeqRequest::new(entries, Some(id)).unwrap()
}

/// A driver whose state has something of everything, and whose node died while it served.
async fn used() -> Arc<LocalDriver> {
    let driver = memory().await;
    let epoch = elected(&*driver, &SystemClock, PATIENCE).await.unwrap();
    let limits = Limits::default();
    let advance = |session: &str, number: u64| {
        let request = request(session, number);
        let (entries, id) = (request.entries().to_vec(), request.id().copied());
        Command::Advance(Advance { entries, id, elapsed_ms: 0, limits })
    };
    let mut commands = vec![
        Command::Fence { now_ms: NOON_MS, headroom_ms: 1_000, lease_ms: 300 },
        Command::Open { node: driver.node(), lease_ms: 300 },
        Command::Seed(Seed { key: SeqKey::new("seeded").unwrap(), start: 42, limits }),
    ];
    for caller in 0..100 {
        commands.extend((1..=3).map(|number| advance(&format!("caller {caller}"), number)));
    }
    for holder in 0..5 {
        let holder = LeaseHolder::new([holder]).unwrap();
        let ask = LeaseAsk::Acquire { holder, holder_epoch: 1, ttl_ms: 60_000, limits };
        let at = Moment { now_ms: NOON_MS, elapsed_ms: 0 };
        commands.push(Command::Lease { ask, at });
    }
    let committed = driver.commit(epoch, commands).await.unwrap();
    assert!(committed.results.iter().all(Result::is_ok), "{committed:?}");
    driver
}

async fn migration(source: Arc<LocalDriver>) -> Migration {
    let claim = elected(&*source, &SystemClock, PATIENCE).await.unwrap();
    Migration::of(source, claim, Arc::new(SystemClock)).await.unwrap()
}

async fn migrate(
    migration: &Migration,
    target: &Arc<dyn ConsensusDriver>,
    told: impl FnMut(u64),
) -> Result<Migrated> {
    let epoch = elected(&**target, &SystemClock, PATIENCE).await?;
    migration.begin(target, epoch, Epoch::default()).await?;
    migration.copy(target, epoch, told).await
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
    let Migrated { entries, sequences, sessions, leases, high_water_ms } = migrated;
    assert_eq!((sequences, sessions, leases, high_water_ms), (102, 100, 5, NOON_MS + 60_000));
    assert!(told.is_sorted() && told.last() == Some(&entries), "{told:?}");
    let Answer::Frontier { frontier_ms, .. } =
        source.read(Query::Frontier { elapsed_ms: 0 }).await.unwrap()
    else {
        panic!("not a frontier");
    };
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
    assert_eq!(oracle.safe_frontier().await.unwrap().physical_ms, frontier_ms);
    oracle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_source_that_is_used_meanwhile_leaves_a_copy_that_never_serves() {
    let source = used().await;
    let migration = migration(source.clone()).await;
    let epoch = elected(&*source, &SystemClock, PATIENCE).await.unwrap();
    let store = Shared::default();
    let target = target(&store, false, false).await;
    let leads = elected(&*target, &SystemClock, PATIENCE).await.unwrap();
    migration.begin(&target, leads, Epoch::default()).await.unwrap();
    let extend = Command::Extend { high_water_ms: NOON_MS + 99_000, elapsed_ms: 1 };
    source.commit(epoch, vec![extend]).await.unwrap();
    let error = migration.copy(&target, leads, |_| ()).await.unwrap_err();
    assert!(error.to_string().contains("used while it was copied"), "{error}");
    let again = migration.begin(&target, leads, Epoch::default()).await.unwrap_err();
    assert!(again.to_string().contains("is not whole"), "{again}");
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
}

#[tokio::test]
async fn only_a_used_source_goes_into_an_unused_target() {
    let empty = memory().await;
    let claim = elected(&*empty, &SystemClock, PATIENCE).await.unwrap();
    let error = Migration::of(empty, claim, Arc::new(SystemClock)).await.unwrap_err();
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
    let claim = elected(&*half, &SystemClock, PATIENCE).await.unwrap();
    let target: Arc<dyn ConsensusDriver> = half.clone();
    migration(used().await).await.begin(&target, claim, Epoch::default()).await.unwrap();
    let error = Migration::of(half, claim, Arc::new(SystemClock)).await.unwrap_err();
    assert!(error.to_string().contains("did not become whole"), "{error}");
}
