//! Calls that go together: streams to one peer, and the callers whose requests share their messages.
//!
//! A caller joins the batch that is not sent yet. A batch is sealed when the transport takes it to
//! send it, so that every caller in it began before it was sent. It is sent at once while few are in
//! flight, and otherwise when one of those is answered; no timer delays any caller, and nothing is
//! asked for in advance.

use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll};

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};

use crate::pool::Learner;

mod drive;
pub(crate) mod sequences;
pub(crate) mod timestamps;

use drive::Outbound;

/// The most callers that wait on one stream.
pub(crate) const MAX_WAITING: usize = 65_536;

/// Why a caller got no answer.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// Too many wait already.
    Full,
    /// None came in time. Unless the batch was sent, nothing was carried out.
    Silent { was_sent: bool },
    /// The batch was lost.
    Lost(Lost),
}

/// Why a batch has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Lost {
    /// The stream ended with this status. `is_certain`: the batch was not carried out.
    Broken { status: Arc<Status>, is_certain: bool },
    /// The answer breaks the protocol, in this way.
    Malformed(Arc<str>),
    /// The peer does not serve streams, and so has not carried the batch out.
    Unserved,
}

/// The batches of one stream after the other, as the stream's task and the transport see them.
///
/// Each stream has a number, its run. What an earlier one still does or says is not heard.
trait Batches: Send + Sync + 'static {
    /// What is sent for all of a batch.
    type Request: Send + 'static;
    /// What is answered.
    type Response: Send + 'static;

    fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> impl Future<Output = Result<Response<Streaming<Self::Response>>, Status>> + Send
    where
        Self: Sized;

    /// The stream is open, and its answers come with these headers.
    fn opened(&self, _run: u64, _headers: &MetadataMap) {}

    /// The next request to send; the end once another stream has begun.
    fn poll_seal(&self, run: u64, context: &mut Context<'_>) -> Poll<Option<Self::Request>>;

    /// Takes the answer to the first batch in flight, tells the learner who served it, and wakes its
    /// callers.
    ///
    /// # Errors
    /// The way in which the answer breaks the protocol.
    fn answer(&self, response: Self::Response, learner: &Learner) -> Result<(), Arc<str>>;

    /// Ends a stream, and with it everything that waits.
    fn end(&self, run: u64, lost: &Lost);

    /// When to look after those whose time may be over, for the stream's task to be woken otherwise.
    fn watch(&self, context: &Context<'_>) -> Option<Instant>;

    /// Wakes those whose time is over at `now`. Whether the peer has been silent for suspiciously long.
    fn expire(&self, now: Instant) -> bool;
}
