use std::sync::atomic::{AtomicU64, Ordering};

use crate::{LOGICAL_BITS, MAX_PHYSICAL_MS, TIMESTAMPS_PER_MS, Timestamp, TimestampRange};

/// The highest high-water a state may hold: one millisecond short of the end, so that the word
/// behind the last timestamp never overflows.
pub const MAX_HIGH_WATER_MS: u64 = MAX_PHYSICAL_MS - 1;

/// The allocator: the next timestamp as one atomic word, and the millisecond it must not pass.
///
/// It reads no clock and takes no lock. A window belongs to one reign; the word only rises, and
/// neither it nor the ceiling is ever copied into another window.
#[derive(Debug)]
pub(crate) struct Window {
    next: AtomicU64,
    ceiling_ms: AtomicU64,
}

/// Why a window granted nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Refused {
    /// The grant would pass the ceiling: the window must be extended to this millisecond.
    Exhausted { needed_ms: u64 },
    /// The grant would run further ahead of the wall clock than allowed: wait this long.
    Ahead { by_ms: u64 },
}

impl Window {
    /// A window that grants from `floor_ms` to `ceiling_ms`, both inclusive.
    pub(crate) fn new(floor_ms: u64, ceiling_ms: u64) -> Self {
        assert!(floor_ms <= MAX_HIGH_WATER_MS && ceiling_ms <= MAX_HIGH_WATER_MS);
        Self {
            next: AtomicU64::new(floor_ms << LOGICAL_BITS),
            ceiling_ms: AtomicU64::new(ceiling_ms),
        }
    }

    /// Grants `count` timestamps of one millisecond, at `wall_ms` or later, at most `limit_ms`.
    ///
    /// `count` is 1 to [`TIMESTAMPS_PER_MS`].
    // As a part of the path of a grant: a call of its own would cost a fifth more.
    #[inline(always)]
    pub(crate) fn grant(
        &self,
        wall_ms: u64,
        limit_ms: u64,
        count: u32,
    ) -> Result<TimestampRange, Refused> {
        debug_assert!((1..=TIMESTAMPS_PER_MS).contains(&count));
        let mut seen = self.next.load(Ordering::Acquire);
        loop {
            let next = Timestamp::from_u64(seen);
            let (mut ms, mut logical) = (next.physical_ms(), next.logical());
            if wall_ms > ms {
                (ms, logical) = (wall_ms, 0);
            }
            if count > TIMESTAMPS_PER_MS - logical {
                (ms, logical) = (ms + 1, 0);
            }
            if ms > limit_ms {
                return Err(Refused::Ahead { by_ms: ms - limit_ms });
            }
            if ms > self.ceiling_ms.load(Ordering::Acquire) {
                return Err(Refused::Exhausted { needed_ms: ms });
            }
            let first = ms << LOGICAL_BITS | u64::from(logical);
            match self.next.compare_exchange_weak(
                seen,
                first + u64::from(count),
                Ordering::AcqRel,
                Ordering::Acquire,
            ) {
                Ok(_) => {
                    return Ok(TimestampRange::new(Timestamp::from_u64(first), count)
                        .expect("the grant was fitted into its millisecond above"));
                }
                Err(actual) => seen = actual,
            }
        }
    }

    /// Lets grants reach `ceiling_ms`. A lower one than before changes nothing.
    pub(crate) fn raise(&self, ceiling_ms: u64) {
        assert!(ceiling_ms <= MAX_HIGH_WATER_MS);
        self.ceiling_ms.fetch_max(ceiling_ms, Ordering::AcqRel);
    }

    /// The last millisecond that may be granted from.
    pub(crate) fn ceiling_ms(&self) -> u64 {
        self.ceiling_ms.load(Ordering::Acquire)
    }

    /// The millisecond of the next timestamp, if no clock intervened.
    pub(crate) fn reached_ms(&self) -> u64 {
        Timestamp::from_u64(self.next.load(Ordering::Acquire)).physical_ms()
    }
}

#[cfg(test)]
#[path = "window_test.rs"]
mod tests;
