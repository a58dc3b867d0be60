//! Timestamps for many callers over one stream.
//!
//! A call costs little more than to wake its task, so what callers share must not cost as much. Callers of
//! different threads join different shards, each behind a lock of its own; a batch is what all
//! shards hold when the transport takes it. An answer is one write for each shard, which its callers read
//! without a lock. No call counts a reference or reads a clock: queues outlive their streams
//! ([`Queues`]), and those who wait for longer than a tick are dated by the stream's task.

use std::cell::Cell;
use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status, Streaming};
use tsoracle_proto::MAX_TS_COUNT;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{GetTsRequest, GetTsResponse};
use tsoracle_types::{Epoch, Timestamp, TimestampRange};

use super::drive::Outbound;
use super::{Batches, CallError, Lost, MAX_WAITING};
use crate::pool::{Learner, Peer};
use crate::suspicion::SILENCE;

mod answers;
mod call;
mod queues;
mod shard;

/// What the answers are built of, so that a test can put a model in its place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

pub(crate) use call::{Call, Unanswered};
pub(crate) use queues::{Lane, Queues};

use answers::Answer;
use shard::{Part, Place, Shard, Slots};

/// The most batches in flight.
const MOST_IN_FLIGHT: usize = 4;

/// The most callers in one batch, if they come together. More go in two, one of which is on its way while
/// the callers of the other take their answers and ask again.
const FEW: usize = 512;

/// The most shards, whatever the number of processors.
const MOST_SHARDS: usize = 16;

/// How often those who wait are looked after. A call's time is over so much later, at most.
const TICK: Duration = Duration::from_millis(5);

/// The most reasons that are kept of why batches were lost.
const MOST_LOSSES: usize = 64;

/// The most slots that are kept to be used again, and how large they may be.
const MOST_SPARE: usize = MOST_IN_FLIGHT * MOST_SHARDS;
const LARGEST_SPARE: usize = 1_024;

/// The callers of one stream after the other.
pub(crate) struct Queue {
    shards: Box<[Shard]>,
    /// The transport waits for a caller.
    is_hungry: AtomicBool,
    /// The time when it was last looked at, in milliseconds from `base`, and 0 while no task looks.
    clock: AtomicU64,
    in_flight: AtomicUsize,
    base: Instant,
    flight: Mutex<Flight>,
}

/// What is shared once per batch.
struct Flight {
    run: u64,
    is_running: bool,
    /// Whom the stream is to.
    peer: Weak<Peer>,
    /// The same, while callers wait: others may have given it up already.
    held: Option<Arc<Peer>>,
    /// In the order in which they are answered.
    sealed: VecDeque<Sealed>,
    /// Where the next batch begins, so that no shard is always the last one.
    turn: usize,
    /// The transport's side, while it waits.
    outbound: Option<Waker>,
    /// The stream's task, which watches the time.
    task: Option<Waker>,
    next_tick: Option<Instant>,
    /// Nothing was heard since then, though callers wait.
    silent_since: Instant,
    /// How many callers the batch had that was answered last.
    last_size: usize,
    /// How many waited when sealing was put off last.
    let_ahead: usize,
    losses: VecDeque<(u64, Lost)>,
    last_loss: u64,
    spare: Vec<Slots>,
}

/// A batch that was sent.
struct Sealed {
    parts: Vec<(usize, Part)>,
    width: u32,
}

impl Sealed {
    fn callers(&self) -> usize {
        self.parts.iter().map(|(_, part)| part.live()).sum()
    }
}

impl Queue {
    fn new() -> Self {
        let threads = std::thread::available_parallelism().map_or(1, usize::from);
        Self::with_shards(threads.next_power_of_two().min(MOST_SHARDS))
    }

    fn with_shards(shards: usize) -> Self {
        let base = Instant::now();
        let flight = Flight {
            run: 0,
            is_running: false,
            peer: Weak::new(),
            held: None,
            sealed: VecDeque::new(),
            turn: 0,
            outbound: None,
            task: None,
            next_tick: None,
            silent_since: base,
            last_size: 0,
            let_ahead: 0,
            losses: VecDeque::new(),
            last_loss: 0,
            spare: Vec::new(),
        };
        Self {
            shards: (0..shards).map(|_| Shard::new()).collect(),
            is_hungry: AtomicBool::new(false),
            clock: AtomicU64::new(0),
            in_flight: AtomicUsize::new(0),
            base,
            flight: Mutex::new(flight),
        }
    }

