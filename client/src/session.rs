use std::collections::BTreeSet;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use rand::Rng as _;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::Instant;
use tsoracle_core::state::RETENTION;
use tsoracle_core::{BootTime, Clock, Session};
use tsoracle_proto::v1;

/// How long after its beginning a request may be sent again.
///
/// The server keeps a session for the retention after its last use, by a clock that may run 10 %
/// faster. Half of it leaves room for that and for an attempt that lingers on its way.
const RESEND_WITHIN: Duration = Duration::from_secs(RETENTION.as_secs() / 2);

/// The most numbers between the first one still awaited and the next one. The server keeps the
/// answers of all of them, so one request that is stuck must not keep it from forgetting the rest:
/// beyond this, requests begin in a new session. The server takes up to 4,096.
const MAX_SPAN: u64 = 3_072;

/// The most sequence requests in flight. More wait here rather than at the server, and a burst
/// does not exceed [`MAX_SPAN`] by itself.
const MAX_IN_FLIGHT: usize = 2_048;

/// Names the sequence requests of a client, so that each is carried out exactly once.
///
/// A server that honours request ids keeps the answers of a session from `first_incomplete` on.
/// A request that is sent again with the same session and number is given the answer of the first
/// time, by whichever leader. What this side owes for it:
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
/// Two things this cannot cover. A process whose memory is duplicated, as by restoring a snapshot
/// twice, gives one name to two requests, which may then get the same block. And a process that is
/// stopped for longer than half the retention just between the check and the sending, in a session
/// that is not confirmed yet, may spend a block for nobody.
///
/// A session is replaced when it was not used for half the retention, when its numbers span too
/// much, and when a server did not know it.
#[derive(Debug)]
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

    /// Numbers a new request; nothing once `deadline` has passed before its turn came.
    pub(crate) async fn begin(&self, deadline: Instant) -> Option<OpenRequest> {
        let turn = self.in_flight.clone().acquire_owned();
        let permit = tokio::time::timeout_at(deadline, turn).await.ok()?.ok()?;
        let now = self.clock.now().boot;
        let mut current = self.lock();
        let session = match current.take().filter(|session| session.is_good_at(now)) {
            Some(session) => session,
            None => Arc::new(OpenSession::new(Session(rand::rng().random()), now)),
        };
        *current = Some(session.clone());
        Some(OpenRequest::new(session, self.clock.clone(), Some(permit)))
    }

    /// The request that `text` stands for: number 1 of a session of its own, every time.
    pub(crate) fn named(&self, text: &str) -> OpenRequest {
        let session = OpenSession::new(Session::from_text(text), self.clock.now().boot);
        OpenRequest::new(Arc::new(session), self.clock.clone(), None)
    }

    /// Gives up the current session. The id to close it with, unless no server knows it, an answer
    /// is still awaited in it, which closing would forget, or a request was sent more than once: an
    /// attempt that is still on its way must find its session, or it would be carried out again.
    pub(crate) fn close(&self) -> Option<v1::RequestId> {
        let session = self.lock().take()?;
        let mut numbers = session.numbers();
        if !session.confirmed.load(Ordering::Relaxed)
            || session.resent.load(Ordering::Relaxed)
            || !numbers.open.is_empty()
        {
            return None;
        }
        let number = numbers.begin();
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
            numbers: Mutex::default(),
            confirmed: AtomicBool::new(false),
            lost: AtomicBool::new(false),
            resent: AtomicBool::new(false),
            last_use: Mutex::new(now),
        }
    }

    /// Whether a request may begin in it; if so, this is a use of it.
    fn is_good_at(&self, now: BootTime) -> bool {
        let mut last_use = self.last_use.lock().unwrap_or_else(PoisonError::into_inner);
        let is_good = !self.lost.load(Ordering::Relaxed)
            && now.since(*last_use) <= RESEND_WITHIN
            && self.numbers().span() < MAX_SPAN;
        *last_use = now;
        is_good
    }

    fn request_id(&self, number: u64, first: u64, retry: bool, close: bool) -> v1::RequestId {
        let session = self.id.0.to_vec().into();
        v1::RequestId { session, number, first_incomplete: first, retry, close }
    }

    fn numbers(&self) -> MutexGuard<'_, Numbers> {
        self.numbers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The numbers of one session: which one is next, and which are awaited.
#[derive(Debug, Default)]
struct Numbers {
    last: u64,
    open: BTreeSet<u64>,
}

impl Numbers {
    fn begin(&mut self) -> u64 {
        self.last += 1;
        self.open.insert(self.last);
        self.last
    }

    fn end(&mut self, number: u64) {
        self.open.remove(&number);
    }

    /// The lowest number that is awaited, or else the next one.
    fn first_incomplete(&self) -> u64 {
        self.open.first().copied().unwrap_or(self.last + 1)
    }

    /// How many numbers the server keeps answers for.
    fn span(&self) -> u64 {
        self.last + 1 - self.first_incomplete()
    }
}

/// A numbered request. Its number is awaited until this is dropped: by its end, or because the
/// caller's future was dropped. Then nobody waits for the answer, and it may be forgotten.
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
        permit: Option<OwnedSemaphorePermit>,
    ) -> Self {
        let number = session.numbers().begin();
        let began = clock.now().boot;
        Self { session, number, began, clock, _permit: permit }
    }

    /// The id to send. `resend`: an earlier attempt may have been executed.
    pub(crate) fn id(&self, resend: bool) -> v1::RequestId {
        let is_confirmed = self.session.confirmed.load(Ordering::Relaxed);
        let first_incomplete = match is_confirmed {
            true => self.session.numbers().first_incomplete(),
            // Above 1 it would say that the session was known, and be refused where it is not.
            false => 1,
        };
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

    /// Whether a server which executed an earlier attempt is sure to recognise another one.
    pub(crate) fn may_resend(&self) -> bool {
        self.clock.now().boot.since(self.began) < RESEND_WITHIN
    }

    /// Names the request for people.
    pub(crate) fn describe(&self) -> String {
        format!("session {:?}, number {}", self.session.id, self.number)
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
