//! The stored state: its version and the reign record, and what each kind of commit writes.

use crate::clauses::{Clause, Rules};

/// Names one state, as the contract of drivers has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Version {
    pub(crate) era: u8,
    pub(crate) number: u8,
    /// Drawn for each commit. Here it is the lowest that is not in use with this number.
    pub(crate) name: u8,
}

impl Version {
    pub(crate) const FIRST: Self = Self { era: 0, number: 0, name: 0 };

    /// Whether this one is a later version of the same era than `other`.
    pub(crate) fn is_after(self, other: Self, rules: Rules) -> bool {
        let same_era = self.era == other.era || !rules.keep(Clause::EvidenceOfSameEra);
        same_era && self.number > other.number
    }
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Record {
    /// Era and counter in one number.
    pub(crate) epoch: u8,
    /// The highest timestamp that any reign so far may have granted.
    pub(crate) high_water: u8,
    /// In units of the boot clock.
    pub(crate) lease: u16,
    pub(crate) opened_by: Option<u8>,
    pub(crate) released: bool,
    /// Of the commit that wrote this record.
    pub(crate) version: Version,
}

/// Who plans a commit: the node's identity, and the lease it is configured with.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Author {
    pub(crate) id: u8,
    pub(crate) lease: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Kind {
    Fence,
    Open,
    Extend,
    Release,
    /// Writes the version only, to decide what becomes of another commit on the same base.
    Settle,
}

/// What a new leader has to wait for: the lease of the record that its fence replaces.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Wait {
    pub(crate) lease: u16,
    pub(crate) replaced: Version,
}

impl Record {
    /// No node has ever led. Nothing is open, so it counts as released.
    pub(crate) fn fresh() -> Self {
        Self {
            epoch: 0,
            high_water: 0,
            lease: 0,
            opened_by: None,
            released: true,
            version: Version::FIRST,
        }
    }

    /// What a fence writes over this record, and the floor of the reign that may follow.
    pub(crate) fn fenced(self, rules: Rules, author: Author, now: u8, headroom: u8) -> (Self, u8) {
        let floor = now.max(self.high_water + u8::from(rules.keep(Clause::FloorAboveHighWater)));
        let old = if rules.keep(Clause::OldLeaseKept) { self.lease } else { 0 };
        let own = if rules.keep(Clause::FenceRecordsOwnLease) { author.lease } else { 0 };
        let kept = rules.keep(Clause::OpenedByKept);
        let raised = if rules.keep(Clause::FenceRaisesHighWater) { floor + headroom } else { 0 };
        let record = Self {
            epoch: self.epoch + u8::from(rules.keep(Clause::FenceRaisesEpoch)),
            high_water: self.high_water.max(raised),
            lease: old.max(own),
            opened_by: if kept { self.opened_by } else { Some(author.id) },
            released: self.released || !rules.keep(Clause::ReleasedKept),
            ..self
        };
        (record, floor)
    }

    /// What a node that replaces this record has to wait for.
    pub(crate) fn wait(self, rules: Rules, author: Author) -> Option<Wait> {
        let own = self.opened_by == Some(author.id);
        let waits = !self.released && !own && rules.keep(Clause::Waits);
        waits.then_some(Wait { lease: self.lease, replaced: self.version })
    }

    pub(crate) fn opened(mut self, rules: Rules, author: Author) -> Self {
        if rules.keep(Clause::OpenSetsOpenedBy) || self.opened_by.is_none() {
            self.opened_by = Some(author.id);
        }
        if rules.keep(Clause::OpenRecordsLease) {
            self.lease = author.lease;
        }
        if rules.keep(Clause::OpenClearsReleased) {
            self.released = false;
        }
        self
    }

    pub(crate) fn extended(self, high_water: u8) -> Self {
        Self { high_water: self.high_water.max(high_water), ..self }
    }

    pub(crate) fn released(self) -> Self {
        Self { released: true, ..self }
    }

    /// The record of a state that was restored from this one, and adopted by an operator as `era`.
    /// `lost` is the record that the restored one takes the place of, `longest` the longest lease that
    /// any node is configured with.
    pub(crate) fn adopted(self, rules: Rules, era: u8, lost: Self, longest: u16) -> Self {
        let mut record = Self { epoch: 16 * era + self.epoch % 16 + 1, ..self };
        if rules.keep(Clause::AdoptionRaisesHighWater) {
            record.high_water = self.high_water.max(lost.high_water);
        }
        if rules.keep(Clause::AdoptionTakesLongestLease) {
            record.lease = longest;
        }
        if rules.keep(Clause::AdoptionClearsOpenedBy) {
            record.opened_by = None;
        }
        if rules.keep(Clause::AdoptionClearsReleased) {
            record.released = false;
        }
        record
    }
}
