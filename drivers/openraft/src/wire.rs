//! What nodes say to each other, inside the frames of the transport.

use bytes::Bytes;
use serde::{Deserialize, Serialize, de::DeserializeOwned};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::types::{Meta, Vote};

/// Raft's AppendEntries.
pub(crate) const APPEND: u32 = 1;

/// Raft's RequestVote.
pub(crate) const VOTE: u32 = 2;

/// A part of a snapshot.
pub(crate) const SNAPSHOT: u32 = 3;

/// The leader leaves: stand for election at once.
pub(crate) const STAND: u32 = 4;

/// Is anyone there?
pub(crate) const PING: u32 = 5;

/// Would this node vote for one whose log ends so?
pub(crate) const CANVASS: u32 = 6;

/// A message, and by which ids the sender knows the nodes: a node that was wiped must be known as
/// such even to those it has not spoken to yet.
#[derive(Serialize, Deserialize)]
pub(crate) struct Told<T> {
    pub(crate) known: Vec<(u32, u128)>,
    pub(crate) message: T,
}

/// A part of a snapshot.
#[derive(Clone, Serialize, Deserialize)]
pub(crate) struct Part {
    pub(crate) vote: Vote,
    pub(crate) meta: Meta,
    /// Counts the parts, from 0.
    pub(crate) number: u64,
    /// Nothing after the last chunk: then the snapshot is installed.
    pub(crate) chunk: Option<Bytes>,
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
