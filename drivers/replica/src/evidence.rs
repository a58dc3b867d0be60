use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tsoracle_core::{BootTime, Version};

/// Commits that are remembered, at most: applied ones, and those that are only in the log. Of one beyond
/// it is known that a later one was applied, or when it was applied itself, which makes a successor wait
/// longer than it had to.
const REMEMBERED: usize = 4_096;

/// When this process first observed the commits that its [`Replica`](crate::Replica) has applied. Cheap
/// to clone.
///
/// A commit counts from when it was first in this node's log, but only once that very commit, by number
/// and name, is applied: an entry that is only in a log may yet be overwritten.
#[derive(Clone, Default, Debug)]
pub struct Evidence(Arc<Mutex<Observed>>);

#[derive(Default, Debug)]
struct Observed {
    /// When each commit that is not applied yet was first in the log.
    logged: HashMap<Version, BootTime>,
    /// The last ones that were applied, in their order.
    applied: VecDeque<Applied>,
}

#[derive(Clone, Copy, Debug)]
struct Applied {
    version: Version,
    observed: BootTime,
    applied: BootTime,
    /// Whether it was applied right after the one before, which is then known to precede it.
    follows: bool,
}

/// Whether a commit that conflicts now was stored once.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum History {
    Stored,
    NotStored,
    /// It is too long ago.
    Unknown,
}

impl Evidence {
    /// As [`ConsensusDriver::seen`](tsoracle_core::ConsensusDriver::seen) wants it.
    pub fn seen(&self, version: &Version) -> Option<BootTime> {
        let observed = self.observed();
        let found = observed.applied.get(observed.index(version))?;
        if found.version == *version {
            Some(found.observed)
        } else if found.version.position() == version.position() {
            None
        } else {
            (found.version.era == version.era).then_some(found.applied)
        }
    }

    /// Notes that the commit that makes `version` was in the log at `now`. It may never be applied.
    pub fn logged(&self, version: Version, now: BootTime) {
        let mut observed = self.observed();
        if observed.logged.len() < REMEMBERED {
            observed.logged.entry(version).or_insert(now);
        }
    }

    /// Notes that the commit that makes `version` was applied at `now`.
    pub(crate) fn applied(&self, version: Version, now: BootTime) {
        self.observed().reached(version, now, true);
    }

    /// Notes that the state is at `version` since `now`, and that it is not known what came before.
    pub(crate) fn jumped(&self, version: Version, now: BootTime) {
        self.observed().reached(version, now, false);
    }

    /// Notes that the commit was applied without becoming the state's.
    pub(crate) fn refused(&self, version: &Version) {
        self.observed().logged.remove(version);
    }

    /// Whether the commit that makes `version`, at or before the state's own, was stored.
    pub(crate) fn history(&self, version: &Version) -> History {
        let observed = self.observed();
        let index = observed.index(version);
        match observed.applied.get(index) {
            Some(found) if found.version == *version => History::Stored,
            Some(found) if found.version.position() == version.position() => History::NotStored,
            Some(found) if index > 0 && found.follows => History::NotStored,
            _ => History::Unknown,
        }
    }

    fn observed(&self) -> MutexGuard<'_, Observed> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Observed {
    fn reached(&mut self, version: Version, now: BootTime, follows: bool) {
        let observed = self.logged.remove(&version).unwrap_or(now);
        match self.applied.back() {
            Some(last) if last.version == version => return,
            Some(last) if last.version.position() > version.position() => self.applied.clear(),
            _ => {}
        }
        self.applied.push_back(Applied { version, observed, applied: now, follows });
        if self.applied.len() > REMEMBERED {
            self.applied.pop_front();
        }
        // Entries that were overwritten before they were decided are never applied.
        if self.logged.len() >= REMEMBERED {
            self.logged.clear();
        }
    }

