use openraft::{
    BasicNode, LogId, OptionalSend, SnapshotMeta, StorageError, StorageIOError, StoredMembership,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tsoracle_core::{Error, Result};
use tsoracle_replica::stored;

use crate::ledger::Deposit;

openraft::declare_raft_types!(
    /// What openraft works with here.
    pub(crate) TypeConfig:
        D = Command,
        R = Response,
        NodeId = u64,
        Node = BasicNode,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = State,
);

pub(crate) type LogRecord = openraft::Entry<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, BasicNode>;
pub(crate) type Meta = SnapshotMeta<u64, BasicNode>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type Id = LogId<u64>;
pub(crate) type Stored<T> = std::result::Result<T, StorageError<u64>>;

/// What the service's log carries: its own commands, and the oracle's.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(crate) enum Command {
    Deposit(Deposit),
    /// An encoded [`LogEntry`](tsoracle_replica::LogEntry).
    Oracle(Vec<u8>),
}

/// What applying a command of the service results in: the account's balance. Callers of the oracle are
/// answered by [`Waiters`](tsoracle_replica::Waiters).
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Response {
    pub(crate) balance: u64,
}

/// One snapshot: the service's data, and the oracle's.
#[derive(Clone, Debug)]
pub(crate) struct State {
    pub(crate) accounts: Vec<tsoracle_core::Entry>,
    pub(crate) oracle: Vec<Vec<u8>>,
}

/// How far the state machine has come, and the membership as of there.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<Id>,
    pub(crate) membership: StoredMembership<u64, BasicNode>,
}

impl Applied {
    /// What a replica, or the snapshot of one, has noted of itself.
    pub(crate) fn read(noted: Option<&[u8]>) -> Result<Self> {
        match noted {
            None | Some([]) => Ok(Self::default()),
            Some(noted) => decode(noted),
        }
    }

    /// Names a snapshot of the state that has come this far.
    pub(crate) fn into_meta(self) -> Meta {
        let snapshot_id = self.log_id.map(|log_id| log_id.to_string()).unwrap_or_default();
        Meta { last_log_id: self.log_id, last_membership: self.membership, snapshot_id }
    }
}

/// The format of what the service stores.
const FORMAT: u8 = 1;

pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    stored::encode(FORMAT, value)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    stored::decode(FORMAT, bytes, "what the service had stored")
}

/// An error of the store, as openraft wants it. It stops the node.
pub(crate) fn storage(error: Error) -> StorageError<u64> {
    StorageIOError::write(&error).into()
}

/// openraft's bounds.
pub(crate) trait LogRecords:
    IntoIterator<Item = LogRecord, IntoIter: OptionalSend> + OptionalSend
{
}

impl<I: IntoIterator<Item = LogRecord, IntoIter: OptionalSend> + OptionalSend> LogRecords for I {}
