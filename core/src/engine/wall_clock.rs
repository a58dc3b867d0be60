//! Whether a reading of the wall clock is believed, by what else is known of the time.

use std::time::Duration;

use crate::{OracleOptions, state::millis};

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
    pub(super) max_step_ms: u64,
    pub(super) max_ahead_ms: u64,
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
    pub(super) estimate_ms: u64,
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
pub(super) fn excess(time_ms: u64, other_ms: u64, limit_ms: u64) -> Option<u64> {
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

#[cfg(test)]
#[path = "wall_clock_test.rs"]
mod tests;
