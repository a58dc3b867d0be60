use std::collections::VecDeque;
use std::sync::{Arc, OnceLock};
use std::task::{Context, Poll, Waker};

use tokio::time::Instant;
use tsoracle_proto::v1::{StreamSeqRequest, StreamSeqResponse};
use tsoracle_types::Epoch;

use super::batch::{Batch, Entry, MAX_REQUESTS, Outcome};
use crate::session::{OpenRequest, Sessions};
use crate::stream::batches::{Lost, MAX_WAITING};

/// The most batches in flight.
const MAX_IN_FLIGHT: usize = 4;

/// The batches of a stream, in the order in which they are sent and answered.
#[derive(Default)]
pub(super) struct Queue {
    /// The first `in_flight` of them are sent.
    batches: VecDeque<Batch>,
    in_flight: usize,
    waiting: usize,
    /// Counts batches.
    last_number: u64,
    /// The number of the stream. Late actions and answers of an earlier one are ignored.
    run: u64,
    pub(super) is_running: bool,
    /// Where new requests are numbered.
    sessions: Option<Arc<Sessions>>,
    /// The server takes runs on this stream.
    takes_runs: bool,
    /// The transport's side, while it waits for something to send.
    outbound: Option<Waker>,
    /// The stream's task, which watches the time.
    task: Option<Waker>,
    /// No caller's time is over before this. May lie in the past.
    earliest: Option<Instant>,
    /// How many callers there would be in the next batch if all that the last answer woke came back.
    expected: usize,
    /// How often its sealing was put off.
    put_off: usize,
}

/// A caller's place in a batch.
pub(super) struct Place {
    pub(super) outcome: Arc<OnceLock<Outcome>>,
    pub(super) index: u32,
    number: u64,
}

/// The results of an answer.
pub(super) struct Answered {
    pub(super) wake: Vec<Waker>,
    pub(super) epoch: Option<Epoch>,
    pub(super) result: Result<(), Arc<str>>,
}

impl Queue {
    /// Begins a stream, and returns its number.
    pub(super) fn begin(&mut self, sessions: &Arc<Sessions>) -> u64 {
        self.run += 1;
        self.is_running = true;
        self.sessions = Some(sessions.clone());
        self.takes_runs = false;
        self.run
    }

    /// The server takes runs on this stream.
    pub(super) fn send_runs(&mut self, run: u64) {
        self.takes_runs |= self.run == run;
    }

    /// Adds a caller to the batch that is sent next, and returns the tasks to wake for it. Nothing if too
    /// many callers wait.
    pub(super) fn join(
        &mut self,
        entry: Entry,
        until: Instant,
        waker: &Waker,
    ) -> Option<(Place, [Option<Waker>; 2])> {
        if self.waiting >= MAX_WAITING {
            return None;
        }
        self.waiting += 1;
        if !self.batches.back().is_some_and(Batch::has_room) {
            self.last_number += 1;
            self.batches.push_back(Batch::new(self.last_number));
        }
        let batch = self.batches.back_mut()?;
        let index = batch.join(entry, until, waker);
        let place = Place { outcome: batch.outcome.clone(), index, number: batch.number };
        let mut wake = [None, None];
        if self.is_due() {
            wake[0] = self.outbound.take();
        }
        wake[1] = self.note(until);
        Some((place, wake))
    }

    /// Removes a caller whose batch has no outcome yet. Whether the batch may have been sent, and the
    /// caller's request if it was new then.
    pub(super) fn leave(&mut self, place: &Place) -> (bool, Option<OpenRequest>) {
        let Some(batch) = self.find(place) else { return (true, None) };
        let left = batch.leave(place.index);
        self.waiting -= 1;
        left
    }

    /// Replaces the waker of a caller, and the time when it is woken at the latest. Returns the task to wake for it.
    pub(super) fn renew(&mut self, place: &Place, until: Instant, waker: &Waker) -> Option<Waker> {
        self.find(place)?.renew(place.index, until, waker);
        self.note(until)
    }

    /// Some caller's time is over at `until`. Returns the task to wake for it.
    fn note(&mut self, until: Instant) -> Option<Waker> {
        if self.earliest.is_some_and(|earliest| earliest <= until) {
            return None;
        }
        self.earliest = Some(until);
        self.task.take()
    }