    fn lock(&self) -> MutexGuard<'_, Flight> {
        // It is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.flight.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Lets a stream to `peer` take the callers, unless one does already. What the new one is known by.
    fn begin(&self, peer: &Weak<Peer>) -> Option<u64> {
        let mut flight = self.lock();
        if flight.is_running {
            return None;
        }
        flight.run += 1;
        flight.is_running = true;
        flight.peer = peer.clone();
        self.clock.store(0, Ordering::Relaxed);
        flight.next_tick = None;
        self.shards.iter().for_each(|shard| shard.lock().is_open = true);
        Some(flight.run)
    }

    /// Whom the last stream was to.
    pub(crate) fn peer(&self) -> Option<Arc<Peer>> {
        self.lock().peer.upgrade()
    }

    /// The shard of the calling thread.
    fn shard(&self) -> usize {
        this_thread() % self.shards.len()
    }

    /// Takes a caller into the batch that is sent next. Nothing if no stream takes callers.
    fn join(
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
        // A sender that became hungry before has seen this caller, or is seen by it: both have held the lock of
        // the shard in between.
        if self.is_hungry.load(Ordering::Relaxed) {
            self.feed();
        }
        let began_ms = match self.clock.load(Ordering::Relaxed) {
            0 => self.start_clock(),
            now_ms => now_ms,
        };
        Some(Ok(Joined { shard, place, began_ms }))
    }

