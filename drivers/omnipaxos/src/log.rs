//! The log and the ballots of this node: in memory as a whole, and in the store behind it.
//!
//! What changes is staged, and written by the driver in one durable commit for all that a round of
//! messages has changed, before any message leaves that depends on it. The log is bounded, so it fits;
//! and since nothing is read from the disk while OmniPaxos works, nothing can fail there.

use std::{
    collections::{BTreeSet, VecDeque},
    mem,
};

use omnipaxos::ballot_leader_election::Ballot;
use serde::{Serialize, de::DeserializeOwned};
use tsoracle_core::{Effect, Error, ErrorKind, Result};
use tsoracle_store::{Store, Table};

use crate::{
    entry::{Commit, Entry, State},
    paxos::FIRST_BALLOT,
};

/// Entries by index: eight bytes, the highest first, so that they are in order.
const ENTRIES: Table = Table::new("paxos-log");
const BALLOTS: Table = Table::new("paxos");

const PROMISE: &[u8] = b"promise";
const ACCEPTED: &[u8] = b"accepted";
const DECIDED: &[u8] = b"decided";
const FIRST: &[u8] = b"first";

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Log {
    pub(crate) promise: Option<Ballot>,
    pub(crate) accepted: Option<Ballot>,
    /// How many entries are decided.
    pub(crate) decided: usize,
    /// The index of the first entry that is still here. All before it are applied.
    pub(crate) first: usize,
    entries: VecDeque<Commit>,
    /// How many bytes the entries take.
    pub(crate) bytes: usize,
    /// Where entries begin that have come with a state of all before them. OmniPaxos may take these
    /// entries later, or never.
    offered: BTreeSet<usize>,
    taken: Option<usize>,
    staged_ballots: Effect,
    staged_entries: Effect,
    /// Something is staged that must be durable before any message leaves.
    pub(crate) urgent: bool,
    /// Of that, some is more than entries at the end.
    beyond_appends: bool,
    /// Something that is staged drops entries that the state can be worked out from: the state itself has
    /// to be written with it.
    pub(crate) shortened: bool,
}

impl Log {
    /// Reads what the store holds.
    ///
    /// # Errors
    /// `Corrupt` if the log has a gap or cannot be read, and those of the store.
    pub(crate) fn open(store: &Store) -> Result<Self> {
        let mut log = Self {
            promise: read(store, PROMISE)?,
            accepted: read(store, ACCEPTED)?,
            decided: read(store, DECIDED)?.unwrap_or_default(),
            first: read(store, FIRST)?.unwrap_or_default(),
            ..Self::default()
        };
        for (found, bytes) in store.entries(ENTRIES, &[], &[0xff; 9], usize::MAX)? {
            let end = log.end();
            if found != key(end) {
                let found = found.escape_ascii();
                return Err(damaged(&format!("goes on with {found} where entry {end} should be")));
            }
            log.push(Commit::from_bytes(bytes)?);
        }
        if log.decided < log.first || log.decided > log.end() {
            let (decided, first, end) = (log.decided, log.first, log.end());
            return Err(damaged(&format!("holds {first} to {end}, and {decided} are decided")));
        }
        Ok(log)
    }

    /// Whether the node of a store ever took part in a cluster: it has promised or logged something.
    ///
    /// # Errors
    /// As for [`open`](Self::open).
    pub(crate) fn is_used(store: &Store) -> Result<bool> {
        let log = Self::open(store)?;
        Ok(log.promise.is_some_and(|promise| promise != FIRST_BALLOT) || log.end() > 0)
    }

    /// The index after the last entry.
    pub(crate) fn end(&self) -> usize {
        self.first + self.entries.len()
    }

    /// The entries from one index to before another, or none if not all of them are here.
    pub(crate) fn range(&self, from: usize, to: usize) -> Vec<Commit> {
        if from < self.first || to > self.end() || from >= to {
            return vec![];
        }
        self.entries.range(from - self.first..to - self.first).cloned().collect()
    }

    /// All entries from an index on. The state stands for those that are not here any more.
    pub(crate) fn suffix(&self, from: usize) -> Vec<Entry> {
        let state = State { index: self.first, transfer: 0 };
        let state = (from < self.first).then_some(Entry::State(state));
        let start = from.saturating_sub(self.first).min(self.entries.len());
        let entries = self.entries.range(start..).cloned().map(Entry::Commit);
        state.into_iter().chain(entries).collect()
    }

