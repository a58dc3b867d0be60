use std::fmt;

use serde::{Deserialize, Serialize};

use crate::Invalid;

/// Bits of a timestamp that count within one millisecond.
pub const LOGICAL_BITS: u32 = 18;

/// How many timestamps one millisecond holds, and so the largest grant: 262,144.
pub const TIMESTAMPS_PER_MS: u32 = 1 << LOGICAL_BITS;

/// The last physical millisecond a timestamp can carry, in the year 4199.
pub const MAX_PHYSICAL_MS: u64 = (1 << (64 - LOGICAL_BITS)) - 1;

/// A point in the oracle's order: `physical_ms << 18 | logical`.
///
/// `physical_ms` counts milliseconds since the Unix epoch and follows the wall clock loosely; only
/// the order of timestamps is promised, not their distance from any clock.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Timestamp(u64);

impl Timestamp {
    /// The timestamp whose packed form is `packed`. Every 64-bit value is one.
    pub const fn from_u64(packed: u64) -> Self {
        Self(packed)
    }

    /// Packs a millisecond since the Unix epoch and a position within it.
    ///
    /// # Errors
    /// [`Invalid`] if `physical_ms` exceeds [`MAX_PHYSICAL_MS`] or `logical` is not below
    /// [`TIMESTAMPS_PER_MS`].
    pub fn from_parts(physical_ms: u64, logical: u32) -> Result<Self, Invalid> {
        if physical_ms > MAX_PHYSICAL_MS || logical >= TIMESTAMPS_PER_MS {
            return Err(Invalid::new(format!(
                "a timestamp has a physical part up to {MAX_PHYSICAL_MS} ms and a logical part \
                     below {TIMESTAMPS_PER_MS}, not {physical_ms} and {logical}"
            )));
        }
        Ok(Self(physical_ms << LOGICAL_BITS | u64::from(logical)))
    }

    /// Reads a time, given in milliseconds since 1970 or in RFC 3339, as the physical part of a timestamp. What is
    /// finer than a millisecond is left out.
    ///
    /// # Errors
    /// [`Invalid`] if it is neither, or lies before 1970 or beyond [`MAX_PHYSICAL_MS`].
    pub fn parse_physical_ms(text: &str) -> Result<u64, Invalid> {
        let is_number = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
        let ms = match is_number {
            true => text.parse().ok(),
            false => text
                .parse::<jiff::Timestamp>()
                .ok()
                .and_then(|time| u64::try_from(time.as_millisecond()).ok()),
        };
        let known = ms.filter(|ms| *ms <= MAX_PHYSICAL_MS);
        known.ok_or_else(|| {
            let last = Self(u64::MAX).to_rfc3339();
            Invalid::new(format!(
                "{text:?} is no time from 1970 to {last}: milliseconds since 1970, or RFC 3339 such as \
                 2026-11-22T13:30:25.822Z"
            ))
        })
    }

    /// The packed form, as stored and compared by users.
    pub const fn as_u64(self) -> u64 {
        self.0
    }

    /// Milliseconds since the Unix epoch.
    pub const fn physical_ms(self) -> u64 {
        self.0 >> LOGICAL_BITS
    }

    /// The position within the millisecond, below [`TIMESTAMPS_PER_MS`].
    pub const fn logical(self) -> u32 {
        (self.0 & (TIMESTAMPS_PER_MS as u64 - 1)) as u32
    }

    /// The physical part as a UTC time in RFC 3339 form with milliseconds.
    ///
    /// Times past the year 9999 cannot occur: [`MAX_PHYSICAL_MS`] lies in the year 4199.
    pub fn to_rfc3339(self) -> String {
        // 46 bits of milliseconds always fit an i64 and the calendar's range.
        jiff::Timestamp::from_millisecond(self.physical_ms() as i64)
            .map(|time| format!("{time:.3}"))
            .unwrap_or_default()
    }
}

impl fmt::Display for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Timestamp {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.physical_ms(), self.logical())
    }
}

/// Contiguous timestamps of one millisecond: `count` of them from `first` on.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct TimestampRange {
    first: Timestamp,
    count: u32,
}

impl TimestampRange {
    /// The range of `count` timestamps from `first` on.
    ///
    /// # Errors
    /// [`Invalid`] if `count` is 0 or the range would leave the millisecond of `first`.
    pub fn new(first: Timestamp, count: u32) -> Result<Self, Invalid> {
        if count == 0 || count > TIMESTAMPS_PER_MS - first.logical() {
            return Err(Invalid::new(format!(
                "{count} timestamps from {first:?} on do not fit in one millisecond"
            )));
        }
        Ok(Self { first, count })
    }

