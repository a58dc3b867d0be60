//! Batched streams: calls of many callers that share the messages of one stream to a peer.
//!
//! A caller joins the batch that is not sent yet. A batch is sealed when the transport takes it to
//! send it, so that every caller in it began before it was sent. It is sent at once while few are in
//! flight, and otherwise when one of those is answered; no timer delays any caller, and nothing is
//! requested in advance.

use std::sync::Arc;

mod batches;
pub(crate) mod sequences;
mod task;
pub(crate) mod timestamps;

pub(crate) use batches::{CallError, Lost, MAX_WAITING};

/// The batched streams to one peer.
pub(crate) struct Streams {
    pub(crate) timestamps: timestamps::BatchedStream,
    pub(crate) sequences: sequences::BatchedStream,
}

pub(crate) type Peer = crate::peers::Peer<Streams>;
pub(crate) type Pool = crate::peers::Pool<Streams>;

impl Streams {
    pub(crate) fn new(queues: Arc<timestamps::Queues>) -> Self {
        let timestamps = timestamps::BatchedStream::new(queues);
        Self { timestamps, sequences: sequences::BatchedStream::default() }
    }
}
