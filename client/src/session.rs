use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tsoracle_proto::v1;
use tsoracle_types::{BootTime, Clock, RETENTION, Session};

/// How long after its beginning a request may be sent again.
///
/// The server keeps a session for the retention after its last use, by a clock that may run 10 %
/// faster. Half of it leaves room for that and for an attempt that is delayed on its way.
const RESEND_WITHIN: Duration = Duration::from_secs(RETENTION.as_secs() / 2);

/// The most numbers between the first one still awaited and the next one. The server keeps the
/// answers of all of them, so one request that is stuck must not keep it from dropping the rest:
/// beyond this, requests begin in a new session. The server takes up to 4,096.
const MAX_SPAN: u64 = 3_072;

/// The most sequence requests in flight. More wait here rather than at the server, and a burst
/// does not exceed [`MAX_SPAN`] by itself.
const MAX_IN_FLIGHT: usize = 2_048;

/// Numbers the sequence requests of a client, so that each is carried out exactly once.
///
/// A server that honours request ids keeps the answers of a session from `first_incomplete` on.
/// A request that is sent again with the same session and number gets the answer of the first
/// time, from whichever leader. The client's part in it:
///
/// * A number is used for one request only, and `first_incomplete` never exceeds a number that is
///   still awaited. Both follow from [`Numbers`].
/// * No request is sent again when its session may have been forgotten: none later than half the
///   retention after it began ([`OpenRequest::may_resend`]). A session that executed a request is
///   known for the whole retention from then on.
/// * A request that may have been executed is marked `retry` once the session is known to have
///   existed ([`OpenRequest::confirm`]), so that a server which has lost the session refuses rather
///   than executes it. Before that, the mark would make the server refuse a request whose first
///   attempt never arrived. Leaving it out is safe by the point above: had an earlier attempt been
///   executed, its session would be known still.
///
/// Two cases are not covered. A process whose memory is duplicated, as by restoring a snapshot
/// twice, gives one number to two requests, which may then get the same block. And a process that is
/// stopped for longer than half the retention just between the check and the sending, in a session
/// that is not confirmed yet, may spend a block that no caller gets.
///
/// A session is replaced when it was not used for half the retention, when its numbers span too
/// much, and when a server did not know it.
pub(crate) struct Sessions {
    clock: Arc<dyn Clock>,
    current: Mutex<Option<Arc<OpenSession>>>,
    in_flight: Arc<Semaphore>,
}

impl Sessions {
    pub(crate) fn new(clock: Arc<dyn Clock>) -> Self {
        let in_flight = Arc::new(Semaphore::new(MAX_IN_FLIGHT));
        Self { clock, current: Mutex::default(), in_flight }
    }

    /// Numbers a new request. Nothing if `deadline` passes while too many are in flight.
    pub(crate) async fn begin(&self, deadline: Instant) -> Option<OpenRequest> {
        let turn = self.in_flight.clone().acquire_owned();
        let permit = tokio::time::timeout_at(deadline, turn).await.ok()?.ok()?;
        let now = self.clock.now().boot;
        Some(OpenRequest::new(self.session_for(1, now), self.clock.clone(), now, Some(permit)))
    }

    /// Numbers `count` new requests consecutively. Not bounded here: the batches in flight are few.
    pub(crate) fn begin_run(&self, count: u32) -> OpenRun {
        let began = self.clock.now().boot;
        let session = self.session_for(u64::from(count), began);
        let first = session.numbers().begin(count);
        let (clock, requests) = (self.clock.clone(), Mutex::default());
        OpenRun { session, first, count, began, clock, requests }
    }

    /// A session in which `count` requests may begin.
    fn session_for(&self, count: u64, now: BootTime) -> Arc<OpenSession> {
        let mut current = self.lock();
        let session = match current.take().filter(|session| session.is_good_at(now, count)) {
            Some(session) => session,
            None => Arc::new(OpenSession::new(Session(rand::rng().random()), now)),
        };
        *current = Some(session.clone());
        session
    }

