use std::{fmt, path::PathBuf};

use bytes::Bytes;
use openraft::{LogId, OptionalSend, SnapshotMeta, StorageError, StorageIOError, StoredMembership};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tsoracle_cluster::Addresses;
use tsoracle_core::{Error, ErrorKind, Result};

openraft::declare_raft_types!(
    /// What openraft works with here.
    pub(crate) TypeConfig:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = Addresses,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotFile,
);

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, Addresses>;
pub(crate) type Meta = SnapshotMeta<u64, Addresses>;
pub(crate) type Id = LogId<u64>;
pub(crate) type Stored<T> = std::result::Result<T, StorageError<u64>>;

/// An encoded [`LogEntry`](tsoracle_cluster::LogEntry), which only the state machine decodes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// A snapshot, in a file.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct SnapshotFile(pub(crate) PathBuf);

/// How far the state machine has come, and the membership as of there.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<Id>,
    pub(crate) membership: StoredMembership<u64, Addresses>,
}

/// The format of what is stored in the tables of this driver.
const FORMAT: u8 = 1;

/// A value as it is stored: one byte for the format, then postcard.
pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_extend(value, vec![FORMAT]).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode what raft stores").with_source(source)
    })
}

/// What [`encode`] has made.
pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => postcard::from_bytes(rest).map_err(|source| {
            let context = "what raft had stored cannot be read; restore or replace this node";
            Error::new(ErrorKind::Corrupt, context).with_source(source)
        }),
        format => {
            let found = format.map_or("none".into(), |(format, _)| format.to_string());
            let context = format!(
                "what raft had stored has format {found}, this release reads {FORMAT}; upgrade \
                 this node"
            );
            Err(Error::new(ErrorKind::Corrupt, context))
        }
    }
}

/// An error of the store, as openraft wants it. It stops the node.
pub(crate) fn storage(error: Error) -> StorageError<u64> {
    StorageIOError::write(&error).into()
}

/// The index after `log_id`.
pub(crate) fn next_index(log_id: Option<&Id>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index + 1)
}

/// openraft's bounds, said once.
pub(crate) trait Entries:
    IntoIterator<Item = Entry, IntoIter: OptionalSend> + OptionalSend
{
}

impl<I: IntoIterator<Item = Entry, IntoIter: OptionalSend> + OptionalSend> Entries for I {}
