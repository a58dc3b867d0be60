//! Calls that go together over the streams of [`batched`](crate::batched), as attempts at a call.

use std::future::{Future, ready};
use std::pin::Pin;
use std::sync::Arc;
use std::task::{self, Context, Poll};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::time::Instant;
use tonic::Status;
use tsoracle_types::{SeqBlock, SeqKey, TimestampRange};

use crate::attempt::Failure;
use crate::batched::sequences::{Entry, Opener, Refusal, Refused};
use crate::batched::timestamps::{Call, Unanswered};
use crate::batched::{CallError, Lost, MAX_WAITING};
use crate::cluster::{Cluster, Limit};
use crate::error::{Error, ErrorKind, Result};
use crate::pool::Peer;
use crate::rpc::{GetSeq, GetTs, Idempotency, Unacceptable, granted, status};
use crate::session::OpenRequest;
use crate::verdict::Verdict;

/// How a call ended that was made without looking for the leader.
enum AtOnce {
    Granted(SeqBlock),
    /// It was not made.
    Not,
    Failed(Arc<Peer>, Refused),
    Malformed(Arc<Peer>, String),
}

/// A call for timestamps: to the node that served the last ones if it can be asked at once, and otherwise as
/// any other call. Written by hand, since each layer of futures costs as much as the call itself.
pub(crate) struct TimestampCall<'a> {
    cluster: &'a Cluster,
    count: u32,
    timeout: Duration,
    stage: Stage<'a>,
}

enum Stage<'a> {
    AtOnce(Call<'a>),
    // Most calls never come here, and need no room for it.
    Whole(BoxFuture<'a, Result<TimestampRange>>),
}

impl Future for TimestampCall<'_> {
    type Output = Result<TimestampRange>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        loop {
            match &mut this.stage {
                Stage::AtOnce(call) => {
                    let failed = match task::ready!(Pin::new(&mut *call).poll(context)) {
                        Ok(first) => match TimestampRange::new(first, this.count) {
                            Ok(range) => return Poll::Ready(Ok(range)),
                            // A part of a range that was checked is one.
                            Err(_) => None,
                        },
                        Err(Unanswered::Closed) => None,
                        Err(Unanswered::Failed { began, error }) => Some((began, error)),
                    };
                    let peer = call.queue().peer();
                    let whole =
                        this.cluster.timestamps_after(this.count, this.timeout, peer, failed);
                    this.stage = Stage::Whole(Box::pin(whole));
                }
                Stage::Whole(whole) => return whole.as_mut().poll(context),
            }
        }
    }
}

impl<'a> TimestampCall<'a> {
    /// A call that is not made.
    pub(crate) fn refused(cluster: &'a Cluster, error: Error) -> Self {
        let stage = Stage::Whole(Box::pin(ready(Err(error))));
        Self { cluster, count: 0, timeout: Duration::ZERO, stage }
    }
}