    fn index(&self, version: &Version) -> usize {
        self.applied.partition_point(|applied| applied.version.position() < version.position())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    fn version(era: u64, number: u64, name: u128) -> Version {
        Version { era, number, name }
    }

    #[test]
    fn what_is_only_in_a_log_is_no_evidence() {
        let evidence = Evidence::default();
        evidence.logged(version(0, 1, 7), at(1));
        assert_eq!(evidence.seen(&version(0, 1, 7)), None);
        // Another entry of the same number takes its place, and is what counts.
        evidence.logged(version(0, 1, 8), at(5));
        evidence.applied(version(0, 1, 8), at(9));
        assert_eq!(evidence.seen(&version(0, 1, 7)), None);
        assert_eq!(evidence.seen(&version(0, 1, 8)), Some(at(5)));
    }

    #[test]
    fn a_later_commit_of_the_same_era_counts_from_when_it_was_applied() {
        let evidence = Evidence::default();
        evidence.logged(version(1, 9, 9), at(1));
        evidence.jumped(version(1, 8, 8), at(4));
        evidence.applied(version(1, 9, 9), at(6));
        evidence.jumped(version(1, 20, 20), at(8));
        assert_eq!(evidence.seen(&version(1, 2, 2)), Some(at(4)));
        assert_eq!(evidence.seen(&version(1, 8, 8)), Some(at(4)));
        assert_eq!(evidence.seen(&version(1, 9, 9)), Some(at(1)));
        assert_eq!(evidence.seen(&version(1, 15, 15)), Some(at(8)));
        assert_eq!(evidence.seen(&version(1, 21, 21)), None);
        assert_eq!(evidence.seen(&version(0, 8, 8)), None);
        assert_eq!(evidence.seen(&version(2, 1, 1)), None);
    }

    #[test]
    fn memory_is_bounded_and_what_is_forgotten_counts_later() {
        let evidence = Evidence::default();
        let most = REMEMBERED as u64;
        for number in 1..=2 * most {
            evidence.logged(version(0, number, 5), at(number));
            evidence.logged(version(0, number, 6), at(number));
            evidence.applied(version(0, number, 5), at(number + 1));
        }
        assert_eq!(evidence.observed().applied.len(), REMEMBERED);
        assert!(evidence.observed().logged.len() <= REMEMBERED);
        assert_eq!(evidence.seen(&version(0, 1, 5)), Some(at(most + 2)));
        assert_eq!(evidence.history(&version(0, 1, 5)), History::Unknown);
        assert_eq!(evidence.history(&version(0, 2 * most, 5)), History::Stored);
        assert_eq!(evidence.history(&version(0, 2 * most, 6)), History::NotStored);
    }

    #[test]
    fn what_is_logged_and_never_applied_is_bounded_and_makes_room() {
        let evidence = Evidence::default();
        for name in 0..2 * REMEMBERED as u128 {
            evidence.logged(version(0, 1, name), at(1));
        }
        assert_eq!(evidence.observed().logged.len(), REMEMBERED);
        evidence.applied(version(0, 1, u128::MAX), at(5));
        evidence.logged(version(0, 2, 2), at(6));
        evidence.applied(version(0, 2, 2), at(9));
        assert_eq!(evidence.seen(&version(0, 2, 2)), Some(at(6)));
    }

    #[test]
    fn a_state_that_went_back_is_evidence_of_nothing_later() {
        let evidence = Evidence::default();
        evidence.applied(version(0, 9, 9), at(1));
        evidence.jumped(version(0, 5, 5), at(3));
        assert_eq!(evidence.seen(&version(0, 9, 9)), None);
        assert_eq!(evidence.seen(&version(0, 5, 5)), Some(at(3)));
        assert_eq!(evidence.history(&version(0, 9, 9)), History::Unknown);
    }

    #[test]
    fn what_was_stored_before_a_jump_is_not_known() {
        let evidence = Evidence::default();
        evidence.jumped(version(0, 5, 5), at(1));
        evidence.applied(version(0, 6, 6), at(2));
        evidence.applied(version(1, 7, 7), at(3));
        evidence.jumped(version(1, 12, 12), at(4));
        assert_eq!(evidence.history(&version(0, 4, 4)), History::Unknown);
        assert_eq!(evidence.history(&version(0, 5, 9)), History::NotStored);
        // The era was raised right after number 6.
        assert_eq!(evidence.history(&version(0, 7, 9)), History::NotStored);
        assert_eq!(evidence.history(&version(1, 9, 9)), History::Unknown);
        assert_eq!(evidence.history(&version(1, 12, 12)), History::Stored);
    }

    #[test]
    fn a_version_that_is_reached_again_is_remembered_once_and_from_the_first_time() {
        let evidence = Evidence::default();
        for time in 0..2 * REMEMBERED as u64 {
            evidence.jumped(version(0, 5, 5), at(time + 1));
        }
        assert_eq!(evidence.observed().applied.len(), 1);
        assert_eq!(evidence.seen(&version(0, 5, 5)), Some(at(1)));
    }
}
