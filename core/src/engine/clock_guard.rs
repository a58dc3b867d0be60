use std::{
    sync::atomic::{AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::Now;

/// How far the wall clock is believed.
///
/// A reference time runs with the boot clock. A wall clock that leaps ahead of it by more than
/// `max_step` is not followed; timestamps run at most `max_ahead` beyond the later of the two.
/// Stepping back is harmless: the window never goes back, and the reference falls to what was
/// really issued.
///
/// The last quarter of `max_ahead` is for small requests. What asks for more has to wait for its turn before,
/// and while others wait for theirs it does so from half of `max_ahead` on, so that it does not take theirs.
#[derive(Debug)]
pub(crate) struct ClockGuard {
    /// The reference time less the boot clock, in ms.
    offset_ms: AtomicI64,
    max_step_ms: u64,
    max_ahead_ms: u64,
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
    /// Starts the reference at the wall clock or at `floor_ms`, whichever is later.
    pub(crate) fn new(now: Now, floor_ms: u64, max_step: Duration, max_ahead: Duration) -> Self {
        let start_ms = now.wall_ms.max(floor_ms);
        let guard = Self {
            offset_ms: AtomicI64::new(offset(start_ms, now)),
            max_step_ms: max_step.as_millis() as u64,
            max_ahead_ms: max_ahead.as_millis() as u64,
            free_ahead_ms: AtomicU64::new(0),
        };
        guard.crowd(false);
        guard
    }

    /// Notes whether there are requests that wait for their turn.
    pub(crate) fn crowd(&self, crowded: bool) {
        let quarter = self.max_ahead_ms / 4;
        let reserved = if crowded { quarter * 2 } else { quarter };
        self.free_ahead_ms.store(self.max_ahead_ms - reserved, Ordering::Relaxed);
    }

    /// The time to grant by, as requests come.
    pub(crate) fn follow(&self, now: Now) -> BelievedTime {
        self.up_to(now, self.free_ahead_ms.load(Ordering::Relaxed))
    }

    /// The time to grant by where requests take turns, and small ones have some to themselves.
    pub(crate) fn ahead(&self, now: Now, small: bool) -> BelievedTime {
        let reserved = if small { 0 } else { self.max_ahead_ms / 4 };
        self.up_to(now, self.max_ahead_ms - reserved)
    }

    // As a part of the path of a grant.
    #[inline(always)]
    fn up_to(&self, now: Now, ahead_ms: u64) -> BelievedTime {
        let reference_ms = self.reference_ms(now);
        let wall_ms = self.believed(now, reference_ms).unwrap_or(reference_ms);
        BelievedTime { wall_ms, limit_ms: wall_ms.max(reference_ms).saturating_add(ahead_ms) }
    }

    /// Sets the reference again from a wall clock that is believed and from `reached_ms`, the last
    /// millisecond granted from. Returns by how much the wall clock leapt if it is not believed.
    pub(crate) fn rebase(&self, now: Now, reached_ms: u64) -> Result<(), Duration> {
        let reference_ms = self.reference_ms(now);
        let Some(wall_ms) = self.believed(now, reference_ms) else {
            return Err(Duration::from_millis(now.wall_ms - reference_ms));
        };
        let rebased_ms = wall_ms.max(reached_ms.min(reference_ms));
        self.offset_ms.store(offset(rebased_ms, now), Ordering::Relaxed);
        Ok(())
    }

    fn believed(&self, now: Now, reference_ms: u64) -> Option<u64> {
        (now.wall_ms <= reference_ms.saturating_add(self.max_step_ms)).then_some(now.wall_ms)
    }

    fn reference_ms(&self, now: Now) -> u64 {
        let boot_ms = now.boot.as_millis();
        boot_ms.saturating_add_signed(self.offset_ms.load(Ordering::Relaxed))
    }
}

fn offset(time_ms: u64, now: Now) -> i64 {
    let difference = i128::from(time_ms) - i128::from(now.boot.as_millis());
    i64::try_from(difference).unwrap_or(i64::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Clock, ManualClock};

    const HOUR: Duration = Duration::from_secs(3_600);
    const HOUR_MS: u64 = 3_600_000;
    const NOON: u64 = 1_800_000_000_000;
    /// Three quarters of how far timestamps may be ahead.
    const FREE_MS: u64 = 2_250;

    fn guard(clock: &ManualClock, floor_ms: u64) -> ClockGuard {
        ClockGuard::new(clock.now(), floor_ms, Duration::from_secs(10), Duration::from_secs(3))
    }

    #[test]
    fn a_wall_clock_that_runs_well_is_followed() {
        let clock = ManualClock::new(NOON);
        let guard = guard(&clock, 0);
        for _ in 0..100 {
            clock.advance(Duration::from_millis(299));
            let wall_ms = clock.now().wall_ms;
            assert_eq!(
                guard.follow(clock.now()),
                BelievedTime { wall_ms, limit_ms: wall_ms + FREE_MS }
            );
            assert_eq!(guard.rebase(clock.now(), wall_ms), Ok(()));
        }
    }

    #[test]
    fn an_hour_ahead_for_a_moment_leaves_no_trace() {
        let clock = ManualClock::new(NOON);
        let guard = guard(&clock, 0);
        clock.set_wall(NOON + HOUR_MS);
        assert_eq!(
            guard.follow(clock.now()),
            BelievedTime { wall_ms: NOON, limit_ms: NOON + FREE_MS }
        );
        assert_eq!(guard.rebase(clock.now(), NOON), Err(HOUR));
        clock.set_wall(NOON);
        clock.advance(Duration::from_millis(5));
        assert_eq!(guard.follow(clock.now()).wall_ms, NOON + 5);
        assert_eq!(guard.rebase(clock.now(), NOON), Ok(()));
    }

    #[test]
    fn an_hour_back_and_forth_is_absorbed() {
        let clock = ManualClock::new(NOON);
        let guard = guard(&clock, 0);
        clock.set_wall(NOON - HOUR_MS);
        assert_eq!(guard.rebase(clock.now(), NOON), Ok(()));
        assert_eq!(guard.follow(clock.now()).limit_ms, NOON + FREE_MS, "requests need not wait");
        clock.advance(Duration::from_secs(60));
        assert_eq!(guard.rebase(clock.now(), NOON), Ok(()));
        assert_eq!(guard.follow(clock.now()).limit_ms, NOON + FREE_MS, "nor does time run away");
        clock.set_wall(NOON + 60_000 - 50_000);
        assert_eq!(guard.follow(clock.now()).wall_ms, NOON + 10_000, "back to normal is followed");
    }

    #[test]
    fn a_floor_far_ahead_of_the_wall_clock_can_be_granted_from() {
        let clock = ManualClock::new(NOON);
        let guard = guard(&clock, NOON + HOUR_MS);
        assert_eq!(guard.follow(clock.now()).limit_ms, NOON + HOUR_MS + FREE_MS);
    }

    #[test]
    fn small_requests_have_the_last_quarter() {
        let clock = ManualClock::new(NOON);
        let guard = guard(&clock, 0);
        assert_eq!(guard.ahead(clock.now(), true).limit_ms, NOON + 3_000);
        assert_eq!(guard.ahead(clock.now(), false).limit_ms, NOON + FREE_MS);
        guard.crowd(true);
        assert_eq!(guard.follow(clock.now()).limit_ms, NOON + 1_500);
        assert_eq!(guard.ahead(clock.now(), false).limit_ms, NOON + FREE_MS);
        guard.crowd(false);
        assert_eq!(guard.follow(clock.now()).limit_ms, NOON + FREE_MS);
    }
}
