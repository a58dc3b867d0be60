//! What OmniPaxos replicates: commits as bytes, and states in the place of those that a log has dropped.

use std::sync::Arc;

use omnipaxos::storage::{self, NoSnapshot};
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tsoracle_core::{Result, Version};
use tsoracle_replica::LogEntry;

/// An encoded commit, known to be one, and the version that it makes.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Commit {
    next: Version,
    bytes: Arc<[u8]>,
}

impl Commit {
    pub(crate) fn new(entry: &LogEntry) -> Result<Self> {
        Ok(Self { next: entry.next(), bytes: entry.encode()?.into() })
    }

    /// The commit that was encoded, and stored.
    ///
    /// # Errors
    /// As [`LogEntry::decode`].
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Ok(Self { next: LogEntry::decode(&bytes)?.next(), bytes: bytes.into() })
    }

    /// What another node may send in the place of a commit.
    #[cfg(test)]
    pub(crate) fn unchecked(bytes: &[u8]) -> Self {
        Self { next: Version::EMPTY, bytes: bytes.into() }
    }

    pub(crate) fn next(&self) -> Version {
        self.next
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn decode(&self) -> Result<LogEntry> {
        LogEntry::decode(&self.bytes)
    }
}

impl Serialize for Commit {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Commit {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The format of messages has bytes as they are; nothing is copied twice.
        let bytes = <&[u8]>::deserialize(deserializer)?;
        // What cannot be applied, as of a newer format, is refused here, before it is stored.
        let next = LogEntry::decode_received(bytes).map_err(D::Error::custom)?.next();
        Ok(Self { next, bytes: bytes.into() })
    }
}

/// What OmniPaxos takes for an entry of its log.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Entry {
    Commit(Commit),
    /// Only ever the first of the entries that one node sends to bring another up to date.
    State(State),
}

/// Stands for all entries before `index`, which the sender has applied and dropped from its log.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct State {
    pub(crate) index: usize,
    /// The transfer that brings the state.
    pub(crate) transfer: u64,
}

/// The library's own snapshots are not used. Each node drops what it has applied from its log by itself,
/// and a state is sent in the place of what another node lacks of it.
impl storage::Entry for Entry {
    type Snapshot = NoSnapshot;
}
