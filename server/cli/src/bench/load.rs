use std::{
    collections::BTreeMap,
    future::Future,
    io::{IsTerminal as _, Write as _, stderr},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use hdrhistogram::Histogram;
use tokio::task::JoinSet;
use tsoracle_core::{Clock as _, SystemClock};

use crate::failure::Failure;

/// One of many callers, each of which calls again once it is answered.
pub trait Caller: Clone + Send + 'static {
    /// Makes one call, to its end.
    fn call(&mut self) -> impl Future<Output = Result<(), Refusal>> + Send;
}

/// Why a call failed.
#[derive(Debug)]
pub struct Refusal {
    /// What such failures are counted under.
    pub kind: String,
    pub message: String,
}

/// When a load runs, from its start on.
#[derive(Clone, Copy, Debug)]
pub struct Window {
    /// Not counted: connections open up and caches fill.
    pub warm_up: Duration,
    pub length: Duration,
}

/// What was measured. Latencies are in nanoseconds.
#[derive(Clone, Debug)]
pub struct Measured {
    pub calls: u64,
    /// Of the calls that were timed.
    pub latencies: Histogram<u64>,
    pub elapsed: Duration,
    pub errors: BTreeMap<String, u64>,
    pub last_error: Option<String>,
    /// The longest time, in whole milliseconds, in which no call at all was answered.
    pub longest_pause: Duration,
}

/// In which milliseconds something was answered, a bit each: callers set them without meeting at one
/// counter.
#[derive(Clone, Default, Debug)]
struct Answered(Vec<u64>);

impl Answered {
    fn note(&mut self, since: Duration) {
        let millis = since.as_millis() as usize;
        if self.0.len() <= millis / 64 {
            self.0.resize(millis / 64 + 1, 0);
        }
        self.0[millis / 64] |= 1 << (millis % 64);
    }

    fn join(&mut self, other: &Self) {
        self.0.resize(self.0.len().max(other.0.len()), 0);
        for (ours, theirs) in self.0.iter_mut().zip(&other.0) {
            *ours |= theirs;
        }
    }

    /// The longest time without an answer within `length`.
    fn longest_pause(&self, length: Duration) -> Duration {
        let end = length.as_millis() as usize;
        let has = |millis: usize| {
            self.0.get(millis / 64).is_some_and(|bits| bits >> (millis % 64) & 1 == 1)
        };
        let (mut from, mut longest) = (0, 0);
        for millis in (0..end).filter(|millis| has(*millis)).chain([end]) {
            longest = longest.max(millis - from);
            from = millis + 1;
        }
        Duration::from_millis(longest as u64)
    }
}

/// What some of the callers have counted.
#[derive(Default, Debug)]
struct Shard {
    measured: Measured,
    answered: Answered,
}

/// Latencies beyond this count as this much.
const LONGEST: Duration = Duration::from_secs(60);

/// Callers share this many counters: few enough to stay in the cache, enough that no two threads
/// meet at one.
const SHARDS: usize = 16;

/// From this number of callers on, only one call in [`TIMED`] is timed while calls are [`QUICK`]: what reading a clock
/// and keeping the figure cost would be much of what the fastest calls cost, and there are figures enough.
const MANY_CALLERS: usize = 256;
const TIMED: u32 = 8;
const QUICK: Duration = Duration::from_millis(1);

/// How long callers whose call failed wait: a server that refuses at once must not be flooded.
const PAUSE: Duration = Duration::from_millis(10);

/// How long calls may go on beyond the end before they are given up.
const GRACE: Duration = Duration::from_secs(10);

/// How often the progress line changes.
const PROGRESS: Duration = Duration::from_millis(500);

impl Default for Measured {
    fn default() -> Self {
        let longest = u64::try_from(LONGEST.as_nanos()).unwrap_or(u64::MAX);
        Self {
            latencies: Histogram::new_with_bounds(1, longest, 2)
                .expect("the bounds are in order, and the precision is one there is"),
            calls: 0,
            elapsed: Duration::ZERO,
            errors: BTreeMap::new(),
            last_error: None,
            longest_pause: Duration::ZERO,
        }
    }
}

