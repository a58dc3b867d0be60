//! A few whole oracles over the driver, from which it shows that engine and driver fit.

use std::{
    collections::BTreeMap,
    ops::Range,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::time::timeout;
use tsoracle_core::{
    ConsensusDriver, Effect, Entry, KeyRange, Leadership, LocalDriver, MemoryStore, Migration,
    Oracle, OracleOptions, Phase, Reads, RequestId, SeqKey, SeqRequest, SeqStore, Session,
    SystemClock, Timestamp,
};

use super::MakeFixture;
use crate::{
    fixture::the,
    model::{END, PATIENCE},
    oracles::{NOON_MS, clock, oracle, pass, serves},
    worker::{KEY, Worker, asked},
};

checks!("oracle":
    timestamps_rise_over_restarts_though_the_clock_is_set_back [reopens],
    timestamps_after_a_crash_lie_above_all_before_it [crash],
    a_successor_waits_until_the_leader_before_has_stopped_granting [contends, cut_off],
    a_storage_error_ends_serving_with_the_lease [fail_storage],
    nothing_answered_is_lost_when_killed_under_load [config, process],
    what_is_copied_to_a_driver_arrives_to_the_byte [reopens],
    what_is_copied_from_a_driver_arrives_to_the_byte [reopens],
);

/// Timestamps from an oracle, rising and above `before`. Returns the last one.
async fn rising(oracle: &Oracle, mut before: Option<Timestamp>) -> Result<Option<Timestamp>> {
    for count in [1, 1, 500, 1] {
        let range = oracle.get_ts(count).await?.range;
        ensure!(before < Some(range.first()), "{} came after {before:?}", range.first());
        before = Some(range.last());
    }
    Ok(before)
}

async fn timestamps_rise_over_restarts_though_the_clock_is_set_back(
    make: MakeFixture,
) -> Result<()> {
    let (fixture, mut before) = (make(), None);
    for round in 0..4 {
        // Time stands still: what waited for a lease would wait for ever.
        let clock = clock(NOON_MS - round * 3_600_000);
        let oracle = oracle(fixture.open.run(()).await?, &clock)?;
        serves(&oracle).await?;
        before = rising(&oracle, before).await?;
        oracle.shutdown().await?;
    }
    Ok(())
}

async fn timestamps_after_a_crash_lie_above_all_before_it(make: MakeFixture) -> Result<()> {
    let (fixture, mut before) = (make(), None);
    for round in 0..3 {
        let clock = clock(NOON_MS - round * 3_600_000);
        let oracle = oracle(fixture.open.run(()).await?, &clock)?;
        // The node may have to wait for the lease of the one that crashed.
        while oracle.try_get_ts(1)?.is_none() {
            pass(&clock, &oracle).await;
        }
        before = rising(&oracle, before).await?;
        the(&fixture.crash)?.run(()).await?;
    }
    Ok(())
}

async fn leads(driver: &dyn ConsensusDriver) -> Result<()> {
    let mut leadership = driver.leadership();
    let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
    timeout(PATIENCE, leads).await.context("the driver does not lead")?.map(drop)?;
    Ok(())
}

async fn a_successor_waits_until_the_leader_before_has_stopped_granting(
    make: MakeFixture,
) -> Result<()> {
    let (fixture, clock) = (make(), clock(NOON_MS));
    let first = oracle(fixture.open.run(()).await?, &clock)?;
    serves(&first).await?;
    let mut last = first.get_ts(1).await?.range.last();
    let other = fixture.open.run(()).await?;
    let cut_off = the(&fixture.cut_off)?;
    cut_off.begin.run(0).await?;
    leads(&*other).await?;
    let second = oracle(other, &clock)?;
    let after = loop {
        if let Some(granted) = first.try_get_ts(1)? {
            last = granted.range.last();
        }
        if let Some(granted) = second.try_get_ts(1)? {
            break granted.range.first();
        }
        pass(&clock, &second).await;
    };
    ensure!(last < after, "the leader before granted {last}, its successor {after}");
    let granted = first.try_get_ts(1)?;
    ensure!(granted.is_none(), "its successor granted {after}, and then it granted {granted:?}");
    cut_off.end.run(0).await?;
    for _ in 0..20 {
        let granted = first.try_get_ts(1)?;
        ensure!(granted.is_none(), "connected again, it granted {granted:?}");
        clock.advance(Duration::from_millis(50));
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn a_storage_error_ends_serving_with_the_lease(make: MakeFixture) -> Result<()> {
    let (fixture, clock) = (make(), clock(NOON_MS));
    let oracle = oracle(fixture.open.run(()).await?, &clock)?;
    serves(&oracle).await?;
    oracle.get_ts(1).await?;
    the(&fixture.fail_storage)?.run(()).await?;
    clock.advance(Duration::from_secs(1));
    let granted = oracle.try_get_ts(1).ok().flatten();
    ensure!(granted.is_none(), "past the lease it granted {granted:?}");
    let mut phase = oracle.phase();
    let failed = phase.wait_for(|phase| matches!(phase, Phase::Failed(_)));
    timeout(PATIENCE, failed).await.context("it does not fail")?.context("the engine has ended")?;
    let error = oracle.get_ts(1).await.err().context("it grants though its storage failed")?;
    ensure!(!error.is_retryable(), "{error}");
    Ok(())
}

/// What a worker wrote, until it was killed.
#[derive(Default)]
struct Written {
    /// Per session and number requested: the block's start, if it was answered.
    with_id: BTreeMap<(String, u64), Option<u64>>,
    last_timestamp: u64,
}

impl Written {
    fn add(&mut self, line: &str) -> Result<()> {
        let words: Vec<_> = line.split(' ').collect();
        match words[..] {
            ["ask", session, number] => {
                self.with_id.insert((session.into(), number.parse()?), None);
            }
            ["got", session, number, start] => {
                self.with_id.insert((session.into(), number.parse()?), Some(start.parse()?));
            }
            ["time", last] => self.last_timestamp = self.last_timestamp.max(last.parse()?),
            _ => {}
        }
        Ok(())
    }
}

/// How often the process is killed, and how much it writes before.
const KILLS: usize = 3;
const LINES: usize = 300;

async fn nothing_answered_is_lost_when_killed_under_load(make: MakeFixture) -> Result<()> {
    let (fixture, mut written) = (make(), Written::default());
    for _ in 0..KILLS {
        let mut worker = Worker::start(the(&fixture.config)?.run(()).await?, "load")?;
        worker.line_that_begins("up").await?;
        for _ in 0..LINES {
            let line = worker.line().await?.context("the other process ended by itself")?;
            written.add(&line)?;
        }
        for line in worker.kill().await? {
            written.add(&line)?;
        }
    }
    let oracle = Oracle::start(fixture.open.run(()).await?, OracleOptions::default())?;
    serves(&oracle).await?;
    let first = oracle.get_ts(1).await?.range.first();
    ensure!(first.as_u64() > written.last_timestamp, "{first} after {}", written.last_timestamp);
    let mut taken = vec![];
    for ((session, number), answered) in written.with_id {
        let block = oracle.get_seq(asked(&session, number)?).await?.blocks.remove(0);
        let text = format!("request {number} of {session} got {answered:?}, and now {block:?}");
        ensure!(answered.is_none_or(|start| start == block.start), "{text}");
        taken.push(block.range());
    }
    cover(taken, oracle.read_seq(SeqKey::new(KEY)?).await?.unwrap_or(0))?;
    Ok(oracle.shutdown().await?)
}

/// The blocks of one key are all of `0..next`.
fn cover(mut taken: Vec<Range<u64>>, next: u64) -> Result<()> {
    taken.sort_by_key(|block| block.start);
    let mut at = 0;
    for block in taken {
        ensure!(block.start == at, "{block:?} follows on {at}");
        at = block.end;
    }
    ensure!(at == next, "the next is {next}, though blocks end at {at}");
    Ok(())
}

/// How many requests a state has answered that is copied: answers of some size, and more sequences than
/// one page holds.
const REQUESTS: u64 = 150;

/// Has an oracle answer requests. Returns where the blocks began: the same ones when it is called again.
async fn answers(driver: Arc<dyn ConsensusDriver>) -> Result<Vec<u64>> {
    let oracle = Oracle::start(driver, OracleOptions::default())?;
    serves(&oracle).await?;
    let mut starts = vec![];
    for number in 1..=REQUESTS {
        let session = Session::from_text(&format!("session {}", number % 7));
        let entries = vec![(SeqKey::new("orders")?, 3), (SeqKey::new(format!("key {number}"))?, 2)];
        let request = SeqRequest::new(entries, Some(RequestId::new(session, number, 1)?))?;
        starts.extend(oracle.get_seq(request).await?.blocks.iter().map(|block| block.start));
    }
    oracle.shutdown().await?;
    Ok(starts)
}

/// A store in memory that is there when it is opened again.
#[derive(Clone, Default, Debug)]
struct Kept(Arc<Mutex<MemoryStore>>);

impl Kept {
    fn lock(&self) -> MutexGuard<'_, MemoryStore> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn open(&self) -> Result<Arc<dyn ConsensusDriver>> {
        Ok(LocalDriver::open(self.clone()).await?)
    }
}

impl SeqStore for Kept {
    fn get(&self, key: &[u8]) -> tsoracle_core::Result<Option<Vec<u8>>> {
        self.lock().get(key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> tsoracle_core::Result<Vec<Entry>> {
        self.lock().scan(from, to, limit)
    }

    fn commit(&mut self, effect: Effect) -> tsoracle_core::Result<()> {
        self.lock().commit(effect)
    }
}

/// Everything but the single records, which drivers keep for themselves and each reign writes again.
async fn everything(driver: &dyn ConsensusDriver) -> Result<Vec<Entry>> {
    let all = KeyRange { from: vec![], to: END.into(), limit: 100_000 };
    let found = driver.read(&Reads { keys: vec![], ranges: vec![all] }).await?;
    let entries = found.ranges.into_iter().flatten();
    Ok(entries.filter(|(key, _)| key.len() > 1).collect())
}

async fn copy(source: &Arc<dyn ConsensusDriver>, target: &Arc<dyn ConsensusDriver>) -> Result<()> {
    leads(&**source).await?;
    leads(&**target).await?;
    let migration = Migration::of(source.clone(), Arc::new(SystemClock)).await?;
    migration.begin(target).await?;
    let migrated = migration.copy(target, |_| ()).await?;
    ensure!((migrated.sequences, migrated.sessions) == (REQUESTS + 1, 7), "{migrated:?}");
    let (left, arrived) = (everything(&**source).await?, everything(&**target).await?);
    ensure!(left.len() as u64 > REQUESTS, "only {} entries are there", left.len());
    ensure!(left == arrived, "what arrived is not what left");
    source.shutdown().await?;
    Ok(target.shutdown().await?)
}

async fn what_is_copied_to_a_driver_arrives_to_the_byte(make: MakeFixture) -> Result<()> {
    let (source, fixture) = (Kept::default(), make());
    let before = answers(source.open().await?).await?;
    copy(&source.open().await?, &fixture.open.run(()).await?).await?;
    let after = answers(fixture.open.run(()).await?).await?;
    ensure!(before == after, "requests of before are answered otherwise: {before:?}, {after:?}");
    Ok(())
}

async fn what_is_copied_from_a_driver_arrives_to_the_byte(make: MakeFixture) -> Result<()> {
    let (fixture, target) = (make(), Kept::default());
    let before = answers(fixture.open.run(()).await?).await?;
    copy(&fixture.open.run(()).await?, &target.open().await?).await?;
    let after = answers(target.open().await?).await?;
    ensure!(before == after, "requests of before are answered otherwise: {before:?}, {after:?}");
    Ok(())
}
