//! What the reign thinks of the wall clock.

use std::{mem, time::Duration};

use super::Service;
use crate::{Now, engine::WallClock};

impl Service<'_> {
    pub(super) fn next_high_water(&mut self, now: Now) -> u64 {
        self.watch_clock(now);
        self.reign.next_high_water(now)
    }

    /// Lets the reign follow the wall clock, and reports what it thinks of it, once.
    pub(super) fn watch_clock(&mut self, now: Now) {
        let driver = self.shared.guard.driver();
        let clock = self.reign.follow_wall(now, || driver.peer_clocks(now.boot));
        let before = mem::replace(&mut self.clock, clock);
        self.shared.show_clock(clock, self.reign.ahead_of_clock(now));
        if mem::discriminant(&clock) == mem::discriminant(&before) {
            return;
        }
        match clock {
            WallClock::Followed => tracing::info!("the wall clock is right again, and followed"),
            WallClock::Ahead(by) => {
                self.shared.meters.clock_leaps.increment(1);
                tracing::warn!(
                    by = %whole_seconds(by),
                    "the wall clock is ahead of what is believed, and not followed: timestamps go on at the pace of \
                     the boot clock until it is set right; if it is right, start this node with \
                     trust_clock_until set to a time shortly after this one"
                );
            }
            WallClock::Behind(by) => tracing::warn!(
                by = %whole_seconds(by),
                "the wall clock is behind the time that is stored: timestamps go on where they are, until it has \
                 caught up or is set right"
            ),
        }
    }
}

/// A time as people read it.
fn whole_seconds(time: Duration) -> String {
    let seconds = time.as_secs();
    match seconds / 86_400 {
        0 => format!("{seconds} s"),
        days => format!("{days} days and {} s", seconds % 86_400),
    }
}