    /// The request that `name` identifies, every time.
    pub(crate) fn named(&self, name: &str) -> OpenRequest {
        let now = self.clock.now().boot;
        let session =
            OpenSession { name: name.into(), ..OpenSession::new(Session::from_text(name), now) };
        OpenRequest::new(Arc::new(session), self.clock.clone(), now, None)
    }

    /// Gives up the current session, and returns the id to close it with, unless no server knows it, an
    /// answer is still awaited in it, which closing would drop, or a request was sent more than once: an
    /// attempt that is still on its way must find its session, or it would be carried out again.
    pub(crate) fn close(&self) -> Option<v1::RequestId> {
        let session = self.lock().take()?;
        let mut numbers = session.numbers();
        if !session.confirmed.load(Ordering::Relaxed)
            || session.resent.load(Ordering::Relaxed)
            || numbers.span() > 0
        {
            return None;
        }
        let number = numbers.begin(1);
        Some(session.request_id(number, number, false, true))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Arc<OpenSession>>> {
        // It is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[derive(Debug)]
struct OpenSession {
    id: Session,
    /// Instead of the id, for a single request; empty for others.
    name: String,
    numbers: Mutex<Numbers>,
    /// Some server has answered in this session, and so knows it.
    confirmed: AtomicBool,
    /// Some server has answered that it does not know the session.
    lost: AtomicBool,
    /// Some request was sent again while an earlier attempt at it may still have been on its way.
    resent: AtomicBool,
    last_use: Mutex<BootTime>,
}

impl OpenSession {
    fn new(id: Session, now: BootTime) -> Self {
        Self {
            id,
            name: String::new(),
            numbers: Mutex::default(),
            confirmed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            resent: AtomicBool::new(false),
            last_use: Mutex::new(now),
        }
    }

    /// Whether `count` requests may begin in it; if so, this is a use of it.
    fn is_good_at(&self, now: BootTime, count: u64) -> bool {
        let mut last_use = self.last_use.lock().unwrap_or_else(PoisonError::into_inner);
        let numbers = self.numbers();
        let span = match self.confirmed.load(Ordering::Relaxed) {
            true => numbers.span(),
            // A server that may not know the session is asked to keep all answers.
            false => numbers.last,
        };
        drop(numbers);
        let is_good = !self.lost.load(Ordering::Relaxed)
            && now.since(*last_use) <= RESEND_WITHIN
            && span + count <= MAX_SPAN;
        *last_use = now;
        is_good
    }

    /// Whether it is confirmed, and the first number whose answer must be kept.
    fn state(&self) -> (bool, u64) {
        match self.confirmed.load(Ordering::Relaxed) {
            true => (true, self.numbers().first_incomplete()),
            // A number above 1 means that the session is known, and is refused where it is not.
            false => (false, 1),
        }
    }

    fn request_id(&self, number: u64, first: u64, retry: bool, close: bool) -> v1::RequestId {
        if !self.name.is_empty() {
            return v1::RequestId { name: self.name.clone(), ..v1::RequestId::default() };
        }
        let session = self.id.0.to_vec().into();
        let name = String::new();
        v1::RequestId { session, number, first_incomplete: first, retry, close, name }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of one session: the next one, and those that are awaited.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    /// Whether the request of each number has ended, from the lowest one on that has not.
    ended: VecDeque<bool>,
}

impl Numbers {
    /// Begins `count` requests, and returns the number of the first one.
    fn begin(&mut self, count: u32) -> u64 {
        let first = self.last + 1;
        self.last += u64::from(count);
        self.ended.extend(std::iter::repeat_n(false, count as usize));
        first
    }

    fn end(&mut self, number: u64) {
        let Some(place) = number.checked_sub(self.first_incomplete()) else { return };
        if let Some(ended) = self.ended.get_mut(place as usize) {
            *ended = true;
        }
        while self.ended.front() == Some(&true) {
            self.ended.pop_front();
        }
    }

    /// The lowest number that is awaited, or else the next one.
    fn first_incomplete(&self) -> u64 {
        self.last + 1 - self.span()
    }

    /// How many numbers the server keeps answers for.
    fn span(&self) -> u64 {
        self.ended.len() as u64
    }
}

/// Requests with consecutive numbers. They are awaited until this is dropped, except for those that were taken
/// out to be sent again, which are awaited until they are dropped themselves.
#[derive(Debug)]
pub(crate) struct OpenRun {
    session: Arc<OpenSession>,
    first: u64,
    count: u32,
    began: BootTime,
    clock: Arc<dyn Clock>,
    /// The positions of those that were taken out.
    requests: Mutex<Vec<u32>>,
}

impl OpenRun {
    /// The id to send at this position.
    pub(crate) fn id(&self, position: u32) -> v1::RequestId {
        let (_, first_incomplete) = self.session.state();
        let number = self.first + u64::from(position);
        self.session.request_id(number, first_incomplete, false, false)
    }

    /// A server that honours request ids has carried one of them out: it knows the session.
    pub(crate) fn confirm(&self) {
        self.session.confirmed.store(true, Ordering::Relaxed);
    }

    /// The request at this position, which may be sent again. Taken out once at most.
    pub(crate) fn request(&self, position: u32) -> OpenRequest {
        self.requests().push(position);
        OpenRequest {
            session: self.session.clone(),
            number: self.first + u64::from(position),
            began: self.began,
            clock: self.clock.clone(),
            _permit: None,
        }
    }

    fn requests(&self) -> MutexGuard<'_, Vec<u32>> {
        self.requests.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Drop for OpenRun {
    fn drop(&mut self) {
        let requests = self.requests();
        let mut numbers = self.session.numbers();
        for position in (0..self.count).filter(|position| !requests.contains(position)) {
            numbers.end(self.first + u64::from(position));
        }
    }
}

/// A numbered request. Its number is awaited until this is dropped: when it ends, or because the
/// caller's future was dropped. Then no caller waits for the answer, and the server may drop it.
#[derive(Debug)]
pub(crate) struct OpenRequest {
    session: Arc<OpenSession>,
    number: u64,
    began: BootTime,
    clock: Arc<dyn Clock>,
    _permit: Option<OwnedSemaphorePermit>,
}

impl OpenRequest {
    fn new(
        session: Arc<OpenSession>,
        clock: Arc<dyn Clock>,
        began: BootTime,
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let number = session.numbers().begin(1);
        Self { session, number, began, clock, _permit: permit }
    }

    /// The id to send. `resend`: an earlier attempt may have been executed.
    pub(crate) fn id(&self, resend: bool) -> v1::RequestId {
        let (is_confirmed, first_incomplete) = self.session.state();
        if resend {
            self.session.resent.store(true, Ordering::Relaxed);
        }
        let retry = resend && is_confirmed;
        self.session.request_id(self.number, first_incomplete, retry, false)
    }

    /// A server that honours request ids has answered this request: it knows the session.
    pub(crate) fn confirm(&self) {
        self.session.confirmed.store(true, Ordering::Relaxed);
    }

    /// The server does not know the session: later requests begin in a new one.
    pub(crate) fn session_is_unknown(&self) {
        self.session.lost.store(true, Ordering::Relaxed);
    }

    /// Whether a server that executed an earlier attempt is certain to recognise another one.
    pub(crate) fn may_resend(&self) -> bool {
        self.clock.now().boot.since(self.began) < RESEND_WITHIN
    }

    /// The request, for people.
    pub(crate) fn describe(&self) -> String {
        match &*self.session.name {
            "" => format!("session {:?}, number {}", self.session.id, self.number),
            name => format!("request id {name:?}"),
        }
    }
}

impl Drop for OpenRequest {
    fn drop(&mut self) {
        self.session.numbers().end(self.number);
    }
}

#[cfg(test)]
#[path = "session_test.rs"]
mod tests;
