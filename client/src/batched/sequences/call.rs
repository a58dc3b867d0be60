use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;

use super::batch::Unserved;
use super::queue::Place;
use super::{Entry, Grant, Lane, Opener, Refusal, Refused};
use crate::batched::CallError;
use crate::suspicion::SILENCE;

/// A caller on a stream, from joining a batch to its outcome. Dropped before the batch is sent, it is as if
/// it had never been there.
pub(crate) struct Call<'a> {
    lane: &'a Lane,
    opener: Opener<'a>,
    until: Instant,
    /// When the peer is suspected, if it has said nothing by then.
    suspect_at: Instant,
    stage: Stage,
}

enum Stage {
    New(Entry),
    Joined(Place),
    Over,
}

impl<'a> Call<'a> {
    pub(super) fn new(
        lane: &'a Lane,
        opener: Opener<'a>,
        entry: Entry,
        now: Instant,
        until: Instant,
    ) -> Self {
        Self { lane, opener, until, suspect_at: now + SILENCE, stage: Stage::New(entry) }
    }

    /// When it is to be looked at again.
    fn next_look(&self) -> Instant {
        self.until.min(self.suspect_at)
    }

    fn outcome(place: &Place) -> Option<Result<Grant, Refused>> {
        let outcome = place.outcome.get()?.of(place.index);
        Some(outcome.map_err(|(unserved, request)| {
            let refusal = match unserved {
                Unserved::Failed(failure) => Refusal::Failed(failure.clone()),
                Unserved::Lost(lost) => Refusal::Unanswered(CallError::Lost(lost.clone())),
                Unserved::Left => Refusal::Unanswered(CallError::Silent { was_sent: false }),
            };
            Refused { refusal, request }
        }))
    }

    /// Looks after a caller that was woken without an outcome, or not woken at all.
    fn look_again(&mut self, place: Place, waker: &Waker) -> Poll<Result<Grant, Refused>> {
        let now = Instant::now();
        if now >= self.suspect_at && now < self.until {
            self.suspect_at = now + SILENCE;
            self.opener.learner.suspect();
        }
        let look = self.next_look();
        let mut queue = self.lane.shared.lock();
        // Looked at again: an outcome is set under the lock, and wakes whom it finds.
        if let Some(outcome) = Self::outcome(&place) {
            return Poll::Ready(outcome);
        }
        if now >= self.until {
            let (was_sent, request) = queue.leave(&place);
            let refusal = Refusal::Unanswered(CallError::Silent { was_sent });
            return Poll::Ready(Err(Refused { refusal, request }));
        }
        let wake = queue.renew(&place, look, waker);
        drop(queue);
        wake.into_iter().for_each(Waker::wake);
        self.stage = Stage::Joined(place);
        Poll::Pending
    }
}

// Nothing in it is pinned.
impl Unpin for Call<'_> {}

impl Future for Call<'_> {
    type Output = Result<Grant, Refused>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        match std::mem::replace(&mut this.stage, Stage::Over) {
            Stage::New(entry) => {
                let look = this.next_look();
                match this.lane.join(this.opener, entry, look, context.waker()) {
                    Some(place) => {
                        this.stage = Stage::Joined(place);
                        Poll::Pending
                    }
                    None => {
                        let refusal = Refusal::Unanswered(CallError::Full);
                        Poll::Ready(Err(Refused { refusal, request: None }))
                    }
                }
            }
            Stage::Joined(place) => match Self::outcome(&place) {
                Some(outcome) => Poll::Ready(outcome),
                None => this.look_again(place, context.waker()),
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
            let left = self.lane.shared.lock().leave(place);
            drop(left);
        }
    }
}

impl Lane {
    /// Joins the next batch and wakes its sender. `None` if too many callers wait.
    fn join(
        &self,
        opener: Opener<'_>,
        entry: Entry,
        until: Instant,
        waker: &Waker,
    ) -> Option<Place> {
        let mut queue = self.shared.lock();
        let (place, wake) = queue.join(entry, until, waker)?;
        let run = (!queue.is_running).then(|| queue.begin(opener.sessions));
        drop(queue);
        wake.into_iter().flatten().for_each(Waker::wake);
        if let Some(run) = run {
            let (channel, learner) = (opener.channel.clone(), opener.learner.clone());
            self.task.start(self.shared.clone(), run, channel, learner);
        }
        Some(place)
    }
}
