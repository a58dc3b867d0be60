//! How far the wall clock is believed while a node serves.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use super::wall_clock::{Bounds, Evidence, Judgement, WallClock, excess};
use crate::{Now, state::AHEAD_STEP_MS};

/// How far the wall clock of a reign is believed.
///
/// A *reference* runs with the boot clock, from what was issued or from the wall clock, whichever is later: that is what
/// grants look at. Timestamps run at most `max_ahead` beyond the later of it and the wall clock. An *estimate* of the
/// time runs with the boot clock as well. It begins with the wall clock and follows it, unless that is further
/// away than `max_step`: a clock that leaps ahead of the estimate is not followed, and one that falls behind and is set
/// right later is, however long that takes. Where the wall clock was not believed when the reign began, the
/// estimate begins with the stored time, and the clock is believed once it passes what it did not pass then.
///
/// Stepping back is harmless: the window never goes back, and the reference falls to what was really issued.
///
/// The last quarter of `max_ahead` is for small requests. What asks for more has to wait for its turn before,
/// and while others wait for theirs it does so from half of `max_ahead` on, so that it does not take theirs.
#[derive(Debug)]
pub(crate) struct ClockGuard {
    /// The reference less the boot clock, in ms.
    reference: AtomicI64,
    /// How far beyond the reference the wall clock is believed. Behind the reference it does no harm.
    tolerance_ms: AtomicU64,
    /// The estimate less the boot clock, in ms. It and what follows are changed by one task alone.
    estimate: AtomicI64,
    /// The estimate is from a wall clock that was believed.
    is_sound: AtomicBool,
    bounds: Bounds,
    /// Up to how far ahead requests are granted as they come, whoever sends them.
    free_ahead_ms: AtomicU64,
}

/// What a grant may use of the time `now`.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct BelievedTime {
    /// The wall clock, or the reference where the wall clock is not believed.
    pub(crate) wall_ms: u64,
    /// The last millisecond a grant may use.
    pub(crate) limit_ms: u64,
}

impl ClockGuard {
    /// Begins with what was thought of the wall clock `now`, when nothing below `floor_ms` is issued.
    pub(crate) fn new(bounds: Bounds, judged: Judgement, now: Now, floor_ms: u64) -> Self {
        let is_sound = judged.clock == WallClock::Followed;
        let reference_ms = judged.time_ms.max(floor_ms);
        let estimate_ms = if is_sound { now.wall_ms } else { judged.estimate_ms };
        let guard = Self {
            reference: AtomicI64::new(offset(reference_ms, now)),
            tolerance_ms: AtomicU64::new(0),
            estimate: AtomicI64::new(offset(estimate_ms, now)),
            is_sound: AtomicBool::new(is_sound),
            bounds,
            free_ahead_ms: AtomicU64::new(0),
        };
        guard.set_tolerance(reference_ms, estimate_ms);
        guard.crowd(false);
        guard
    }

    /// Notes whether there are requests that wait for their turn.
    pub(crate) fn crowd(&self, crowded: bool) {
        let quarter = self.bounds.max_ahead_ms / 4;
        let reserved = if crowded { quarter * 2 } else { quarter };
        self.free_ahead_ms.store(self.bounds.max_ahead_ms - reserved, Ordering::Relaxed);
    }

    /// The time to grant by, as requests come.
    pub(crate) fn follow(&self, now: Now) -> BelievedTime {
        self.up_to(now, self.free_ahead_ms.load(Ordering::Relaxed))
    }

    /// The time to grant by where requests take turns, and small ones have some to themselves.
    pub(crate) fn ahead(&self, now: Now, small: bool) -> BelievedTime {
        let reserved = if small { 0 } else { self.bounds.max_ahead_ms / 4 };
        self.up_to(now, self.bounds.max_ahead_ms - reserved)
    }