impl Measured {
    /// `calls` calls were answered, the last of which took `latency`.
    pub fn record(&mut self, calls: u32, latency: Duration) {
        self.calls += u64::from(calls);
        self.latencies.saturating_record(u64::try_from(latency.as_nanos()).unwrap_or(u64::MAX));
    }

    fn refused(&mut self, refusal: Refusal) {
        *self.errors.entry(refusal.kind).or_default() += 1;
        self.last_error = Some(refusal.message);
    }

    /// Takes in what was measured at the same time elsewhere.
    fn join(&mut self, other: &Self) {
        // Both have the same bounds, which is all that could be wrong.
        let _ = self.latencies.add(&other.latencies);
        self.calls += other.calls;
        for (kind, count) in &other.errors {
            *self.errors.entry(kind.clone()).or_default() += count;
        }
        self.last_error = self.last_error.take().or_else(|| other.last_error.clone());
    }

    /// Takes in what was measured at another time.
    pub fn append(&mut self, later: &Self) {
        self.join(later);
        self.elapsed += later.elapsed;
        self.longest_pause = self.longest_pause.max(later.longest_pause);
    }

    pub fn calls_per_second(&self) -> f64 {
        match self.elapsed.as_secs_f64() {
            0.0 => 0.0,
            seconds => self.calls as f64 / seconds,
        }
    }

    /// The latency that such a share of the calls did not exceed, in microseconds.
    pub fn quantile_us(&self, share: f64) -> f64 {
        self.latencies.value_at_quantile(share) as f64 / 1_000.0
    }

    /// That there is something to speak of.
    pub fn some(self, what: &str) -> Result<Self, Failure> {
        match (self.calls, &self.last_error) {
            (0, Some(error)) => Err(Failure::failed(format!("no {what} succeeded: {error:#}"))),
            (0, None) => Err(Failure::failed(format!("no {what} was answered in time"))),
            _ => Ok(self),
        }
    }
}

/// Runs all callers at once, in a closed loop: none has more than one call under way.
pub async fn run<C: Caller>(callers: Vec<C>, window: Window, progress: bool) -> Measured {
    let shards: Arc<[Mutex<Shard>]> = (0..SHARDS).map(|_| Mutex::default()).collect();
    let started = now();
    let from = started + window.warm_up;
    let until = from + window.length;
    let mut running = JoinSet::new();
    let timed = if callers.len() < MANY_CALLERS { 1 } else { TIMED };
    for (index, caller) in callers.into_iter().enumerate() {
        let shards = shards.clone();
        running.spawn(async move {
            repeat(caller, timed, &shards[index % SHARDS], from, until).await;
        });
    }
    let end = tokio::time::timeout_at((until + GRACE).into(), async {
        while !running.is_empty() {
            tokio::select! {
                _ = running.join_next() => {}
                () = SystemClock.sleep(PROGRESS), if progress => show(&shards, from),
            }
        }
    });
    let late = end.await.is_err();
    let mut measured = Measured { elapsed: window.length, ..Measured::default() };
    let mut all = Answered::default();
    for shard in &*shards {
        let shard = lock(shard);
        measured.join(&shard.measured);
        all.join(&shard.answered);
    }
    measured.longest_pause = all.longest_pause(window.length);
    if late {
        let unanswered = u64::try_from(running.len()).unwrap_or(u64::MAX);
        measured.errors.insert("unanswered".into(), unanswered);
    }
    if progress {
        clear();
    }
    measured
}

/// Calls again and again. One call in `timed` is timed while they are quick; those before it count when it is
/// answered.
async fn repeat<C: Caller>(
    mut caller: C,
    timed: u32,
    shard: &Mutex<Shard>,
    from: Instant,
    until: Instant,
) {
    let mut answered = now();
    let mut is_quick = false;
    while answered < until {
        let mut calls = 1;
        let mut outcome = Ok(());
        let mut sent = answered;
        if timed > 1 && is_quick {
            while calls < timed && outcome.is_ok() {
                outcome = caller.call().await;
                calls += 1;
            }
            sent = now();
        }
        if outcome.is_ok() {
            outcome = caller.call().await;
        }
        answered = now();
        is_quick = answered - sent < QUICK;
        let counts = answered >= from && answered < until;
        match outcome {
            Ok(()) if counts => {
                let mut shard = lock(shard);
                shard.measured.record(calls, answered - sent);
                shard.answered.note(answered - from);
            }
            Ok(()) => {}
            Err(refusal) => {
                if counts {
                    lock(shard).measured.refused(refusal);
                }
                SystemClock.sleep(PAUSE).await;
                answered = now();
            }
        }
    }
}

