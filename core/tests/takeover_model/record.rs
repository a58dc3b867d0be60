//! The reign record: the one shared, linearizable register, and what the four commands do to it.

use crate::clauses::{Clause, Rules};

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Stage {
    Fenced,
    Open,
    Released,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Record {
    pub(crate) epoch: u8,
    pub(crate) stage: Stage,
    /// The highest timestamp that any reign so far may have granted.
    pub(crate) high_water: u8,
    /// In units of the boot clock.
    pub(crate) lease: u16,
    pub(crate) opened_by: Option<u8>,
    pub(crate) released: bool,
    /// Counts the writes of this record, as a log index or a modification revision does.
    pub(crate) revision: u8,
}

/// Who submits a command: the node's identity, its epoch, and the lease it is configured with.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Author {
    pub(crate) id: u8,
    pub(crate) epoch: u8,
    pub(crate) lease: u16,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Command {
    /// `read` is the record as it was when the fence was submitted. Only a model without
    /// `FloorFromReplaced` or `WaitReadsReplaced` looks at it.
    Fence {
        now: u8,
        headroom: u8,
        read: Option<Record>,
    },
    /// Carries the window that the fence granted, for the reign that starts with the reply.
    Open {
        floor: u8,
        ceiling: u8,
    },
    Extend {
        high_water: u8,
    },
    Release,
}

/// What an accepted command replies.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Reply {
    Fenced { floor: u8, high_water: u8, replaced: Record },
    Done,
}

impl Record {
    /// Nobody has ever led. Nothing is open, so it counts as released.
    pub(crate) fn fresh() -> Self {
        Self {
            epoch: 0,
            stage: Stage::Fenced,
            high_water: 0,
            lease: 0,
            opened_by: None,
            released: true,
            revision: 0,
        }
    }

    /// Applies a command, or refuses it with `None` and leaves the record as it was.
    pub(crate) fn apply(
        &mut self,
        rules: Rules,
        author: Author,
        command: Command,
    ) -> Option<Reply> {
        if !self.accepts(rules, author.epoch, command) {
            return None;
        }
        let before = *self;
        let reply = match command {
            Command::Fence { now, headroom, read } => {
                self.fence(rules, author, now, headroom, read)
            }
            Command::Open { .. } => self.open(rules, author),
            Command::Extend { high_water } => {
                self.high_water = self.high_water.max(high_water);
                Reply::Done
            }
            Command::Release => {
                self.stage = Stage::Released;
                self.released = true;
                Reply::Done
            }
        };
        if rules.keep(Clause::RenewalIsAWrite) || *self != before {
            self.revision += 1;
        }
        Some(reply)
    }

    /// Whether the epoch and the stage admit the command.
    pub(crate) fn accepts(&self, rules: Rules, epoch: u8, command: Command) -> bool {
        let older_refused = match command {
            Command::Fence { .. } => Clause::OlderFenceRefused,
            Command::Open { .. } => Clause::OlderOpenRefused,
            Command::Extend { .. } => Clause::OlderExtendRefused,
            Command::Release => Clause::OlderReleaseRefused,
        };
        if epoch < self.epoch && rules.keep(older_refused) {
            return false;
        }
        let after_release =
            self.stage == Stage::Released && !rules.keep(Clause::NothingAfterRelease);
        match command {
            Command::Fence { .. } => {
                epoch != self.epoch
                    || self.stage == Stage::Fenced
                    || !rules.keep(Clause::OpenedFenceRefused)
            }
            Command::Open { .. } => {
                epoch <= self.epoch && (self.stage != Stage::Released || after_release)
            }
            Command::Extend { .. } => {
                epoch <= self.epoch && (self.stage == Stage::Open || after_release)
            }
            Command::Release => {
                let opened = self.stage == Stage::Open;
                let fenced = self.stage == Stage::Fenced && !rules.keep(Clause::ReleaseOnlyOpened);
                epoch <= self.epoch && (opened || fenced)
            }
        }
    }

    fn fence(
        &mut self,
        rules: Rules,
        author: Author,
        now: u8,
        headroom: u8,
        read: Option<Record>,
    ) -> Reply {
        let replaced = *self;
        let base = match read {
            Some(read) if !rules.keep(Clause::FloorFromReplaced) => read.high_water,
            _ => self.high_water,
        };
        let above = u8::from(rules.keep(Clause::FloorAboveHighWater));
        let floor = now.max(base + above);
        let ceiling = floor + headroom;
        let old = if rules.keep(Clause::OldLeaseKept) { self.lease } else { 0 };
        let own = if rules.keep(Clause::FenceRecordsOwnLease) { author.lease } else { 0 };
        self.epoch = author.epoch;
        self.stage = Stage::Fenced;
        self.high_water = self.high_water.max(ceiling);
        self.lease = old.max(own);
        if !rules.keep(Clause::OpenedByKept) {
            self.opened_by = Some(author.id);
        }
        if !rules.keep(Clause::ReleasedKept) {
            self.released = true;
        }
        Reply::Fenced { floor, high_water: ceiling, replaced }
    }

    fn open(&mut self, rules: Rules, author: Author) -> Reply {
        self.stage = Stage::Open;
        if rules.keep(Clause::OpenSetsOpenedBy) || self.opened_by.is_none() {
            self.opened_by = Some(author.id);
        }
        if rules.keep(Clause::OpenRecordsLease) {
            self.lease = author.lease;
        }
        if rules.keep(Clause::OpenClearsReleased) {
            self.released = false;
        }
        Reply::Done
    }
}
