//! Sequence requests of many callers over one stream.
//!
//! A new request gets its number when its batch is sealed, so that a batch has numbers in a row. Where the
//! server takes runs, they are sent as one, and only the first value of each block comes back.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};
use tsoracle_proto::metadata::{self, SEQ_RUNS};
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{
    GetSeqRequest, GetSeqResponse, SeqFailure, StreamSeqRequest, StreamSeqResponse,
};
use tsoracle_types::SeqKey;

use super::drive::{Outbound, Task};
use super::{Batches, CallError, Lost};
use crate::pool::Learner;
use crate::session::{OpenRequest, Sessions};

mod batch;
mod call;
mod queue;

pub(crate) use call::Call;

use queue::Queue;

/// The most requests in a batch. A commit of that many costs much more than its sync, so that larger messages
/// would save nothing. Smaller ones than there are callers let the server commit one while the callers
/// of another take their answers and ask again.
const MOST: usize = 256;

/// The most batches in flight.
const MOST_IN_FLIGHT: usize = 4;

/// What a caller asks for.
#[derive(Debug)]
pub(crate) enum Entry {
    /// A new request, which gets its number when it is sent.
    New { key: SeqKey, count: u32 },
    /// One that has a number, and may have been sent before.
    Numbered(GetSeqRequest),
}

/// What a caller gets for a request that was carried out.
#[derive(Clone, Debug)]
pub(crate) enum Grant {
    /// The first value of the block.
    Start(u64),
    /// The answer as a call would have it.
    Whole(Box<GetSeqResponse>),
}

/// Why a caller gets no block.
#[derive(Debug)]
pub(crate) enum Refusal {
    /// The server has answered so.
    Failed(SeqFailure),
    /// There was no answer.
    Unanswered(CallError),
}

/// Why a caller got no block, and the number of its request if it was given one, to be sent again.
#[derive(Debug)]
pub(crate) struct Refused {
    pub(crate) refusal: Refusal,
    pub(crate) request: Option<OpenRequest>,
}

/// A stream to one peer, opened when it is needed, and again after it has broken.
pub(crate) struct Lane {
    shared: Arc<Shared>,
    task: Task,
}

/// How the stream is opened, if it is not, and where its requests get their numbers.
#[derive(Clone, Copy)]
pub(crate) struct Opener<'a> {
    pub(crate) channel: &'a Channel,
    pub(crate) learner: &'a Learner,
    pub(crate) sessions: &'a Arc<Sessions>,
}

/// What callers, the stream's task and the transport share.
struct Shared {
    queue: Mutex<Queue>,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        // The queue is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Lane {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::new()) });
        Self { shared, task: Task::default() }
    }

    /// Asks along with others, from `now` on, and waits for the answer until `until`. Joins when first
    /// polled, and must be polled within a runtime.
    pub(crate) fn call<'a>(
        &'a self,
        opener: Opener<'a>,
        entry: Entry,
        now: Instant,
        until: Instant,
    ) -> Call<'a> {
        Call::new(self, opener, entry, now, until)
    }
}

impl Batches for Shared {
    type Request = StreamSeqRequest;
    type Response = StreamSeqResponse;

    async fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> Result<Response<Streaming<StreamSeqResponse>>, Status> {
        TsoServiceClient::new(channel).stream_seq(outbound).await
    }

    fn opened(&self, run: u64, headers: &MetadataMap) {
        if metadata::has_flag(headers, SEQ_RUNS) {
            self.lock().send_runs(run);
        }
    }

    fn poll_seal(&self, run: u64, context: &mut Context<'_>) -> Poll<Option<StreamSeqRequest>> {
        self.lock().poll_seal(run, context)
    }

    fn answer(&self, response: StreamSeqResponse, learner: &Learner) -> Result<(), Arc<str>> {
        let answered = self.lock().answer(response);
        if let Some(epoch) = answered.epoch {
            learner.served(epoch);
        }
        answered.wake.into_iter().for_each(Waker::wake);
        answered.result
    }

    fn end(&self, run: u64, lost: &Lost) {
        let wake = self.lock().end(run, lost);
        wake.into_iter().for_each(Waker::wake);
    }

    fn watch(&self, context: &Context<'_>) -> Option<Instant> {
        self.lock().watch(context)
    }

    fn expire(&self, now: Instant) -> bool {
        let late = self.lock().expire(now);
        late.into_iter().for_each(Waker::wake);
        // Those who wait for long suspect it by themselves.
        false
    }
}
