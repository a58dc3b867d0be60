//! The log and the ballots of this node: in memory as a whole, and in the store behind it.
//!
//! What changes is staged, and written by the driver in one durable commit for all that a round of
//! messages has changed, before any message leaves that tells of it. The log is bounded, so it fits;
//! and since nothing is read from the disk while OmniPaxos works, nothing can fail there.

use std::collections::VecDeque;

use omnipaxos::{ballot_leader_election::Ballot, storage::StopSign};
use serde::{Serialize, de::DeserializeOwned};
use tsoracle_core::{Error, ErrorKind, Result, state::Effect};
use tsoracle_store::{Store, Table};

use crate::entry::{Base, Entry, Image, Snapshot};

/// Entries by index: eight bytes, the highest first, so that they are in order.
const ENTRIES: Table = Table::new("paxos-log");
const BALLOTS: Table = Table::new("paxos");

const PROMISE: &[u8] = b"promise";
const ACCEPTED: &[u8] = b"accepted";
const DECIDED: &[u8] = b"decided";
const FIRST: &[u8] = b"first";
const STOP_SIGN: &[u8] = b"stop-sign";

/// Entries decided elsewhere that come to this node without passing through its log.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Arrived {
    /// The state of another node, if what this one lacks begins with that.
    pub(crate) image: Option<Image>,
    /// They end with what comes before this index. Where they begin is not to be relied on: the
    /// library puts entries in front of what was sent, up to an index that it has raised already.
    pub(crate) entries: Vec<Entry>,
    /// The index after the last of `entries`.
    pub(crate) end: usize,
}

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Log {
    promise: Option<Ballot>,
    accepted: Option<Ballot>,
    decided: usize,
    stop_sign: Option<StopSign>,
    /// The index of the first entry that is still here. All before it are applied.
    first: usize,
    entries: VecDeque<Entry>,
    bytes: usize,
    arrived: VecDeque<Arrived>,
    staged_ballots: Effect,
    staged_entries: Effect,
    /// Something is staged that must be durable before any message leaves.
    urgent: bool,
    /// Of that, some is more than entries at the end.
    beyond_appends: bool,
    /// Something that is staged takes away what the state can be worked out from.
    let_go: bool,
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
            decided: index(read(store, DECIDED)?)?,
            stop_sign: read::<Option<StopSign>>(store, STOP_SIGN)?.flatten(),
            first: index(read(store, FIRST)?)?,
            ..Self::default()
        };
        for (found, bytes) in store.entries(ENTRIES, &[], &[0xff; 9], usize::MAX)? {
            let end = log.end();
            if found != key(end) {
                let found = found.escape_ascii();
                return Err(damaged(&format!("goes on with {found} where entry {end} should be")));
            }
            log.push(Entry::from_bytes(bytes)?);
        }
        // A stop sign is decided as an entry is, but is not among them.
        let most = log.end() + usize::from(log.stop_sign.is_some());
        if log.decided < log.first || log.decided > most {
            let (decided, first, end) = (log.decided, log.first, log.end());
            return Err(damaged(&format!("holds {first} to {end}, and {decided} are decided")));
        }
        Ok(log)
    }

    pub(crate) fn promise(&self) -> Option<Ballot> {
        self.promise
    }

    pub(crate) fn accepted(&self) -> Option<Ballot> {
        self.accepted
    }

    pub(crate) fn decided(&self) -> usize {
        self.decided
    }

    pub(crate) fn stop_sign(&self) -> Option<StopSign> {
        self.stop_sign.clone()
    }

    /// The index of the first entry that is here.
    pub(crate) fn first(&self) -> usize {
        self.first
    }

    /// The index after the last entry.
    pub(crate) fn end(&self) -> usize {
        self.first + self.entries.len()
    }

    /// How many bytes the entries take.
    pub(crate) fn bytes(&self) -> usize {
        self.bytes
    }

    /// The entries from one index to before another, or none if not all of them are here.
    pub(crate) fn range(&self, from: usize, to: usize) -> Vec<Entry> {
        if from < self.first || to > self.end() || from >= to {
            return vec![];
        }
        self.entries.range(from - self.first..to - self.first).cloned().collect()
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

    /// What is decided is known to a majority, and need not be durable before anybody is told.
    pub(crate) fn set_decided(&mut self, decided: usize) {
        self.decided = decided;
        self.stage(DECIDED, &(decided as u64), false);
    }

    pub(crate) fn set_stop_sign(&mut self, stop_sign: Option<StopSign>) {
        self.stage(STOP_SIGN, &stop_sign, true);
        self.stop_sign = stop_sign;
    }

    pub(crate) fn append(&mut self, entries: Vec<Entry>) {
        for entry in entries {
            self.staged_entries.put(key(self.end()), entry.bytes());
            self.push(entry);
            self.urgent = true;
        }
    }

    /// Replaces everything from `from` on.
    ///
    /// # Errors
    /// `Fatal` if that would leave a gap, or change what is not here any more.
    pub(crate) fn replace(&mut self, from: usize, entries: Vec<Entry>) -> Result<()> {
        if from < self.first || from > self.end() {
            let (first, end) = (self.first, self.end());
            let context = format!("entries from {from} on do not fit a log of {first} to {end}");
            return Err(Error::new(ErrorKind::Fatal, context));
        }
        while self.end() > from {
            let removed = self.entries.pop_back().expect("the end lies after the first");
            self.bytes -= removed.bytes().len();
            self.staged_entries.delete(key(self.end()));
            self.force();
        }
        self.append(entries);
        Ok(())
    }

    /// Lets go of all entries before `first`, which may lie beyond the end.
    pub(crate) fn trim(&mut self, first: usize) {
        while self.first < first {
            if let Some(removed) = self.entries.pop_front() {
                self.bytes -= removed.bytes().len();
                self.staged_entries.delete(key(self.first));
                self.first += 1;
            } else {
                self.first = first;
            }
        }
        self.stage(FIRST, &(self.first as u64), false);
        self.let_go = true;
    }

    /// Takes in what was decided up to `first`, from which on the log goes on.
    pub(crate) fn set_snapshot(&mut self, snapshot: Option<Snapshot>) {
        let Some(Snapshot { base, entries }) = snapshot else { return };
        let image = match base {
            Base::Nothing | Base::Here => None,
            Base::Image(image) => Some(image),
        };
        if image.is_some() || !entries.is_empty() {
            self.let_go = true;
            self.arrived.push_back(Arrived { image, entries, end: self.first });
        }
    }

    /// This node's state stands for what is not here any more.
    pub(crate) fn snapshot(&self) -> Option<Snapshot> {
        (self.first > 0).then(Snapshot::here)
    }

    /// What has come without passing through the log, in its order.
    pub(crate) fn take_arrived(&mut self) -> VecDeque<Arrived> {
        std::mem::take(&mut self.arrived)
    }

    /// Whether something has to be durable before messages leave.
    pub(crate) fn is_urgent(&self) -> bool {
        self.urgent
    }

    /// Whether nothing is staged that anybody may rely on but entries at the end.
    pub(crate) fn has_only_appended(&self) -> bool {
        !self.beyond_appends
    }

    /// Whether something staged takes away what the state can be worked out from: the state itself has
    /// to be written together with it.
    pub(crate) fn has_let_go(&self) -> bool {
        self.let_go
    }

    /// What has changed since it was last taken: to be written at once, and all of it.
    pub(crate) fn take_writes(&mut self) -> [(Table, Effect); 2] {
        (self.urgent, self.beyond_appends, self.let_go) = (false, false, false);
        [
            (BALLOTS, std::mem::take(&mut self.staged_ballots)),
            (ENTRIES, std::mem::take(&mut self.staged_entries)),
        ]
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes().len();
        self.entries.push_back(entry);
    }

    fn stage(&mut self, key: &[u8], value: &impl Serialize, urgent: bool) {
        let bytes = postcard::to_allocvec(value).expect("numbers and lists of them can be encoded");
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

fn index(stored: Option<u64>) -> Result<usize> {
    usize::try_from(stored.unwrap_or(0)).map_err(|_| damaged("is longer than can be"))
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
