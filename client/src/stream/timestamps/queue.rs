use std::cell::Cell;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tsoracle_proto::MAX_TS_COUNT;
use tsoracle_proto::v1::GetTsRequest;
use tsoracle_types::Timestamp;

use super::answers::Answer;
use super::flight::{Flight, Owner, Sealed};
use super::shard::{MAX_SHARDS, Part, Place, Shard};
use crate::stream::batches::{CallError, Lost, MAX_WAITING};

/// How often the time of waiting callers is checked. A call ends at most so much after its time is over.
pub(super) const TICK: Duration = Duration::from_millis(5);

/// The callers of successive streams.
pub(crate) struct Queue {
    pub(super) shards: Box<[Shard]>,
    /// The transport waits for a caller.
    pub(super) is_idle: AtomicBool,
    /// The time as of the last tick, in milliseconds from `base`, and 0 while no task reads it.
    pub(super) clock: AtomicU64,
    pub(super) in_flight: AtomicUsize,
    base: Instant,
    flight: Mutex<Flight>,
}

impl Queue {
    pub(super) fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_shards(threads.next_power_of_two().min(MAX_SHARDS))
    }

    pub(super) fn with_shards(shards: usize) -> Self {
        let base = Instant::now();
        Self {
            shards: (0..shards).map(|_| Shard::new()).collect(),
            is_idle: AtomicBool::new(false),
            clock: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            base,
            flight: Mutex::new(Flight::new(base)),
        }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Flight> {
        // It is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a stream to `owner` take the callers, unless one does already. Returns the number of the new one.
    pub(super) fn begin(&self, owner: Weak<Owner>) -> Option<u64> {
        let mut flight = self.lock();
        if flight.is_running {
            return None;
        }
        flight.run += 1;
        flight.is_running = true;
        flight.owner = owner;
        self.clock.store(0, Ordering::Relaxed);
        flight.next_tick = None;
        self.shards.iter().for_each(|shard| shard.lock().is_open = true);
        Some(flight.run)
    }

    /// The peer that the last stream was to.
    pub(crate) fn owner(&self) -> Option<Arc<Owner>> {
        self.lock().owner.upgrade()
    }

    /// The shard of the calling thread.
    pub(super) fn shard(&self) -> usize {
        this_thread() % self.shards.len()
    }

    /// Adds a caller to the batch that is sent next. Nothing if no stream takes callers.
    pub(super) fn join(
        &self,
        shard: usize,
        count: u32,
        within_ms: u64,
        waker: &Waker,
    ) -> Option<Result<Joined, CallError>> {
        let mut queued = self.shards[shard].lock();
        if !queued.is_open {
            return None;
        }
        if queued.is_full(MAX_WAITING.saturating_sub(self.in_flight.load(Ordering::Relaxed))) {
            return Some(Err(CallError::Full));
        }
        let place = queued.join(count, within_ms, waker);
        drop(queued);
        // A transport that became idle before has seen this caller, or is seen by it: both have held the lock of
        // the shard in between.
        if self.is_idle.load(Ordering::Relaxed) {
            self.wake_transport();
        }
        let began_ms = match self.clock.load(Ordering::Relaxed) {
            0 => self.start_clock(),
            now_ms => now_ms,
        };
        Some(Ok(Joined { shard, place, began_ms }))
    }

    #[cold]
    fn wake_transport(&self) {
        let mut flight = self.lock();
        self.is_idle.store(false, Ordering::Relaxed);
        let wake = flight.outbound.take();
        drop(flight);
        wake.into_iter().for_each(Waker::wake);
    }

    #[cold]
    fn start_clock(&self) -> u64 {
        let mut flight = self.lock();
        let now = Instant::now();
        let now_ms = self.millis(now);
        self.clock.store(now_ms, Ordering::Relaxed);
        let wake = match flight.next_tick {
            Some(_) => None,
            None => {
                flight.next_tick = Some(now + TICK);
                flight.silent_since = now;
                flight.held = flight.owner.upgrade().filter(|_| flight.is_running);
                flight.task.take()
            }
        };
        drop(flight);
        wake.into_iter().for_each(Waker::wake);
        now_ms
    }

    /// The time of the queue's clock, from 1 on.
    pub(super) fn millis(&self, at: Instant) -> u64 {
        1 + at.saturating_duration_since(self.base).as_millis() as u64
    }

    pub(super) fn instant(&self, millis: u64) -> Instant {
        self.base + Duration::from_millis(millis.saturating_sub(1))
    }

    /// The outcome of a caller's batch, if there is one.
    pub(super) fn outcome(&self, joined: &Joined) -> Option<Result<Timestamp, CallError>> {
        match self.shards[joined.shard].answers.read(joined.place.number)? {
            Answer::First(first) => {
                Some(Ok(Timestamp::from_u64(first + u64::from(joined.place.first))))
            }
            Answer::Lost(loss) => Some(Err(CallError::Lost(self.lock().loss(loss)))),
        }
    }

    /// Checks a call that was woken without an outcome, or was not woken at all.
    #[cold]
    pub(super) fn check(
        &self,
        joined: &Joined,
        waker: &Waker,
    ) -> Poll<Result<Timestamp, CallError>> {
        let mut flight = self.lock();
        let Joined { shard, place, .. } = *joined;
        let answers = &self.shards[shard].answers;
        // Read again: outcomes are written under this lock.
        match answers.read(place.number) {
            Some(Answer::First(first)) => {
                return Poll::Ready(Ok(Timestamp::from_u64(first + u64::from(place.first))));
            }
            Some(Answer::Lost(loss)) => {
                return Poll::Ready(Err(CallError::Lost(flight.loss(loss))));
            }
            None if answers.is_replaced(place.number) => {
                let status = Status::unavailable("the answer was not taken in time");
                let (status, is_certain) = (Arc::new(status), false);
                return Poll::Ready(Err(CallError::Lost(Lost::Broken { status, is_certain })));
            }
            None => {}
        }
        let in_time = self.with_part(&mut flight, joined, |part, is_sent| {
            let in_time = part.renew(place.index, waker);
            if !in_time {
                part.leave(place.index, is_sent);
            }
            (in_time, is_sent)
        });
        match in_time {
            Some((true, _)) => Poll::Pending,
            Some((false, was_sent)) => Poll::Ready(Err(CallError::TimedOut { was_sent })),
            None => Poll::Ready(Err(CallError::TimedOut { was_sent: true })),
        }
    }

    /// Removes a caller whose batch has no outcome yet.
    #[cold]
    pub(super) fn leave(&self, joined: &Joined) {
        let mut flight = self.lock();
        self.with_part(&mut flight, joined, |part, is_sent| {
            part.leave(joined.place.index, is_sent)
        });
    }

    /// Applies `act` to the part that a caller is in, which may have been sent.
    fn with_part<T>(
        &self,
        flight: &mut Flight,
        joined: &Joined,
        act: impl FnOnce(&mut Part, bool) -> T,
    ) -> Option<T> {
        let number = joined.place.number;
        let mut queued = self.shards[joined.shard].lock();
        if let Some(part) = queued.find(number) {
            return Some(act(part, false));
        }
        drop(queued);
        let parts = flight.sealed.iter_mut().flat_map(|sealed| &mut sealed.parts);
        let mut found =
            parts.filter(|(shard, part)| *shard == joined.shard && part.number == number);
        found.next().map(|(_, part)| act(part, true))
    }

    /// How many callers wait to be sent.
    pub(super) fn queued(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Seals the callers that wait.
    pub(super) fn seal(&self, flight: &mut Flight) -> GetTsRequest {
        let mut sealed = Sealed { parts: Vec::with_capacity(self.shards.len()), width: 0 };
        flight.first_shard += 1;
        for offset in 0..self.shards.len() {
            let shard = (flight.first_shard + offset) % self.shards.len();
            let mut queued = self.shards[shard].lock();
            while let Some(part) = queued.take(MAX_TS_COUNT - sealed.width, &mut flight.spare) {
                sealed.width += part.width;
                sealed.parts.push((shard, part));
            }
        }
        let request = GetTsRequest { count: sealed.width };
        self.in_flight.fetch_add(sealed.callers(), Ordering::Relaxed);
        flight.sealed.push_back(sealed);
        request
    }

    /// Wakes the callers of a batch that has an outcome.
    pub(super) fn wake(&self, sealed: Sealed) {
        let slots = sealed.parts.into_iter().map(|(_, part)| part.wake()).collect();
        self.lock().keep(slots);
    }
}

/// The place of a caller in a queue.
#[derive(Clone, Copy, Debug)]
pub(super) struct Joined {
    pub(super) shard: usize,
    pub(super) place: Place,
    /// When it joined, by the queue's clock; not later than that.
    pub(super) began_ms: u64,
}

/// The number of the calling thread among those that have asked for timestamps.
fn this_thread() -> usize {
    static THREADS: AtomicUsize = AtomicUsize::new(0);
    thread_local! {
        static NUMBER: Cell<Option<usize>> = const { Cell::new(None) };
    }
    NUMBER.with(|number| match number.get() {
        Some(number) => number,
        None => {
            let next = THREADS.fetch_add(1, Ordering::Relaxed);
            number.set(Some(next));
            next
        }
    })
}

#[cfg(test)]
#[path = "queue_test.rs"]
mod tests;
