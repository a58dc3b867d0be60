use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::time::Instant;
use tsoracle_types::Timestamp;

use super::queue::{Joined, Queue};
use crate::stream::batches::CallError;

/// A batched call, from joining a batch to its first timestamp. If it is dropped before the batch is sent, its
/// request is not sent either.
pub(crate) struct Call<'a> {
    queue: &'a Queue,
    count: u32,
    within_ms: u64,
    stage: Stage,
}

enum Stage {
    New,
    Joined(Joined),
    Over,
}

/// Reason why there is no timestamp.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No stream takes callers.
    Closed,
    /// The call has failed, which began at this time.
    Failed { began: Option<Instant>, error: CallError },
}

impl<'a> Call<'a> {
    /// Requests `count` timestamps, and waits for the answer up to `within_ms`, from its first poll on.
    pub(crate) fn new(queue: &'a Queue, count: u32, within_ms: u64) -> Self {
        Self { queue, count, within_ms, stage: Stage::New }
    }

    pub(crate) fn queue(&self) -> &'a Queue {
        self.queue
    }
}

impl Future for Call<'_> {
    type Output = Result<Timestamp, Unanswered>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let (outcome, began) = match &this.stage {
            Stage::New => {
                let (count, within_ms) = (this.count, this.within_ms);
                match this.queue.join(this.queue.shard(), count, within_ms, context.waker()) {
                    Some(Ok(joined)) => {
                        this.stage = Stage::Joined(joined);
                        return Poll::Pending;
                    }
                    Some(Err(error)) => (Err(error), None),
                    None => {
                        this.stage = Stage::Over;
                        return Poll::Ready(Err(Unanswered::Closed));
                    }
                }
            }
            Stage::Joined(joined) => {
                let outcome = match this.queue.outcome(joined) {
                    Some(outcome) => outcome,
                    None => match this.queue.check(joined, context.waker()) {
                        Poll::Ready(outcome) => outcome,
                        Poll::Pending => return Poll::Pending,
                    },
                };
                (outcome, Some(joined.began_ms))
            }
            Stage::Over => return Poll::Pending,
        };
        this.stage = Stage::Over;
        Poll::Ready(outcome.map_err(|error| {
            let began = began.map(|millis| this.queue.instant(millis));
            Unanswered::Failed { began, error }
        }))
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Stage::Joined(joined) = &self.stage {
            self.queue.leave(joined);
        }
    }
}
