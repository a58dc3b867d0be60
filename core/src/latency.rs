use std::{
    sync::atomic::{AtomicU64, Ordering},
    time::Duration,
};

use metrics::Histogram;

use crate::{BootTime, series::Series};

/// How many of the last ones are remembered one by one.
const REMEMBERED: usize = 64;

/// What counts as recent.
const RECENT: Duration = Duration::from_secs(30);

/// How long something takes that is done again and again, one at a time: commits, writes to a disk. One record, for the
/// status page, for what is wrong, and for a series.
///
/// Whatever does it notes that with some atomic stores; no lock is taken, and whoever looks waits for nothing.
#[derive(Debug)]
pub struct Latency {
    count: AtomicU64,
    sum_ns: AtomicU64,
    /// When what is under way began, in nanoseconds of boot time; 0 if nothing is.
    began: AtomicU64,
    last: [Sample; REMEMBERED],
    histogram: Histogram,
}

/// One that has ended. The two may be of different ones for a moment, which harms nobody.
#[derive(Default, Debug)]
struct Sample {
    ended: AtomicU64,
    took_ns: AtomicU64,
}

impl Default for Latency {
    fn default() -> Self {
        Self {
            count: AtomicU64::new(0),
            sum_ns: AtomicU64::new(0),
            began: AtomicU64::new(0),
            last: std::array::from_fn(|_| Sample::default()),
            histogram: Histogram::noop(),
        }
    }
}

/// What a [`Latency`] shows at some moment.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub struct LatencySummary {
    /// How many there were.
    pub count: u64,
    /// How long all of them took together.
    pub sum: Duration,
    /// How many of the last 64 have ended within the last 30 s.
    pub recent: usize,
    /// How long half of these took at most.
    pub median: Duration,
    /// How long the longest of these took.
    pub max: Duration,
    /// For how long the one that is under way has been.
    pub under_way: Option<Duration>,
}

impl Latency {
    /// One whose times that series shows as well. A recorder must be installed before.
    pub fn shown_as(series: Series) -> Self {
        Self { histogram: series.histogram(), ..Self::default() }
    }

    /// One begins. If what is returned is dropped, it has failed, and does not count.
    pub fn begin(&self, now: BootTime) -> Timing<'_> {
        self.began.store(now.as_nanos().max(1), Ordering::Relaxed);
        Timing { latency: self, began: now }
    }

    fn note(&self, began: BootTime, now: BootTime) {
        let took = now.since(began);
        let took_ns = took.as_nanos() as u64;
        self.histogram.record(took.as_secs_f64());
        let number = self.count.fetch_add(1, Ordering::Relaxed);
        self.sum_ns.fetch_add(took_ns, Ordering::Relaxed);
        let sample = &self.last[(number % REMEMBERED as u64) as usize];
        sample.took_ns.store(took_ns, Ordering::Relaxed);
        sample.ended.store(now.as_nanos().max(1), Ordering::Relaxed);
    }

    /// What it shows `now`.
    pub fn summary(&self, now: BootTime) -> LatencySummary {
        let earliest = (now - RECENT).as_nanos();
        let mut recent: Vec<_> = self
            .last
            .iter()
            .filter(|sample| sample.ended.load(Ordering::Relaxed) > earliest)
            .map(|sample| sample.took_ns.load(Ordering::Relaxed))
            .collect();
        recent.sort_unstable();
        let nanos = |at: usize| Duration::from_nanos(recent.get(at).copied().unwrap_or(0));
        let began = Some(self.began.load(Ordering::Relaxed)).filter(|began| *began > 0);
        LatencySummary {
            count: self.count.load(Ordering::Relaxed),
            sum: Duration::from_nanos(self.sum_ns.load(Ordering::Relaxed)),
            recent: recent.len(),
            median: nanos(recent.len().saturating_sub(1) / 2),
            max: nanos(recent.len().saturating_sub(1)),
            under_way: began.map(|began| now.since(BootTime::from_nanos(began))),
        }
    }
}

/// One that is under way.
#[derive(Debug)]
pub struct Timing<'a> {
    latency: &'a Latency,
    began: BootTime,
}

impl Timing<'_> {
    /// It has ended, and counts.
    pub fn end(self, now: BootTime) {
        self.latency.note(self.began, now);
    }
}

impl Drop for Timing<'_> {
    fn drop(&mut self) {
        // Another one may have begun meanwhile, as after a commit that was lost track of.
        let (began, ordering) = (self.began.as_nanos().max(1), Ordering::Relaxed);
        let _ = self.latency.began.compare_exchange(began, 0, ordering, ordering);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(ms: u64) -> BootTime {
        BootTime::from_nanos(ms * 1_000_000)
    }

    #[test]
    fn what_is_recent_is_told_from_all() {
        let latency = Latency::default();
        assert_eq!(latency.summary(at(50_000)), LatencySummary::default());
        latency.begin(at(0)).end(at(900));
        for (began, took) in [(40_000, 5), (41_000, 7), (42_000, 300)] {
            latency.begin(at(began)).end(at(began + took));
        }
        let timing = latency.begin(at(45_000));
        let ms = Duration::from_millis;
        let expected = LatencySummary {
            count: 4,
            sum: ms(1_212),
            recent: 3,
            median: ms(7),
            max: ms(300),
            under_way: Some(ms(2_000)),
        };
        assert_eq!(latency.summary(at(47_000)), expected);
        drop(timing);
        let later = latency.summary(at(120_000));
        assert_eq!((later.count, later.recent, later.under_way), (4, 0, None));
    }

    #[test]
    fn the_end_of_one_is_not_that_of_the_next() {
        let latency = Latency::default();
        let lost = latency.begin(at(1));
        let next = latency.begin(at(10));
        drop(lost);
        assert_eq!(latency.summary(at(15)).under_way, Some(Duration::from_millis(5)));
        next.end(at(20));
        assert_eq!(latency.summary(at(21)).under_way, None);
    }

    #[test]
    fn the_last_ones_are_remembered() {
        let latency = Latency::default();
        for number in 0..200 {
            latency.begin(at(number)).end(at(number + if number < 100 { 50 } else { 1 }));
        }
        let summary = latency.summary(at(300));
        assert_eq!((summary.count, summary.recent), (200, REMEMBERED));
        assert_eq!(summary.max, Duration::from_millis(1));
    }
}
