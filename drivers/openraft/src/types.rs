use std::{collections::BTreeSet, fmt, mem};

use bytes::Bytes;
use openraft::{LogId, OptionalSend, SnapshotMeta, StorageError, StorageIOError, StoredMembership};
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tsoracle_core::{Error, Result};
use tsoracle_replica::{Addresses, stored};

use crate::runtime::Runtime;

openraft::declare_raft_types!(
    /// What openraft works with here.
    pub(crate) TypeConfig:
        D = Payload,
        R = (),
        NodeId = u64,
        Node = Addresses,
        Entry = openraft::Entry<TypeConfig>,
        SnapshotData = SnapshotData,
        AsyncRuntime = Runtime,
);

pub(crate) type Entry = openraft::Entry<TypeConfig>;
pub(crate) type Raft = openraft::Raft<TypeConfig>;
pub(crate) type Vote = openraft::Vote<u64>;
pub(crate) type Metrics = openraft::RaftMetrics<u64, Addresses>;
pub(crate) type Meta = SnapshotMeta<u64, Addresses>;
pub(crate) type Snapshot = openraft::Snapshot<TypeConfig>;
pub(crate) type Membership = openraft::Membership<u64, Addresses>;
pub(crate) type Id = LogId<u64>;
pub(crate) type Stored<T> = std::result::Result<T, StorageError<u64>>;

/// An encoded [`LogEntry`](tsoracle_replica::LogEntry), which only the state machine decodes.
#[derive(Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Payload(pub(crate) Bytes);

impl fmt::Debug for Payload {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Payload({} bytes)", self.0.len())
    }
}

/// The chunks of a state, this node's own or another one's.
pub(crate) struct SnapshotData(pub(crate) Box<dyn Iterator<Item = Result<Vec<u8>>> + Send>);

/// How far the state machine has come, and the membership as of there.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(crate) struct Applied {
    pub(crate) log_id: Option<Id>,
    pub(crate) membership: StoredMembership<u64, Addresses>,
}

impl Applied {
    /// What a replica, or the snapshot of one, has noted of itself.
    pub(crate) fn read(noted: &[u8]) -> Result<Self> {
        if noted.is_empty() { Ok(Self::default()) } else { decode(noted) }
    }

    /// Names a snapshot of the state that has come this far.
    pub(crate) fn into_meta(self) -> Meta {
        let snapshot_id = self.log_id.map(|log_id| log_id.to_string()).unwrap_or_default();
        Meta { last_log_id: self.log_id, last_membership: self.membership, snapshot_id }
    }
}

/// The members as of what is applied.
#[derive(Default, Debug)]
pub(crate) struct Committed {
    pub(crate) members: Membership,
    /// Those that were members, since this process runs, and are no more.
    pub(crate) removed: BTreeSet<u32>,
}

impl Committed {
    /// These are the members now; whether that is news.
    pub(crate) fn change(&mut self, members: &Membership) -> bool {
        let before = mem::replace(&mut self.members, members.clone());
        let is_gone = |node: &u64| members.get_node(node).is_none();
        let gone = before.nodes().map(|(node, _)| *node).filter(is_gone);
        self.removed.extend(gone.map(peer_id));
        self.removed.retain(|node| is_gone(&(*node).into()));
        before != *members
    }
}

/// The format of what is stored in the tables of this driver.
const FORMAT: u8 = 2;

pub(crate) fn encode(value: &impl Serialize) -> Result<Vec<u8>> {
    stored::encode(FORMAT, value)
}

pub(crate) fn decode<T: DeserializeOwned>(bytes: &[u8]) -> Result<T> {
    stored::decode(FORMAT, bytes, "what raft had stored")
}

/// An error of the store, as openraft wants it. It stops the node.
pub(crate) fn storage(error: Error) -> StorageError<u64> {
    StorageIOError::write(&error).into()
}

/// The index after `log_id`.
pub(crate) fn next_index(log_id: Option<&Id>) -> u64 {
    log_id.map_or(0, |log_id| log_id.index.saturating_add(1))
}

/// The node of that id. Ids come from config and membership, which take no larger ones.
pub(crate) fn peer_id(node: u64) -> u32 {
    u32::try_from(node).unwrap_or(u32::MAX)
}

/// openraft's bounds.
pub(crate) trait Entries:
    IntoIterator<Item = Entry, IntoIter: OptionalSend> + OptionalSend
{
}

impl<I: IntoIterator<Item = Entry, IntoIter: OptionalSend> + OptionalSend> Entries for I {}