    pub(crate) fn set_promise(&mut self, ballot: Ballot) {
        if self.promise != Some(ballot) {
            self.promise = Some(ballot);
            self.stage(PROMISE, &ballot, true);
        }
    }

    pub(crate) fn set_accepted(&mut self, ballot: Ballot) {
        if self.accepted != Some(ballot) {
            self.accepted = Some(ballot);
            self.stage(ACCEPTED, &ballot, true);
        }
    }

    /// What is decided is known to a majority, and need not be durable here before others learn it.
    pub(crate) fn set_decided(&mut self, decided: usize) {
        self.decided = decided;
        self.stage(DECIDED, &decided, false);
    }

    pub(crate) fn append(&mut self, commits: Vec<Commit>) {
        for commit in commits {
            self.staged_entries.put(key(self.end()), commit.bytes());
            self.push(commit);
            self.urgent = true;
        }
    }

    /// Replaces everything from `from` on. If a state was offered with these entries, it takes the place
    /// of all before them.
    ///
    /// # Errors
    /// `Fatal` if that would leave a gap, or change what is not here any more.
    pub(crate) fn replace(&mut self, from: usize, commits: Vec<Commit>) -> Result<()> {
        if mem::take(&mut self.offered).contains(&from) {
            self.taken = Some(from);
            self.truncate(self.first);
            self.first = from;
            self.note_first();
        }
        if from < self.first || from > self.end() {
            let (first, end) = (self.first, self.end());
            let context = format!("entries from {from} on do not fit a log of {first} to {end}");
            return Err(Error::new(ErrorKind::Fatal, context));
        }
        self.truncate(from);
        self.append(commits);
        Ok(())
    }

    fn truncate(&mut self, end: usize) {
        while self.end() > end {
            let removed = self.entries.pop_back().expect("the end lies after the first");
            self.bytes -= removed.bytes().len();
            self.staged_entries.delete(key(self.end()));
            self.force();
        }
    }

    /// Drops the entries before `first`, which are applied.
    pub(crate) fn trim(&mut self, first: usize) {
        while self.first < first
            && let Some(removed) = self.entries.pop_front()
        {
            self.bytes -= removed.bytes().len();
            self.staged_entries.delete(key(self.first));
            self.first += 1;
        }
        self.note_first();
    }

    fn note_first(&mut self) {
        let first = self.first;
        self.stage(FIRST, &first, false);
        self.shortened = true;
    }

    /// Offers a state of all entries before `index`, and with it the entries from there on.
    pub(crate) fn offer(&mut self, index: usize) {
        self.offered.insert(index);
    }

    /// Withdraws the states that were offered: their messages are of no use any more.
    pub(crate) fn withdraw(&mut self) {
        self.offered.clear();
    }

    /// Which state has just taken the place of entries: it has to be installed at once.
    pub(crate) fn take_state(&mut self) -> Option<usize> {
        self.taken.take()
    }

    /// Whether nothing is staged that others may rely on but entries at the end.
    pub(crate) fn has_only_appended(&self) -> bool {
        !self.beyond_appends
    }

    /// What has changed since it was last taken: to be written at once, and all of it.
    pub(crate) fn take_writes(&mut self) -> [(Table, Effect); 2] {
        (self.urgent, self.beyond_appends, self.shortened) = (false, false, false);
        [
            (BALLOTS, mem::take(&mut self.staged_ballots)),
            (ENTRIES, mem::take(&mut self.staged_entries)),
        ]
    }

    fn push(&mut self, commit: Commit) {
        self.bytes += commit.bytes().len();
        self.entries.push_back(commit);
    }

    fn stage(&mut self, key: &[u8], value: &impl Serialize, urgent: bool) {
        let bytes = postcard::to_allocvec(value).expect("numbers can be encoded");
        self.staged_ballots.put(key, bytes);
        if urgent {
            self.force();
        }
    }

    fn force(&mut self) {
        (self.urgent, self.beyond_appends) = (true, true);
    }
}

fn key(index: usize) -> [u8; 8] {
    (index as u64).to_be_bytes()
}

fn read<T: DeserializeOwned>(store: &Store, key: &[u8]) -> Result<Option<T>> {
    let decode = |bytes: Vec<u8>| {
        postcard::from_bytes(&bytes).map_err(|source| {
            let key = key.escape_ascii();
            damaged(&format!("has an unreadable {key}")).with_source(source)
        })
    };
    store.read(BALLOTS, key)?.map(decode).transpose()
}

fn damaged(how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("the log {how}; restore this node's directory"))
}
