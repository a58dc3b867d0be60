//! How far the wall clock is believed: when a node takes over, and while it serves.

use std::{
    sync::atomic::{AtomicBool, AtomicI64, AtomicU64, Ordering},
    time::Duration,
};

use crate::{
    Now, OracleOptions,
    state::{AHEAD_STEP_MS, millis},
};

/// No clock of a machine on which this runs shows an earlier time, 2020-01-01, unless it was never set.
pub(crate) const EARLIEST_MS: u64 = 1_577_836_800_000;

/// What is thought of a node's wall clock.
#[derive(Clone, Copy, PartialEq, Eq, Default, Debug)]
pub enum WallClock {
    /// It is followed.
    #[default]
    Followed,
    /// It is ahead of what is believed by this much, and not followed: time goes on with the boot clock.
    Ahead(Duration),
    /// It is behind what is believed by this much. Timestamps go on where they are, until it has caught up.
    Behind(Duration),
}

/// How far a wall clock may be from other evidence of the time.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Bounds {
    max_step_ms: u64,
    max_ahead_ms: u64,
    max_jump_ms: u64,
    /// How far behind the stored time a clock that is right may be: that time is reserved ahead, for leases too.
    max_behind_ms: u64,
    trusted_until_ms: Option<u64>,
}

impl From<&OracleOptions> for Bounds {
    fn from(options: &OracleOptions) -> Self {
        let reserved = [
            options.max_clock_step,
            options.window_ahead.max(options.failover_advance),
            options.max_ahead,
            options.lease_ttl.1,
        ];
        Self {
            max_step_ms: millis(options.max_clock_step),
            max_ahead_ms: millis(options.max_ahead),
            max_jump_ms: millis(options.max_clock_jump),
            max_behind_ms: millis(
                reserved.into_iter().fold(Duration::ZERO, Duration::saturating_add),
            ),
            trusted_until_ms: options.trust_clock_until_ms,
        }
    }
}

/// What is known of the time besides the wall clock of this node.
#[derive(Clone, Default, Debug)]
pub(crate) struct Evidence {
    /// The stored time, and what the boot clock says has passed since; none for a new state.
    pub(crate) stored_ms: Option<u64>,
    /// What the wall clocks of the peers show.
    pub(crate) peers_ms: Vec<u64>,
}

/// What is thought of a wall clock whose reading is compared with other evidence.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Judgement {
    pub(crate) clock: WallClock,
    /// The time to go by: that of the clock, unless it is ahead and not followed.
    pub(crate) time_ms: u64,
    /// What the evidence says besides.
    estimate_ms: u64,
}

impl Bounds {
    /// Judges a reading of the wall clock that does not go on from an earlier one which was believed. `None` for a
    /// clock that was never set, where nothing else tells the time.
    pub(crate) fn judge(&self, wall_ms: u64, evidence: &Evidence) -> Option<Judgement> {
        let Evidence { stored_ms, peers_ms } = evidence;
        if stored_ms.is_none() && wall_ms < EARLIEST_MS {
            return None;
        }
        let median_ms = median(wall_ms, peers_ms);
        let estimate_ms = stored_ms.or(median_ms).unwrap_or(wall_ms);
        let beyond_peers_ms =
            median_ms.and_then(|median| excess(wall_ms, median, self.max_step_ms));
        let beyond_stored_ms =
            stored_ms.and_then(|stored| excess(wall_ms, stored, self.max_jump_ms));
        let is_trusted = self.trusted_until_ms.is_some_and(|until_ms| wall_ms <= until_ms);
        if let Some(by_ms) = beyond_stored_ms.or(beyond_peers_ms).filter(|_| !is_trusted) {
            let clock = WallClock::Ahead(Duration::from_millis(by_ms));
            return Some(Judgement { clock, time_ms: estimate_ms, estimate_ms });
        }
        let agrees = |median: u64| median.abs_diff(wall_ms) <= self.max_step_ms;
        let is_confirmed = is_trusted || median_ms.is_some_and(agrees);
        let behind_ms = excess(estimate_ms, wall_ms, self.max_behind_ms);
        let clock = match behind_ms.filter(|_| !is_confirmed) {
            Some(by_ms) => WallClock::Behind(Duration::from_millis(by_ms)),
            None => WallClock::Followed,
        };
        Some(Judgement { clock, time_ms: wall_ms, estimate_ms })
    }
}

/// By how much a time exceeds another one, if by more than `limit_ms`.
fn excess(time_ms: u64, other_ms: u64, limit_ms: u64) -> Option<u64> {
    time_ms.checked_sub(other_ms).filter(|by_ms| *by_ms > limit_ms)
}

/// The median of all clocks, this node's among them; of two that stand for it the earlier one. Where one says no
/// and one says yes, time goes on as it is stored, which can be made up for: a leap cannot.
fn median(own_ms: u64, peers_ms: &[u64]) -> Option<u64> {
    if peers_ms.is_empty() {
        return None;
    }
    let mut all = [&[own_ms], peers_ms].concat();
    all.sort_unstable();
    all.get((all.len() - 1) / 2).copied()
}

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