    // As a part of the path of a grant.
    #[inline(always)]
    fn up_to(&self, now: Now, ahead_ms: u64) -> BelievedTime {
        let reference_ms = at(now, &self.reference);
        let latest_ms = reference_ms.saturating_add(self.tolerance_ms.load(Ordering::Relaxed));
        let wall_ms = if now.wall_ms <= latest_ms { now.wall_ms } else { reference_ms };
        BelievedTime { wall_ms, limit_ms: wall_ms.max(reference_ms).saturating_add(ahead_ms) }
    }

    /// Follows a wall clock that is believed. `reached_ms` is the last millisecond granted from; what the
    /// peers' clocks show is asked for only where it matters.
    pub(crate) fn rebase(
        &self,
        now: Now,
        reached_ms: u64,
        peers_ms: impl FnOnce() -> Vec<u64>,
    ) -> WallClock {
        let (reference_ms, estimate_ms) = (at(now, &self.reference), at(now, &self.estimate));
        let clock = match self.is_sound() {
            true => self.since_it_was_right(now.wall_ms, estimate_ms),
            false => {
                let evidence = Evidence { stored_ms: Some(estimate_ms), peers_ms: peers_ms() };
                let judged = self.bounds.judge(now.wall_ms, &evidence);
                judged.map_or(WallClock::Followed, |judged| judged.clock)
            }
        };
        if let WallClock::Ahead(_) = clock {
            return clock;
        }
        let reference_ms = now.wall_ms.max(reached_ms.min(reference_ms));
        let mut estimate_ms = estimate_ms;
        if clock == WallClock::Followed {
            self.is_sound.store(true, Ordering::Relaxed);
            estimate_ms = now.wall_ms;
        }
        // A grant may see one of the two without the other, and believe the clock by as much more or less as the
        // reference moves from one renewal to the next.
        self.reference.store(offset(reference_ms, now), Ordering::Relaxed);
        self.estimate.store(offset(estimate_ms, now), Ordering::Relaxed);
        self.set_tolerance(reference_ms, estimate_ms);
        clock
    }

    /// The wall clock was believed since this reign began, or was found right.
    pub(crate) fn is_sound(&self) -> bool {
        self.is_sound.load(Ordering::Relaxed)
    }

    /// How far ahead timestamps are reserved: only as far as is needed, where the time is not known well.
    pub(crate) fn window_ms(&self, window_ms: u64) -> u64 {
        if self.is_sound() { window_ms } else { window_ms.min(AHEAD_STEP_MS) }
    }

    fn since_it_was_right(&self, wall_ms: u64, estimate_ms: u64) -> WallClock {
        let max_step_ms = self.bounds.max_step_ms;
        if let Some(by_ms) = excess(wall_ms, estimate_ms, max_step_ms) {
            return WallClock::Ahead(Duration::from_millis(by_ms));
        }
        match excess(estimate_ms, wall_ms, max_step_ms) {
            Some(by_ms) => WallClock::Behind(Duration::from_millis(by_ms)),
            None => WallClock::Followed,
        }
    }

    fn set_tolerance(&self, reference_ms: u64, estimate_ms: u64) {
        let tolerance_ms = match self.is_sound() {
            true => {
                estimate_ms.saturating_add(self.bounds.max_step_ms).saturating_sub(reference_ms)
            }
            false => 0,
        };
        self.tolerance_ms.store(tolerance_ms, Ordering::Relaxed);
    }
}

/// A time that runs with the boot clock, now.
fn at(now: Now, offset: &AtomicI64) -> u64 {
    now.boot.as_millis().saturating_add_signed(offset.load(Ordering::Relaxed))
}

fn offset(time_ms: u64, now: Now) -> i64 {
    let difference = i128::from(time_ms) - i128::from(now.boot.as_millis());
    i64::try_from(difference).unwrap_or(i64::MAX)
}

#[cfg(test)]
#[path = "clock_guard_test.rs"]
mod tests;
