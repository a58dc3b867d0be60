//! Calls to the node that served last, without looking for the leader.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tsoracle_types::{SeqBlock, SeqKey, TimestampRange};

use super::cluster::{Cluster, Limit};
use crate::error::{Error, Result};
use crate::rpc::{GetSeq, GetTs, Idempotency, Rejected, granted};
use crate::stream::sequences::{Entry, NotGranted, StreamOpener};
use crate::stream::timestamps::{Call, Unanswered};
use crate::stream::{CallError, Lost, Peer};

/// The outcome of a sequence request on the fast path.
enum Outcome {
    Granted(SeqBlock),
    /// It was not sent.
    NotSent,
    Failed(Arc<Peer>, NotGranted),
}

/// A call for timestamps: to the peer that served the last ones if it can be asked at once, and otherwise with
/// retries as any other call. Written by hand, since each layer of futures costs as much as the call itself.
pub(crate) struct TimestampCall<'a> {
    cluster: &'a Cluster,
    count: u32,
    timeout: Duration,
    stage: Stage<'a>,
}

enum Stage<'a> {
    Batched(Call<'a>),
    // Boxed, since most calls do not get here.
    WithRetries(BoxFuture<'a, Result<TimestampRange>>),
}

impl Future for TimestampCall<'_> {
    type Output = Result<TimestampRange>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::Batched(call) => {
                    let failed = match task::ready!(Pin::new(&mut *call).poll(context)) {
                        Ok(first) => match TimestampRange::new(first, this.count) {
                            Ok(range) => return Poll::Ready(Ok(range)),
                            // A part of a range that was checked is always a range.
                            Err(_) => None,
                        },
                        Err(Unanswered::Closed) => None,
                        Err(Unanswered::Failed { began, error }) => Some((began, error)),
                    };
                    let owner = call.queue().owner();
                    let peer = owner.and_then(|owner| owner.downcast().ok());
                    let call =
                        this.cluster.timestamps_after(this.count, this.timeout, peer, failed);
                    this.stage = Stage::WithRetries(Box::pin(call));
                }
                Stage::WithRetries(call) => return call.as_mut().poll(context),
            }
        }
    }
}

impl<'a> TimestampCall<'a> {
    /// A call that is not sent.
    pub(crate) fn refused(cluster: &'a Cluster, error: Error) -> Self {
        let stage = Stage::WithRetries(Box::pin(ready(Err(error))));
        Self { cluster, count: 0, timeout: Duration::ZERO, stage }
    }
}

impl Cluster {
    /// `first_attempt_ms` is the [time of an attempt](Self::time_of_attempt) for `timeout`, computed once by the client.
    pub(crate) fn timestamps(
        &self,
        count: u32,
        timeout: Duration,
        first_attempt_ms: u64,
    ) -> TimestampCall<'_> {
        let stage = match self.queues.serving() {
            Some(queue) => Stage::Batched(Call::new(queue, count, first_attempt_ms)),
            None => Stage::WithRetries(Box::pin(self.timestamps_after(count, timeout, None, None))),
        };
        TimestampCall { cluster: self, count, timeout, stage }
    }

    /// As any other call, after a first attempt at `peer` that failed, if there was one.
    async fn timestamps_after(
        &self,
        count: u32,
        timeout: Duration,
        peer: Option<Arc<Peer>>,
        failed: Option<(Option<Instant>, CallError)>,
    ) -> Result<TimestampRange> {
        let began = failed.as_ref().and_then(|(began, _)| *began).unwrap_or_else(Instant::now);
        let failed = peer.zip(failed).and_then(|(peer, (_, error))| {
            let failure = self.batched_call_failed(&peer, error, Idempotency::Repeatable)?;
            Some((peer, failure))
        });
        self.call_after(failed, &GetTs { count }, Limit::starting_at(began, timeout)).await
    }

    /// A block, from the peer that served last if it can be asked at once, and otherwise with retries as any other
    /// call.
    pub(crate) async fn sequence(&self, key: SeqKey, count: u32, limit: Limit) -> Result<SeqBlock> {
        let failed = match self.sequence_at_once(&key, count, limit).await {
            Outcome::Granted(block) => return Ok(block),
            Outcome::NotSent => None,
            Outcome::Failed(peer, failed) => Some((peer, failed)),
        };
        Box::pin(self.sequence_after(failed, key, count, limit)).await
    }

    async fn sequence_at_once(&self, key: &SeqKey, count: u32, limit: Limit) -> Outcome {
        let Some(peer) = self.serving.load_full() else { return Outcome::NotSent };
        let (Some(channel), Some(until), Some(true)) = (
            peer.connection.channel_now(),
            self.end_of_attempt(limit.began, limit.deadline),
            peer.state.honours_request_ids(),
        ) else {
            return Outcome::NotSent;
        };
        let opener = StreamOpener { channel, peer: &peer.state, sessions: &self.sessions };
        let entry = Entry::New { key: key.clone(), count };
        match peer.streams.sequences.call(opener, entry, limit.began, until).await {
            Ok(grant) => match granted(key, count, grant) {
                Ok(block) => Outcome::Granted(block),
                Err(Rejected::Malformed(reason)) => {
                    let error = CallError::Lost(Lost::Malformed(reason.into()));
                    Outcome::Failed(peer, NotGranted { error, request: None })
                }
                Err(Rejected::NotLeader) => Outcome::NotSent,
            },
            Err(failed) => Outcome::Failed(peer, failed),
        }
    }

    /// Retries after a first attempt that failed, with the same request if it has a number already.
    async fn sequence_after(
        &self,
        failed: Option<(Arc<Peer>, NotGranted)>,
        key: SeqKey,
        count: u32,
        limit: Limit,
    ) -> Result<SeqBlock> {
        let (error, request) = match failed {
            Some((peer, NotGranted { error, request })) => (Some((peer, error)), request),
            None => (None, None),
        };
        let request = match request {
            Some(request) => request,
            None => self.begin_request(limit).await?,
        };
        let rpc = GetSeq { key, count, request, named: false };
        let failed = error.and_then(|(peer, error)| {
            let idempotency = Idempotency::ByRequestId(&rpc.request);
            let failure = self.batched_call_failed(&peer, error, idempotency)?;
            Some((peer, failure))
        });
        self.call_after(failed, &rpc, limit).await
    }
}