impl Cluster {
    /// `first_attempt_ms` is the [time of an attempt](Self::time_of_attempt) for `timeout`, which callers know.
    pub(crate) fn timestamps(
        &self,
        count: u32,
        timeout: Duration,
        first_attempt_ms: u64,
    ) -> TimestampCall<'_> {
        let stage = match self.pool.queues().serving() {
            Some(queue) => Stage::AtOnce(Call::new(queue, count, first_attempt_ms)),
            None => Stage::Whole(Box::pin(self.timestamps_after(count, timeout, None, None))),
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
            let failure = self.unanswered(&peer, error, Idempotency::Repeatable)?;
            Some((peer, failure))
        });
        self.call_after(failed, &GetTs { count }, Limit::starting_at(began, timeout)).await
    }

    /// A block, from the node that served last if it can be asked at once, and otherwise as any other call.
    pub(crate) async fn sequence(&self, key: SeqKey, count: u32, limit: Limit) -> Result<SeqBlock> {
        let outcome = match self.sequence_at_once(&key, count, limit).await {
            AtOnce::Granted(block) => return Ok(block),
            outcome => outcome,
        };
        Box::pin(self.sequence_after(outcome, key, count, limit)).await
    }

    async fn sequence_at_once(&self, key: &SeqKey, count: u32, limit: Limit) -> AtOnce {
        let Some(peer) = self.serving.load_full() else { return AtOnce::Not };
        let (Some(channel), Some(until), Some(true)) = (
            peer.channel_now(),
            self.end_of_attempt_at(limit.began, limit.deadline),
            peer.honours_request_ids(),
        ) else {
            return AtOnce::Not;
        };
        let opener = Opener { channel, learner: peer.learner(), sessions: &self.sessions };
        let entry = Entry::New { key: key.clone(), count };
        match peer.sequences.call(opener, entry, limit.began, until).await {
            Ok(grant) => match granted(key, count, grant) {
                Ok(block) => AtOnce::Granted(block),
                Err(Unacceptable::Malformed(what)) => AtOnce::Malformed(peer, what),
                Err(Unacceptable::NotLeader) => AtOnce::Not,
            },
            Err(refused) => AtOnce::Failed(peer, refused),
        }
    }

    /// Goes on after an attempt without a block, with the same request if it has got a number.
    async fn sequence_after(
        &self,
        outcome: AtOnce,
        key: SeqKey,
        count: u32,
        limit: Limit,
    ) -> Result<SeqBlock> {
        let (peer, failure, numbered): (_, _, Option<OpenRequest>) = match outcome {
            AtOnce::Granted(block) => return Ok(block),
            AtOnce::Not => (None, None, None),
            AtOnce::Failed(peer, Refused { refusal, request }) => {
                (Some(peer), Some(refusal), request)
            }
            AtOnce::Malformed(peer, what) => {
                let lost = Lost::Malformed(what.into());
                (Some(peer), Some(Refusal::Unanswered(CallError::Lost(lost))), None)
            }
        };
        let request = match numbered {
            Some(request) => request,
            None => self.sessions.begin_within(limit).await?,
        };
        let rpc = GetSeq { key, count, request, named: false };
        let failed = peer.zip(failure).and_then(|(peer, refusal)| {
            let failure = self.refused(&peer, refusal, Idempotency::ByRequestId(&rpc.request))?;
            Some((peer, failure))
        });
        self.call_after(failed, &rpc, limit).await
    }

    /// `peer` has answered on a stream. It is asked first from now on, if it leads.
    pub(crate) fn serves_on_stream(&self, peer: &Arc<Peer>) {
        if self.leader.address().as_ref() == Some(peer.address()) {
            self.serving.store(Some(peer.clone()));
            peer.timestamps.serves();
        }
    }

    /// `peer` has failed: it is not asked first any more.
    pub(crate) fn serves_no_more(&self, peer: &Arc<Peer>) {
        peer.timestamps.serves_no_more();
        let serving = self.serving.load();
        if serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, peer)) {
            // Another one that has served meanwhile keeps its place.
            self.serving.compare_and_swap(&*serving, None);
        }
    }

    /// What it means that a sequence request was not granted. Nothing if the peer does not serve streams.
    pub(crate) fn refused(
        &self,
        peer: &Arc<Peer>,
        refusal: Refusal,
        idempotency: Idempotency<'_>,
    ) -> Option<Failure> {
        match refusal {
            Refusal::Failed(failed) => Some(self.failed(peer, status(failed), idempotency)),
            Refusal::Unanswered(error) => self.unanswered(peer, error, idempotency),
        }
    }

    /// What it means that no answer came. Nothing if the peer does not serve streams.
    pub(crate) fn unanswered(
        &self,
        peer: &Arc<Peer>,
        error: CallError,
        idempotency: Idempotency<'_>,
    ) -> Option<Failure> {
        Some(match error {
            CallError::Full => {
                let why = format!("{MAX_WAITING} callers of this client wait already");
                Failure::new(Verdict::Refused(ErrorKind::Exhausted), why)
            }
            CallError::Silent { was_sent } => match (was_sent, self.silent(peer)) {
                (true, failure) => failure,
                (false, failure) => Failure { verdict: Verdict::NotExecuted, ..failure },
            },
            CallError::Lost(Lost::Unserved) => return None,
            CallError::Lost(Lost::Malformed(what)) => {
                Failure::new(Verdict::Malformed, format!("answered {what}"))
            }
            CallError::Lost(Lost::Broken { status, is_certain }) => {
                self.broken(peer, Status::clone(&status), is_certain, idempotency)
            }
        })
    }

    /// The stream broke, and with it everything that was on its way.
    fn broken(
        &self,
        peer: &Arc<Peer>,
        status: Status,
        is_certain: bool,
        idempotency: Idempotency<'_>,
    ) -> Failure {
        let failure = self.failed(peer, status, idempotency);
        let verdict = match (idempotency, is_certain) {
            (Idempotency::Repeatable, _) => failure.verdict,
            // Not sent, whatever the status says of what was.
            (_, true) if failure.verdict == Verdict::Uncertain => Verdict::NotExecuted,
            (_, true) => failure.verdict,
            (_, false) => Verdict::Uncertain,
        };
        Failure { verdict, ..failure }
    }
}
