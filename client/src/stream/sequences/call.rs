use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::batch::{Entry, Grant, NotGranted};
use super::batched_stream::{BatchedStream, StreamOpener};
use super::queue::Place;
use crate::peers::SUSPECT_AFTER;
use crate::stream::batches::CallError;

/// A batched call, from joining a batch to its outcome. If it is dropped before the batch is sent, its
/// request is not sent either.
pub(crate) struct Call<'a> {
    stream: &'a BatchedStream,
    opener: StreamOpener<'a>,
    until: Instant,
    /// When the peer is suspected, if it has not answered by then.
    suspect_at: Instant,
    stage: Stage,
}

enum Stage {
    New(Entry),
    Joined(Place),
    Over,
}

impl BatchedStream {
    /// Sends `entry` together with those of other callers, and waits for the answer until `until`. Joins a
    /// batch when first polled, and must be polled within a runtime.
    pub(crate) fn call<'a>(
        &'a self,
        opener: StreamOpener<'a>,
        entry: Entry,
        now: Instant,
        until: Instant,
    ) -> Call<'a> {
        let (suspect_at, stage) = (now + SUSPECT_AFTER, Stage::New(entry));
        Call { stream: self, opener, until, suspect_at, stage }
    }
}

impl Call<'_> {
    /// When the call is to be woken at the latest.
    fn next_check(&self) -> Instant {
        self.until.min(self.suspect_at)
    }

    fn outcome(place: &Place) -> Option<Result<Grant, NotGranted>> {
        Some(place.outcome.get()?.of(place.index))
    }

    /// Checks a call that was woken without an outcome, or was not woken at all.
    fn check(&mut self, place: Place, waker: &Waker) -> Poll<Result<Grant, NotGranted>> {
        let now = Instant::now();
        if now >= self.suspect_at && now < self.until {
            self.suspect_at = now + SUSPECT_AFTER;
            self.opener.peer.suspect();
        }
        let next_check = self.next_check();
        let mut queue = self.stream.shared.lock();
        // Read again: an outcome is set under the lock, and wakes the callers that it finds.
        if let Some(outcome) = Self::outcome(&place) {
            return Poll::Ready(outcome);
        }
        if now >= self.until {
            let (was_sent, request) = queue.leave(&place);
            let error = CallError::TimedOut { was_sent };
            return Poll::Ready(Err(NotGranted { error, request }));
        }
        let wake = queue.renew(&place, next_check, waker);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
        self.stage = Stage::Joined(place);
        Poll::Pending
    }
}

// Nothing in it is pinned.
impl Unpin for Call<'_> {}

impl Future for Call<'_> {
    type Output = Result<Grant, NotGranted>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match std::mem::replace(&mut this.stage, Stage::Over) {
            Stage::New(entry) => {
                let next_check = this.next_check();
                match this.stream.join(this.opener, entry, next_check, context.waker()) {
                    Some(place) => {
                        this.stage = Stage::Joined(place);
                        Poll::Pending
                    }
                    None => Poll::Ready(Err(NotGranted { error: CallError::Full, request: None })),
                }
            }
            Stage::Joined(place) => match Self::outcome(&place) {
                Some(outcome) => Poll::Ready(outcome),
                None => this.check(place, context.waker()),
            },
            Stage::Over => Poll::Pending,
        }
    }
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Stage::Joined(place) = &self.stage
            && place.outcome.get().is_none()
        {
            let left = self.stream.shared.lock().leave(place);
            drop(left);
        }
    }
}
