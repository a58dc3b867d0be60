use std::future::Future;
use std::pin::Pin;
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use tonic::transport::Channel;

use super::queue::Place;
use super::{Kind, Line, Lost};
use crate::pool::Learner;
use crate::suspicion::SILENCE;

/// A caller on a line, from joining a batch to its outcome. Dropped before the batch is sent, it is
/// as if it had never been there.
pub(crate) struct Ride<'a, K: Kind> {
    line: &'a Line<K>,
    way: Way<'a>,
    until: Instant,
    /// When the peer is suspected, if it has said nothing by then.
    patient_until: Instant,
    stage: Stage<K>,
}

/// How the line is opened, if it is not.
pub(crate) type Way<'a> = (&'a Channel, &'a Learner);

enum Stage<K: Kind> {
    Outside(K::Entry),
    Aboard(Place<K>),
    Over,
}

/// Why a caller got no answer.
#[derive(Debug)]
pub(crate) enum Missed {
    /// Too many wait already.
    Full,
    /// None came in time. Unless the batch was sent, nothing was carried out.
    Silent { was_sent: bool },
    /// The batch was lost.
    Lost(Lost),
}

impl<'a, K: Kind> Ride<'a, K> {
    pub(super) fn new(
        line: &'a Line<K>,
        way: Way<'a>,
        entry: K::Entry,
        now: Instant,
        until: Instant,
    ) -> Self {
        let patient_until = now + SILENCE;
        Self { line, way, until, patient_until, stage: Stage::Outside(entry) }
    }

    /// When it is to be looked at again.
    fn next_look(&self) -> Instant {
        self.until.min(self.patient_until)
    }

    fn outcome(place: &Place<K>) -> Option<Result<K::Output, Missed>> {
        place.outcome.get().map(|outcome| match outcome {
            Ok(answer) => Ok(K::pick(answer, place.first)),
            Err(lost) => Err(Missed::Lost(lost.clone())),
        })
    }
}

// Nothing in it is pinned.
impl<K: Kind> Unpin for Ride<'_, K> {}

impl<K: Kind> Future for Ride<'_, K> {
    type Output = Result<K::Output, Missed>;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let this = &mut *self;
        let done = match std::mem::replace(&mut this.stage, Stage::Over) {
            Stage::Outside(entry) => {
                let look = this.next_look();
                match this.line.join(this.way, entry, look, context.waker()) {
                    Some(place) => {
                        this.stage = Stage::Aboard(place);
                        return Poll::Pending;
                    }
                    None => Err(Missed::Full),
                }
            }
            Stage::Aboard(place) => match Self::outcome(&place) {
                Some(outcome) => outcome,
                None => {
                    let now = Instant::now();
                    if now >= this.patient_until && now < this.until {
                        this.patient_until = now + SILENCE;
                        this.way.1.suspect();
                    }
                    let look = this.next_look();
                    let mut queue = this.line.shared.lock();
                    // Looked at again: an outcome is set under the lock, and wakes whom it finds.
                    if let Some(outcome) = Self::outcome(&place) {
                        outcome
                    } else if now >= this.until {
                        Err(Missed::Silent { was_sent: queue.leave(&place) })
                    } else {
                        let wake = queue.renew(&place, look, context.waker());
                        drop(queue);
                        wake.into_iter().for_each(Waker::wake);
                        this.stage = Stage::Aboard(place);
                        return Poll::Pending;
                    }
                }
            },
            Stage::Over => return Poll::Pending,
        };
        Poll::Ready(done)
    }
}

impl<K: Kind> Drop for Ride<'_, K> {
    fn drop(&mut self) {
        if let Stage::Aboard(place) = &self.stage
            && place.outcome.get().is_none()
        {
            self.line.shared.lock().leave(place);
        }
    }
}

impl<K: Kind> Line<K> {
    /// A place in the next batch, and whoever must know of it is woken. Nothing if the line is full.
    fn join(
        &self,
        (channel, learner): Way<'_>,
        entry: K::Entry,
        until: Instant,
        waker: &Waker,
    ) -> Option<Place<K>> {
        let mut queue = self.shared.lock();
        let (place, wake) = queue.join(entry, until, waker)?;
        let run = (!queue.is_running).then(|| queue.begin());
        drop(queue);
        wake.into_iter().flatten().for_each(Waker::wake);
        if let Some(run) = run {
            self.start(run, channel.clone(), learner.clone());
        }
        Some(place)
    }
}
