use std::{
    collections::VecDeque,
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::Version;
use crate::{BootTime, Clock, SystemClock};

/// How many observations are remembered: under constant load those of the last 40 seconds.
const REMEMBERED: usize = 4_096;

/// Observations that follow each other faster are remembered as one.
const RESOLUTION: Duration = Duration::from_millis(10);

/// When this process first observed which version of the state: the evidence of a driver over a service
/// that decides. What is noted MUST be decided.
///
/// What is forgotten makes evidence later than it was, and so a wait longer, never shorter.
#[derive(Debug, Default)]
pub(crate) struct Observed(Mutex<VecDeque<(Version, BootTime)>>);

impl Observed {
    /// Notes that the state is at `version`, or was.
    pub(crate) fn note(&self, version: Version) {
        self.note_at(version, SystemClock.now().boot);
    }

    fn note_at(&self, version: Version, now: BootTime) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if seen.back().is_some_and(|(newest, _)| newest.position() >= version.position()) {
            return;
        }
        if seen.iter().nth_back(1).is_some_and(|&(_, before)| now.since(before) < RESOLUTION) {
            seen.pop_back();
        }
        if seen.len() == REMEMBERED {
            seen.pop_front();
        }
        seen.push_back((version, now));
    }

    /// When this very version was first observed, or a later one of its era: as
    /// [`ConsensusDriver::seen`](super::ConsensusDriver::seen) wants it.
    pub(crate) fn seen(&self, version: &Version) -> Option<BootTime> {
        let seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let older = seen.partition_point(|(other, _)| other.position() < version.position());
        let holds = |other: &Version| {
            other == version || (other.era == version.era && other.number > version.number)
        };
        seen.iter().skip(older).take(2).find(|(other, _)| holds(other)).map(|&(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn version(era: u64, number: u64) -> Version {
        Version { era, number, name: 7 }
    }

    fn at(ms: u64) -> BootTime {
        BootTime::default() + Duration::from_millis(ms)
    }

    #[test]
    fn a_version_is_seen_once_it_or_a_later_one_of_its_era_is() {
        let observed = Observed::default();
        observed.note_at(version(0, 5), at(100));
        observed.note_at(version(0, 9), at(200));
        observed.note_at(version(0, 7), at(300));
        observed.note_at(version(1, 10), at(400));
        assert_eq!(observed.seen(&version(0, 3)), Some(at(100)));
        assert_eq!(observed.seen(&version(0, 5)), Some(at(100)));
        assert_eq!(observed.seen(&version(0, 7)), Some(at(200)));
        assert_eq!(observed.seen(&version(0, 9)), Some(at(200)));
        assert_eq!(observed.seen(&version(0, 10)), None, "only another era has one as late");
        assert_eq!(observed.seen(&version(1, 2)), Some(at(400)));
        assert_eq!(observed.seen(&version(1, 11)), None);
        observed.note_at(version(1, 12), at(500));
        assert_eq!(observed.seen(&version(0, 10)), None, "nor later");
        assert_eq!(observed.seen(&version(1, 11)), Some(at(500)));
    }

    #[test]
    fn another_version_of_the_same_number_is_no_evidence() {
        let observed = Observed::default();
        let other = Version { name: 8, ..version(0, 5) };
        observed.note_at(other, at(100));
        assert_eq!(observed.seen(&version(0, 5)), None);
        observed.note_at(version(0, 6), at(200));
        assert_eq!(observed.seen(&version(0, 5)), Some(at(200)));
        assert_eq!(observed.seen(&other), Some(at(100)));
    }

    #[test]
    fn memory_is_bounded_and_evidence_only_becomes_later() {
        let observed = Observed::default();
        for number in 1..=100_000 {
            observed.note_at(version(0, number), at(number));
        }
        assert!(observed.0.lock().unwrap().len() <= REMEMBERED);
        for number in 1..=100_000 {
            let since = observed.seen(&version(0, number)).unwrap();
            assert!(since >= at(number), "evidence of {number} before it was seen");
            let is_recent = number > 65_000;
            assert!(!is_recent || since < at(number) + 2 * RESOLUTION, "{number}: {since:?}");
        }
    }
}
