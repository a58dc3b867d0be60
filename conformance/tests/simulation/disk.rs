//! What a node has stored, and what of that survives a crash.

use std::sync::Arc;

use tsoracle_core::{Effect, Reads, Version};

use crate::{flaw::Flaw, rng::Rng};

/// What a node must never forget of elections.
#[derive(Clone, Default, Debug)]
pub(crate) struct Hard {
    pub(crate) term: u64,
    pub(crate) voted_for: Option<usize>,
    /// Whether it was elected in this term.
    pub(crate) led: bool,
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
    Commit(Commit),
    /// Is answered from the state at its place in the log.
    Read(Reads),
}

/// Writes that are made if the state is at `base`. They make it `next`.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) base: Version,
    pub(crate) next: Version,
    pub(crate) effect: Effect,
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

    /// How many writes the next sync makes durable.
    pub(crate) fn unsynced(&self) -> usize {
        self.unsynced.len()
    }

    /// Up to which place the log is as it was written, and cannot be lost any more.
    pub(crate) fn durable(&self) -> u64 {
        let replaced = self.unsynced.iter().filter_map(|write| match write {
            Write::Log { from, .. } => Some(from - 1),
            Write::Hard(_) => None,
        });
        replaced.chain([self.log.len() as u64]).min().unwrap_or(0)
    }

    /// Makes the first `writes` writes durable.
    pub(crate) fn sync(&mut self, writes: usize) {
        for write in self.unsynced.drain(..writes).collect::<Vec<_>>() {
            self.store(write);
        }
    }

    pub(crate) fn sync_all(&mut self) {
        self.sync(self.unsynced.len());
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

impl Commit {
    /// # Panics
    /// If the effect makes no version, which the engine never commits.
    pub(crate) fn new(base: Version, effect: Effect) -> Self {
        let next = effect.version().expect("every commit makes a version");
        Self { base, next, effect }
    }
}
