//! The messages of nodes, inside the frames of the transport.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::types::{Meta, Vote};

/// Raft's AppendEntries.
pub(crate) const APPEND: u32 = 1;

/// Raft's RequestVote.
pub(crate) const VOTE: u32 = 2;

/// Raft's InstallSnapshot, of a state that was transferred before.
pub(crate) const INSTALL: u32 = 3;

/// Raft's TimeoutNow: the leader leaves, so campaign at once.
pub(crate) const CAMPAIGN: u32 = 4;

/// Whether a node can be reached.
pub(crate) const PING: u32 = 5;

/// Raft's PreVote: whether this node would vote for one whose log ends so.
pub(crate) const PRE_VOTE: u32 = 6;

/// The leader has removed the node that it sends this to, and that is committed.
pub(crate) const REMOVED: u32 = 7;

/// See [`INSTALL`].
#[derive(Serialize, Deserialize)]
pub(crate) struct Install {
    pub(crate) vote: Vote,
    pub(crate) meta: Meta,
    pub(crate) transfer: u64,
}

pub(crate) fn pack(message: &impl Serialize) -> Result<Bytes> {
    postcard::to_stdvec(message).map(Bytes::from).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode a message to a peer").with_source(source)
    })
}

pub(crate) fn unpack<T: DeserializeOwned>(message: &[u8]) -> Result<T> {
    postcard::from_bytes(message).map_err(|source| {
        Error::new(ErrorKind::Unavailable, "a peer's message cannot be read").with_source(source)
    })
}
