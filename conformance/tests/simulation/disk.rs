//! What a node has stored, and what of that survives a crash.

use std::sync::Arc;

use tsoracle_core::{
    Epoch,
    state::{Command, Query},
};

use crate::{flaw::Flaw, rng::Rng};

/// What a node must never forget of elections.
#[derive(Clone, Default, Debug)]
pub(crate) struct Hard {
    pub(crate) term: u64,
    pub(crate) voted_for: Option<usize>,
    /// How many times this node has claimed leadership.
    pub(crate) claim: u32,
}

/// A place in the log. Places are counted from 1.
#[derive(Clone, Debug)]
pub(crate) struct Entry {
    pub(crate) term: u64,
    pub(crate) payload: Arc<Payload>,
}

#[derive(Debug)]
pub(crate) enum Payload {
    /// Begins a term.
    Blank,
    Commit {
        epoch: Epoch,
        commands: Vec<Command>,
    },
    /// Is answered from the state at its place in the log.
    Read(Query),
}

/// One write.
#[derive(Debug)]
pub(crate) enum Write {
    Hard(Hard),
    /// Replaces the log from this place on.
    Log {
        from: u64,
        entries: Vec<Entry>,
    },
}

#[derive(Default, Debug)]
pub(crate) struct Disk {
    hard: Hard,
    log: Vec<Entry>,
    unsynced: Vec<Write>,
    flaw: Option<Flaw>,
}

impl Disk {
    pub(crate) fn new(flaw: Option<Flaw>) -> Self {
        Self { flaw, ..Self::default() }
    }

    pub(crate) fn write(&mut self, write: Write) {
        self.unsynced.push(write);
    }

    pub(crate) fn is_synced(&self) -> bool {
        self.unsynced.is_empty()
    }

    pub(crate) fn sync(&mut self) {
        for write in std::mem::take(&mut self.unsynced) {
            self.store(write);
        }
    }

    /// Loses what was not synced, or only a part of it: a disk may be ahead of what it has promised.
    pub(crate) fn crash(&mut self, rng: &mut Rng) {
        let unsynced = std::mem::take(&mut self.unsynced);
        let survive = rng.between(0..=unsynced.len() as u64) as usize;
        unsynced.into_iter().take(survive).for_each(|write| self.store(write));
    }

    /// What a process finds when it starts.
    pub(crate) fn load(&self) -> (Hard, Vec<Entry>) {
        (self.hard.clone(), self.log.clone())
    }

    fn store(&mut self, write: Write) {
        match write {
            Write::Hard(hard) if self.flaw == Some(Flaw::VotesAreNotSynced) => {
                self.hard = Hard { voted_for: None, ..hard };
            }
            Write::Hard(hard) => self.hard = hard,
            Write::Log { from, entries } => {
                self.log.truncate(from as usize - 1);
                self.log.extend(entries);
            }
        }
    }
}