    fn find(&mut self, place: &Place) -> Option<&mut Batch> {
        self.batches.iter_mut().find(|batch| batch.number == place.number)
    }

    /// Whether the next batch, if there is one, is to be sent. What a small commit costs does not depend much
    /// on how many share it, so few large ones are better than many small ones: behind what is in flight, a
    /// batch waits until it is full, or larger than all of that. Otherwise two halves of the callers would
    /// take turns, with two commits for what could be one.
    fn is_due(&self) -> bool {
        let Some(next) = self.batches.get(self.in_flight) else { return false };
        let in_flight = self.batches.iter().take(self.in_flight).map(|batch| batch.live);
        self.in_flight < MAX_IN_FLIGHT
            && (self.in_flight == 0 || !next.has_room() || next.live > in_flight.sum::<usize>())
    }

    /// The next request to send; the end once another stream has begun.
    pub(super) fn poll_seal(
        &mut self,
        run: u64,
        context: &mut Context<'_>,
    ) -> Poll<Option<StreamSeqRequest>> {
        if self.run != run || !self.is_running {
            return Poll::Ready(None);
        }
        if self.is_due() {
            while self.batches.len() > self.in_flight + 1 && self.batches[self.in_flight].live == 0
            {
                self.batches.remove(self.in_flight);
            }
            if let Some(next) = self.batches.get_mut(self.in_flight)
                && let Some(sessions) = &self.sessions
                && next.live > 0
            {
                // The callers that the last answer woke are about to ask again. They run first,
                // each for one turn of the scheduler, so that they go together; no caller waits for them.
                if next.live < self.expected && self.put_off < self.expected {
                    self.put_off += 1;
                    context.waker().wake_by_ref();
                    return Poll::Pending;
                }
                self.put_off = 0;
                self.in_flight += 1;
                return Poll::Ready(Some(next.seal(sessions, self.takes_runs)));
            }
        }
        self.outbound = Some(context.waker().clone());
        Poll::Pending
    }

    /// Takes the answer to the first batch in flight.
    pub(super) fn answer(&mut self, answer: StreamSeqResponse) -> Answered {
        let first = match self.in_flight {
            0 => None,
            _ => self.batches.pop_front(),
        };
        let Some(mut batch) = first else {
            let result = Err("an answer without a request".into());
            return Answered { wake: vec![], epoch: None, result };
        };
        self.in_flight -= 1;
        self.waiting -= batch.live;
        let next = self.batches.get(self.in_flight).map_or(0, |next| next.live);
        self.expected = MAX_REQUESTS.min(batch.live + next);
        let answered = batch.answered(answer);
        let mut wake: Vec<_> = batch.into_wakers().collect();
        wake.extend(self.outbound.take_if(|_| !self.batches.is_empty()));
        let (epoch, result) = match answered {
            Ok(epoch) => (epoch, Ok(())),
            Err(reason) => (None, Err(reason)),
        };
        Answered { wake, epoch, result }
    }

    /// Ends a stream, and with it everything that waits. Returns the tasks to wake.
    pub(super) fn end(&mut self, run: u64, lost: &Lost) -> Vec<Waker> {
        let mut wake = Vec::new();
        if self.run != run {
            return wake;
        }
        self.is_running = false;
        for (place, mut batch) in self.batches.drain(..).enumerate() {
            let lost = match lost {
                Lost::Broken { status, .. } if place >= self.in_flight => {
                    Lost::Broken { status: status.clone(), is_certain: true }
                }
                lost => lost.clone(),
            };
            batch.lost(lost);
            wake.extend(batch.into_wakers());
        }
        (self.in_flight, self.waiting) = (0, 0);
        (self.expected, self.put_off) = (0, 0);
        (self.earliest, self.task) = (None, None);
        wake.extend(self.outbound.take());
        wake
    }

    /// When some caller's time may be over. Until then the stream's task is woken if that changes.
    pub(super) fn next_check(&mut self, context: &Context<'_>) -> Option<Instant> {
        match &mut self.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        self.earliest
    }

    /// The callers whose time is over at `now`.
    pub(super) fn expire(&mut self, now: Instant) -> Vec<Waker> {
        let mut late = Vec::new();
        let next = self.batches.iter_mut().filter_map(|batch| batch.expire(now, &mut late));
        self.earliest = next.min();
        late
    }
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
