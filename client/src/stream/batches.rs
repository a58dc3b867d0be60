use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};

use crate::peers::Channel;
use futures::Stream;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Response, Status, Streaming};
use tsoracle_proto::v1::SeqFailure;

use crate::peers::PeerState;

/// The most callers that wait on one stream.
pub(crate) const MAX_WAITING: usize = 65_536;

/// Reason why a batched call was not served.
#[derive(Clone, Debug)]
pub(crate) enum CallError {
    /// Too many callers wait already.
    Full,
    /// No answer came in time. Unless the batch was sent, nothing was carried out.
    TimedOut { was_sent: bool },
    /// The server answered with a failure.
    Failed(Box<SeqFailure>),
    /// The batch was lost.
    Lost(Lost),
}

/// Reason why a batch has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Lost {
    /// The stream ended with this status. `is_certain`: the batch was not carried out.
    Broken { status: Arc<Status>, is_certain: bool },
    /// The answer breaks the protocol, in this way.
    Malformed(Arc<str>),
    /// The peer does not serve streams, and so has not carried the batch out.
    NoStreams,
}

impl Lost {
    /// The stream broke, and the batch may have been carried out.
    pub(super) fn broken(status: Status) -> Self {
        Self::Broken { status: Arc::new(status), is_certain: false }
    }
}

/// The batches of successive streams, as a stream's task and the transport see them.
///
/// Each stream has a number, its run. Late actions and answers of an earlier run are ignored.
pub(super) trait Batches: Send + Sync + 'static {
    /// The message that is sent for a batch.
    type Request: Send + 'static;
    /// The message that answers it.
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

    /// Takes the answer to the first batch in flight, notes that the peer served, and wakes the callers.
    ///
    /// # Errors
    /// The way in which the answer breaks the protocol.
    fn answer(&self, response: Self::Response, peer: &PeerState) -> Result<(), Arc<str>>;

    /// Ends a stream, and with it everything that waits.
    fn end(&self, run: u64, lost: &Lost);

    /// When to check for callers whose time is over. Until then the stream's task is woken if that changes.
    fn next_check(&self, context: &Context<'_>) -> Option<Instant>;

    /// Wakes the callers whose time is over at `now`. Whether the peer is to be suspected.
    fn expire(&self, now: Instant) -> bool;
}

/// The side of a stream that the transport takes requests from.
pub(super) struct Outbound<B> {
    pub(super) batches: Arc<B>,
    pub(super) run: u64,
}

impl<B: Batches> Stream for Outbound<B> {
    type Item = B::Request;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<B::Request>> {
        self.batches.poll_seal(self.run, context)
    }
}