/// Shows how it goes, in one line that the next one overwrites.
fn show(shards: &[Mutex<Shard>], from: Instant) {
    let elapsed = now().saturating_duration_since(from).as_secs_f64();
    let (mut calls, mut failed) = (0, 0);
    for shard in shards {
        let shard = lock(shard);
        calls += shard.measured.calls;
        failed += shard.measured.errors.values().sum::<u64>();
    }
    let line = match elapsed {
        0.0 => "warming up".into(),
        _ => format!("{elapsed:.1} s  {:.0} calls/s  {failed} failed", calls as f64 / elapsed),
    };
    // A progress line that cannot be shown is none.
    let _ = write!(stderr(), "\r\x1b[K{line}");
}

fn clear() {
    let _ = write!(stderr(), "\r\x1b[K");
}

/// Whether standard error is a terminal.
pub fn is_watched() -> bool {
    stderr().is_terminal()
}

fn lock(shard: &Mutex<Shard>) -> MutexGuard<'_, Shard> {
    // Counts are whole between any two statements, so a panic elsewhere cannot spoil them.
    shard.lock().unwrap_or_else(PoisonError::into_inner)
}

#[expect(clippy::disallowed_methods, reason = "a latency is short, and nothing is decided by it")]
pub fn now() -> Instant {
    Instant::now()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Clone)]
    struct EveryThird(u32);

    impl Caller for EveryThird {
        async fn call(&mut self) -> Result<(), Refusal> {
            tokio::task::yield_now().await;
            self.0 += 1;
            match self.0 % 3 {
                0 => Err(Refusal { kind: "THIRD".into(), message: "the third one".into() }),
                _ => Ok(()),
            }
        }
    }

    #[tokio::test]
    async fn calls_and_failures_are_counted_apart() {
        let window = Window { warm_up: Duration::ZERO, length: Duration::from_millis(60) };
        let measured = run(vec![EveryThird(0); 20], window, false).await;
        assert!(measured.calls >= 40, "{measured:?}");
        assert!(measured.errors["THIRD"] >= 20 && measured.errors.len() == 1, "{measured:?}");
        assert_eq!(measured.last_error.as_deref(), Some("the third one"));
        assert_eq!(measured.elapsed, window.length);
    }

    #[test]
    fn slices_add_up() {
        let mut sum = Measured::default();
        for millis in [1, 3] {
            let mut slice = Measured { elapsed: Duration::from_secs(1), ..Measured::default() };
            slice.record(4, Duration::from_millis(millis));
            sum.append(&slice);
        }
        assert_eq!((sum.calls, sum.calls_per_second()), (8, 4.0));
        assert!((sum.quantile_us(0.5) / 1_000.0 - 1.0).abs() < 0.02);
        assert!((sum.quantile_us(1.0) / 3_000.0 - 1.0).abs() < 0.02);
    }

    #[test]
    fn a_pause_is_one_of_all_callers() {
        let (length, millis) = (Duration::from_millis(1_000), Duration::from_millis);
        let mut answered = [Answered::default(), Answered::default()];
        assert_eq!(answered[0].longest_pause(length), length, "nothing was answered at all");
        for (caller, at) in [(0, 250), (1, 263), (0, 264), (0, 500), (1, 400), (1, 700), (0, 900)] {
            answered[caller].note(millis(at));
        }
        let [mut all, other] = answered;
        all.join(&other);
        assert_eq!(all.longest_pause(length), millis(250), "before the first answer");
        all.note(millis(100));
        assert_eq!(all.longest_pause(length), millis(199), "from 500 to 700");
        all.note(millis(800));
        all.note(millis(600));
        assert_eq!(all.longest_pause(millis(1_200)), millis(299), "and to the end");
    }

    #[test]
    fn nothing_measured_is_a_failure() {
        assert!(Measured::default().some("call").is_err());
    }
}