    #[cold]
    fn feed(&self) {
        let mut flight = self.lock();
        self.is_hungry.store(false, Ordering::Relaxed);
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
                flight.held = flight.peer.upgrade().filter(|_| flight.is_running);
                flight.task.take()
            }
        };
        drop(flight);
        wake.into_iter().for_each(Waker::wake);
        now_ms
    }

    /// From 1 on.
    fn millis(&self, at: Instant) -> u64 {
        1 + at.saturating_duration_since(self.base).as_millis() as u64
    }

    fn instant(&self, millis: u64) -> Instant {
        self.base + Duration::from_millis(millis.saturating_sub(1))
    }

    /// What became of a caller's batch, if anything did.
    fn outcome(&self, joined: &Joined) -> Option<Result<Timestamp, CallError>> {
        match self.shards[joined.shard].answers.read(joined.place.number)? {
            Answer::First(first) => {
                Some(Ok(Timestamp::from_u64(first + u64::from(joined.place.first))))
            }
            Answer::Lost(loss) => Some(Err(CallError::Lost(self.lock().loss(loss)))),
        }
    }

    /// Looks after a caller that was woken without an outcome, or not woken at all.
    #[cold]
    fn look_again(&self, joined: &Joined, waker: &Waker) -> Poll<Result<Timestamp, CallError>> {
        let mut flight = self.lock();
        let Joined { shard, place, .. } = *joined;
        let answers = &self.shards[shard].answers;
        // Looked at again: outcomes are written under this lock.
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
            Some((false, was_sent)) => Poll::Ready(Err(CallError::Silent { was_sent })),
            None => Poll::Ready(Err(CallError::Silent { was_sent: true })),
        }
    }

    /// A caller has gone before its batch had an outcome.
    #[cold]
    fn leave(&self, joined: &Joined) {
        let mut flight = self.lock();
        self.with_part(&mut flight, joined, |part, is_sent| {
            part.leave(joined.place.index, is_sent)
        });
    }

    /// Does something to the part that a caller is in, which may have been sent.
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

    fn queued(&self) -> usize {
        self.shards.iter().map(|shard| shard.lock().len()).sum()
    }

    /// Seals what waits.
    fn seal(&self, flight: &mut Flight) -> GetTsRequest {
        let mut sealed = Sealed { parts: Vec::with_capacity(self.shards.len()), width: 0 };
        flight.turn += 1;
        for turn in 0..self.shards.len() {
            let shard = (flight.turn + turn) % self.shards.len();
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

    /// Takes a batch that has an outcome out of flight, and wakes its callers.
    fn wake(&self, sealed: Sealed) {
        let slots: Vec<_> = sealed.parts.into_iter().map(|(_, part)| part.wake()).collect();
        let mut flight = self.lock();
        let room = MOST_SPARE.saturating_sub(flight.spare.len());
        let slots = slots.into_iter().filter(|slots| slots.capacity() <= LARGEST_SPARE);
        flight.spare.extend(slots.take(room));
    }
}

impl Flight {
    /// Keeps the reason for a loss, and returns what it is known by.
    fn lose(&mut self, lost: Lost) -> u64 {
        self.last_loss += 1;
        if self.losses.len() == MOST_LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back((self.last_loss, lost));
        self.last_loss
    }

    fn loss(&self, number: u64) -> Lost {
        let found = self.losses.iter().find(|(known, _)| *known == number);
        found.map(|(_, lost)| lost.clone()).unwrap_or_else(|| {
            super::drive::broken(Status::unavailable("the stream broke some time ago"))
        })
    }
}

/// Where a caller stands in a queue.
#[derive(Clone, Copy, Debug)]
struct Joined {
    shard: usize,
    place: Place,
    /// When it joined, as far as the queue's clock tells; no later.
    began_ms: u64,
}

impl Batches for Queue {
    type Request = GetTsRequest;
    type Response = GetTsResponse;

    async fn open(
        channel: Channel,
        outbound: Outbound<Self>,
    ) -> Result<Response<Streaming<GetTsResponse>>, Status> {
        TsoServiceClient::new(channel).stream_ts(outbound).await
    }

    fn poll_seal(&self, run: u64, context: &mut Context<'_>) -> Poll<Option<GetTsRequest>> {
        let mut flight = self.lock();
        if flight.run != run || !flight.is_running {
            return Poll::Ready(None);
        }
        if flight.sealed.len() >= MOST_IN_FLIGHT {
            flight.outbound = Some(context.waker().clone());
            return Poll::Pending;
        }
        // Before it is looked whether callers wait, so that those who come later see it.
        self.is_hungry.store(true, Ordering::Relaxed);
        let queued = self.queued();
        if queued == 0 {
            flight.outbound = Some(context.waker().clone());
            return Poll::Pending;
        }
        self.is_hungry.store(false, Ordering::Relaxed);
        // Those who were woken by the last answer are about to ask again. They are let ahead for as long as
        // each pass of the scheduler brings more, so that they go together; no caller waits for them.
        let expected = match self.in_flight.load(Ordering::Relaxed) {
            0 if flight.last_size > FEW => flight.last_size / 2,
            0 => flight.last_size,
            in_flight => in_flight,
        };
        if queued < expected && queued > flight.let_ahead {
            flight.let_ahead = queued;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        flight.let_ahead = 0;
        Poll::Ready(Some(self.seal(&mut flight)))
    }

    fn answer(&self, answer: GetTsResponse, learner: &Learner) -> Result<(), Arc<str>> {
        let now = Instant::now();
        let mut flight = self.lock();
        let Some(sealed) = flight.sealed.pop_front() else {
            return Err("an answer to nothing that was asked".into());
        };
        flight.silent_since = now;
        flight.last_size = sealed.callers();
        self.in_flight.fetch_sub(flight.last_size, Ordering::Relaxed);
        if flight.next_tick.is_some() {
            self.clock.store(self.millis(now), Ordering::Relaxed);
        }
        let read = read(sealed.width, &answer);
        let outcome = match &read {
            Ok((range, epoch)) => {
                learner.served(*epoch);
                Ok(range.first().as_u64())
            }
            Err(reason) => Err(flight.lose(Lost::Malformed(reason.clone()))),
        };
        let mut offset = 0;
        for (shard, part) in &sealed.parts {
            let answer = match outcome {
                Ok(first) => Answer::First(first + u64::from(offset)),
                Err(loss) => Answer::Lost(loss),
            };
            self.shards[*shard].answers.write(part.number, answer);
            offset += part.width;
        }
        // If it is hungry, a caller wakes it.
        let outbound = match self.is_hungry.load(Ordering::Relaxed) {
            true => None,
            false => flight.outbound.take(),
        };
        drop(flight);
        self.wake(sealed);
        outbound.into_iter().for_each(Waker::wake);
        read.map(drop)
    }

    fn end(&self, run: u64, lost: &Lost) {
        let mut flight = self.lock();
        if flight.run != run || !flight.is_running {
            return;
        }
        flight.is_running = false;
        let loss = flight.lose(lost.clone());
        let mut ended: Vec<_> = flight.sealed.drain(..).collect();
        let mut rest = Sealed { parts: vec![], width: 0 };
        for (index, shard) in self.shards.iter().enumerate() {
            let mut queued = shard.lock();
            queued.is_open = false;
            while let Some(part) = queued.take(MAX_TS_COUNT, &mut flight.spare) {
                rest.parts.push((index, part));
            }
        }
        ended.push(rest);
        for (shard, part) in ended.iter().flat_map(|sealed| &sealed.parts) {
            self.shards[*shard].answers.write(part.number, Answer::Lost(loss));
        }
        self.in_flight.store(0, Ordering::Relaxed);
        self.is_hungry.store(false, Ordering::Relaxed);
        self.clock.store(0, Ordering::Relaxed);
        (flight.next_tick, flight.task, flight.last_size) = (None, None, 0);
        let (outbound, held) = (flight.outbound.take(), flight.held.take());
        drop(flight);
        drop(held);
        ended.into_iter().for_each(|sealed| self.wake(sealed));
        outbound.into_iter().for_each(Waker::wake);
    }

    fn watch(&self, context: &Context<'_>) -> Option<Instant> {
        let mut flight = self.lock();
        match &mut flight.task {
            Some(task) => task.clone_from(context.waker()),
            none => *none = Some(context.waker().clone()),
        }
        flight.next_tick
    }

    fn expire(&self, now: Instant) -> bool {
        let mut flight = self.lock();
        let now_ms = self.millis(now);
        // Before it is looked whether callers wait, so that those who come later start it again.
        self.clock.store(0, Ordering::Relaxed);
        let (mut late, mut waiting) = (Vec::new(), 0);
        for shard in &self.shards {
            let mut queued = shard.lock();
            waiting += queued.len();
            queued.parts().for_each(|part| part.expire(now_ms, &mut late));
        }
        for (_, part) in flight.sealed.iter_mut().flat_map(|sealed| &mut sealed.parts) {
            waiting += part.live();
            part.expire(now_ms, &mut late);
        }
        flight.next_tick = (waiting > 0).then(|| now + TICK);
        let is_silent =
            waiting > 0 && now.saturating_duration_since(flight.silent_since) >= SILENCE;
        if is_silent {
            flight.silent_since = now;
        }
        let mut held = None;
        match waiting {
            0 => held = flight.held.take(),
            _ => self.clock.store(now_ms, Ordering::Relaxed),
        }
        drop(flight);
        drop(held);
        late.into_iter().for_each(Waker::wake);
        is_silent
    }
}

/// Checks an answer against the count that was asked for.
fn read(count: u32, answer: &GetTsResponse) -> Result<(TimestampRange, Epoch), Arc<str>> {
    if answer.count != count {
        return Err(format!("{} timestamps instead of {count}", answer.count).into());
    }
    let epoch = Epoch::from_parts(answer.epoch_hi, answer.epoch_lo);
    Timestamp::from_parts(answer.physical_ms, answer.logical_start)
        .and_then(|first| TimestampRange::new(first, count))
        .map(|range| (range, epoch))
        .map_err(|error| error.to_string().into())
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
#[path = "timestamps/queue_test.rs"]
mod tests;

#[cfg(test)]
#[expect(clippy::duplicate_mod, reason = "what is tested is built of the atomics of a model")]
#[path = "timestamps/answers_test.rs"]
mod answers_tests;