    /// The smallest timestamp.
    pub const fn first(self) -> Timestamp {
        self.first
    }

    /// The largest timestamp.
    pub const fn last(self) -> Timestamp {
        Timestamp(self.first.0 + self.count as u64 - 1)
    }

    /// How many timestamps the range holds; never 0.
    pub const fn count(self) -> u32 {
        self.count
    }
}

impl IntoIterator for TimestampRange {
    type Item = Timestamp;
    type IntoIter = TimestampIter;

    fn into_iter(self) -> TimestampIter {
        TimestampIter { next: self.first.0, left: self.count }
    }
}

/// Iterates a [`TimestampRange`] in rising order.
#[derive(Clone, Debug)]
pub struct TimestampIter {
    next: u64,
    left: u32,
}

impl Iterator for TimestampIter {
    type Item = Timestamp;

    fn next(&mut self) -> Option<Timestamp> {
        self.left = self.left.checked_sub(1)?;
        let timestamp = Timestamp(self.next);
        self.next = self.next.wrapping_add(1);
        Some(timestamp)
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (self.left as usize, Some(self.left as usize))
    }
}

impl ExactSizeIterator for TimestampIter {}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_round_trip(ms in 0..=MAX_PHYSICAL_MS, logical in 0..TIMESTAMPS_PER_MS) {
            let timestamp = Timestamp::from_parts(ms, logical).unwrap();
            prop_assert_eq!((timestamp.physical_ms(), timestamp.logical()), (ms, logical));
            prop_assert_eq!(Timestamp::from_u64(timestamp.as_u64()), timestamp);
        }

        #[test]
        fn order_is_by_physical_then_logical(a: u64, b: u64) {
            let (a, b) = (Timestamp::from_u64(a), Timestamp::from_u64(b));
            let parts = |t: Timestamp| (t.physical_ms(), t.logical());
            prop_assert_eq!(a.cmp(&b), parts(a).cmp(&parts(b)));
        }

        #[test]
        fn a_range_iterates_what_it_counts(ms in 0..=MAX_PHYSICAL_MS, logical in 0..TIMESTAMPS_PER_MS, count in 0..600u32) {
            let first = Timestamp::from_parts(ms, logical).unwrap();
            let fits = count > 0 && logical + count <= TIMESTAMPS_PER_MS;
            let range = TimestampRange::new(first, count);
            prop_assert_eq!(range.is_ok(), fits);
            if let Ok(range) = range {
                let all: Vec<_> = range.into_iter().collect();
                prop_assert_eq!(all.len(), count as usize);
                prop_assert_eq!(all[0], range.first());
                prop_assert_eq!(*all.last().unwrap(), range.last());
                prop_assert!(all.windows(2).all(|w| w[0] < w[1]));
                prop_assert!(all.iter().all(|t| t.physical_ms() == ms));
            }
        }
    }

    #[test]
    fn parts_out_of_range_are_refused() {
        assert!(Timestamp::from_parts(MAX_PHYSICAL_MS + 1, 0).is_err());
        assert!(Timestamp::from_parts(0, TIMESTAMPS_PER_MS).is_err());
    }

    #[test]
    fn a_time_is_read_in_either_form() {
        let read = |text| Timestamp::parse_physical_ms(text).ok();
        assert_eq!(read("1700000000123"), Some(1_700_000_000_123));
        assert_eq!(read("0"), Some(0));
        for text in ["2023-11-14T22:13:20.123Z", "2023-11-14T23:13:20.123999+01:00"] {
            assert_eq!(read(text), Some(1_700_000_000_123), "{text}");
        }
        assert_eq!(read("70368744177663"), Some(MAX_PHYSICAL_MS));
        for text in [
            "",
            "70368744177664",
            "99999999999999999999",
            "-1",
            "1969-12-31T23:59:59Z",
            "2023-11-14T22:13:20",
            "2023-11-14",
            "4200-01-01T00:00:00Z",
            "1.5",
            "soon",
        ] {
            assert_eq!(read(text), None, "{text}");
        }
    }

    #[test]
    fn wall_time_is_readable() {
        let timestamp = Timestamp::from_parts(1_700_000_000_123, 7).unwrap();
        assert_eq!(timestamp.to_rfc3339(), "2023-11-14T22:13:20.123Z");
        assert!(Timestamp::from_u64(u64::MAX).to_rfc3339().starts_with("4199-"));
    }
}
