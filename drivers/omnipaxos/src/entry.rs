//! What OmniPaxos replicates: entries as bytes, and snapshots that name or carry a state.

use std::sync::Arc;

use omnipaxos::storage;
use serde::{Deserialize, Deserializer, Serialize, Serializer, de::Error as _};
use tsoracle_cluster::{EntryId, LogEntry};
use tsoracle_core::Result;

/// An entry of the log: its bytes, which are known to be an entry, and its name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Entry {
    id: EntryId,
    bytes: Arc<[u8]>,
}

impl Entry {
    pub(crate) fn new(entry: &LogEntry) -> Result<Self> {
        Ok(Self { id: entry.id, bytes: entry.encode()?.into() })
    }

    /// The entry that was encoded.
    ///
    /// # Errors
    /// As [`LogEntry::decode`]. An entry of a newer format is refused here, before it is stored.
    pub(crate) fn from_bytes(bytes: Vec<u8>) -> Result<Self> {
        Ok(Self { id: LogEntry::decode(&bytes)?.id, bytes: bytes.into() })
    }

    pub(crate) fn id(&self) -> EntryId {
        self.id
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.bytes
    }

    pub(crate) fn decode(&self) -> Result<LogEntry> {
        LogEntry::decode(&self.bytes)
    }
}

impl storage::Entry for Entry {
    type Snapshot = Snapshot;
}

impl Serialize for Entry {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_bytes(&self.bytes)
    }
}

impl<'de> Deserialize<'de> for Entry {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        // The driver's format has bytes as they are; nothing is copied twice.
        let bytes = <&[u8]>::deserialize(deserializer)?;
        Self::from_bytes(bytes.to_vec()).map_err(D::Error::custom)
    }
}

/// All that was decided up to some index: a state that holds what came first, then entries.
///
/// The library builds snapshots from entries. A state cannot be built so without applying them, and
/// every node keeps one anyway: so the entries are only collected, and a state is sent in place of
/// those that the log has not any more.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) struct Snapshot {
    pub(crate) base: Base,
    pub(crate) entries: Vec<Entry>,
}

/// What lies before the entries of a [`Snapshot`].
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Base {
    /// Nothing, or what the receiver has already.
    Nothing,
    /// The state of this node. Never sent: an image of it is.
    Here,
    /// The exported state of the sender, which may be further than the snapshot says.
    Image(Image),
}

/// An exported state. Its chunks go ahead of the message that names it.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Image {
    /// Which transfer brings it, or has brought it.
    pub(crate) transfer: u64,
    #[serde(skip)]
    pub(crate) chunks: Vec<Vec<u8>>,
}

impl Snapshot {
    /// This node's state, which has everything that its log has not any more.
    pub(crate) fn here() -> Self {
        Self { base: Base::Here, entries: vec![] }
    }
}

impl storage::Snapshot<Entry> for Snapshot {
    fn create(entries: &[Entry]) -> Self {
        Self { base: Base::Nothing, entries: entries.to_vec() }
    }

    fn merge(&mut self, delta: Self) {
        match delta.base {
            Base::Nothing => self.entries.extend(delta.entries),
            Base::Here | Base::Image(_) => *self = delta,
        }
    }

    fn use_snapshots() -> bool {
        true
    }
}
