use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};
use tsoracle_proto::v1::LeaderHint;
use tsoracle_types::{Clock, Epoch};

use crate::address::Address;
use crate::attempt::{Failure, NO_CONNECTION};
use crate::backoff::Backoff;
use crate::error::{ErrorKind, Result};
use crate::history::History;
use crate::leader::Leader;
use crate::pool::{Peer, Pool};
use crate::route::{Endpoints, Route};
use crate::rpc::{Idempotency, Rpc};
use crate::session::Sessions;
use crate::verdict::Verdict;

/// An attempt is given at least this long, or what is left: less would be over before a healthy
/// server across an ocean could answer.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// No attempt takes longer, connecting included. A request is sent this much after the check that it
/// may be sent again, at most, which is far less than what that check leaves.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);

/// The servers, what is known about them, and the one retry loop over them.
#[derive(Debug)]
pub(crate) struct Cluster {
    pub(crate) pool: Arc<Pool>,
    pub(crate) endpoints: Endpoints,
    pub(crate) leader: Arc<Leader>,
    pub(crate) sessions: Arc<Sessions>,
    attempt_timeout: Duration,
    /// Calls do not go together, each is one of its own.
    pub(crate) unary: bool,
    /// Who served on a stream last: asked without looking for the leader.
    pub(crate) serving: ArcSwapOption<Peer>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(crate) began: Instant,
    pub(crate) deadline: Instant,
    /// What was allowed, for error messages.
    pub(crate) timeout: Duration,
}

impl Limit {
    pub(crate) fn starting_now(timeout: Duration) -> Self {
        Self::starting_at(Instant::now(), timeout)
    }

    pub(crate) fn starting_at(began: Instant, timeout: Duration) -> Self {
        Self { began, deadline: began + timeout, timeout }
    }
}

impl Cluster {
    pub(crate) fn new(
        pool: Arc<Pool>,
        attempt_timeout: Duration,
        unary: bool,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let endpoints = Endpoints::new(pool.configured().to_vec());
        let attempt_timeout = attempt_timeout.min(LONGEST_ATTEMPT);
        let leader = pool.leader().clone();
        let (sessions, serving) = (Arc::new(Sessions::new(clock)), ArcSwapOption::empty());
        Self { pool, endpoints, leader, sessions, attempt_timeout, unary, serving }
    }

    /// Makes a call: asks one address after the other until one serves, one refuses for good, or
    /// the deadline has passed, which covers connecting and every pause.
    ///
    /// While nobody leads it goes on asking: an election does not end a call that has time left.
    pub(crate) async fn call<R: Rpc>(&self, rpc: &R, limit: Limit) -> Result<R::Output> {
        self.call_after(None, rpc, limit).await
    }

    /// As [`call`](Self::call), after a first attempt that failed.
    pub(crate) async fn call_after<R: Rpc>(
        &self,
        first: Option<(Arc<Peer>, Failure)>,
        rpc: &R,
        limit: Limit,
    ) -> Result<R::Output> {
        let subject = || rpc.describe();
        let mut history = History::new(&subject, limit.timeout);
        let mut route = Route::new(&self.endpoints, &self.leader);
        let mut backoff = Backoff::new();
        if let Some((peer, failure)) = first {
            route.was_asked(peer.address());
            if let Some(hint) = self.learn(rpc, &peer, failure, &mut history)? {
                route.hint(hint);
            }
        }
        loop {
            let Some(address) = route.next() else {
                let resume = Instant::now() + backoff.next_pause();
                if resume >= limit.deadline {
                    return Err(history.deadline_passed());
                }
                sleep_until(resume).await;
                route.start_round();
                continue;
            };
            let Some(until) = self.end_of_attempt(limit.deadline) else {
                return Err(history.deadline_passed());
            };
            let resend = history.is_uncertain();
            if let Idempotency::ByRequestId(request) = rpc.idempotency()
                && resend
                && !request.may_resend()
            {
                return Err(history.uncertain_because("it was sent too long ago to ask again"));
            }
            let peer = self.pool.peer(&address);
            match self.attempt(rpc, &peer, until, resend).await {
                Ok(output) => return Ok(output),
                Err(failure) => {
                    if let Some(hint) = self.learn(rpc, &peer, failure, &mut history)? {
                        route.hint(hint);
                    }
                }
            }
        }
    }

    /// Dials all endpoints at once, again and again, until a connection to any of them stands.
    pub(crate) async fn connect(&self, limit: Limit) -> Result<()> {
        let mut history = History::new(&|| "connecting".into(), limit.timeout);
        let mut backoff = Backoff::new();
        loop {
            let addresses = self.endpoints.addresses();
            let peers: Vec<_> = addresses.iter().map(|address| self.pool.peer(address)).collect();
            let mut dials: FuturesUnordered<_> =
                peers.iter().map(|peer| peer.channel().map(move |result| (result, peer))).collect();
            while let Ok(Some((result, peer))) = timeout_at(limit.deadline, dials.next()).await {
                let Err(error) = result else { return Ok(()) };
                self.pool.evict(peer);
                history.failed(peer.address(), error.to_string(), None, false);
            }
            let resume = Instant::now() + backoff.next_pause();
            if resume >= limit.deadline {
                for peer in peers.iter().filter(|peer| peer.channel().now_or_never().is_none()) {
                    history.failed(peer.address(), NO_CONNECTION.into(), None, true);
                }
                return Err(history.unreachable());
            }
            sleep_until(resume).await;
        }
    }

    /// When the next attempt ends: early enough that a silent endpoint leaves time for others.
    /// Nothing once the deadline has passed.
    fn end_of_attempt(&self, deadline: Instant) -> Option<Instant> {
        self.end_of_attempt_at(Instant::now(), deadline)
    }

    pub(crate) fn end_of_attempt_at(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let left = deadline.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(now + self.time_of_attempt(left))
    }

    /// How long an attempt may take that begins when so much time is left.
    pub(crate) fn time_of_attempt(&self, left: Duration) -> Duration {
        (left / 2).max(SHORTEST_ATTEMPT).min(self.attempt_timeout).min(left)
    }

    /// Takes a failed attempt into account. Who leads, if the peer said so and can be believed, or
    /// the error that ends the call.
    fn learn<R: Rpc>(
        &self,
        rpc: &R,
        peer: &Arc<Peer>,
        failure: Failure,
        history: &mut History<'_>,
    ) -> Result<Option<Address>> {
        let Failure { verdict, cause, status, timed_out } = failure;
        history.failed(peer.address(), cause, status, timed_out);
        if !matches!(verdict, Verdict::Refused(_)) {
            self.leader.failed(peer.address());
            self.serves_no_more(peer);
        }
        match (verdict, rpc.idempotency()) {
            (Verdict::NotLeader(hint), _) => Ok(self.believable(hint)),
            (Verdict::NotExecuted, _) | (Verdict::Uncertain, Idempotency::Repeatable) => Ok(None),
            (Verdict::Uncertain, Idempotency::ByState) => {
                history.set_uncertain();
                Ok(None)
            }
            (Verdict::Uncertain, Idempotency::ByRequestId(_)) => {
                history.set_uncertain();
                if peer.honours_request_ids() == Some(true) {
                    return Ok(None);
                }
                Err(history.uncertain_because(
                    "the server ignores request ids, so that asking again could spend another block",
                ))
            }
            (Verdict::SessionUnknown, Idempotency::ByRequestId(request)) => {
                request.session_is_unknown();
                if !history.is_uncertain() {
                    return Err(history.final_failure(ErrorKind::Refused));
                }
                Err(history.uncertain_because("the server does not know the session any more"))
            }
            (Verdict::SessionUnknown, Idempotency::Repeatable | Idempotency::ByState) => {
                Err(history.final_failure(ErrorKind::Refused))
            }
            (Verdict::Malformed, Idempotency::Repeatable | Idempotency::ByState) => {
                Err(history.final_failure(ErrorKind::Protocol))
            }
            (Verdict::Malformed, Idempotency::ByRequestId(_)) => {
                Err(history.uncertain_because("the answer breaks the protocol"))
            }
            // What an earlier attempt did is still open, and a server at its limit may tell later.
            (Verdict::Refused(ErrorKind::Exhausted), _) if history.is_uncertain() => Ok(None),
            (Verdict::Refused(_), _) if history.is_uncertain() => {
                Err(history.uncertain_because("a later attempt was refused"))
            }
            (Verdict::Refused(kind), _) => Err(history.final_failure(kind)),
        }
    }

    /// The address of a hint, unless it is out of date, unreadable, or of another scheme.
    fn believable(&self, hint: LeaderHint) -> Option<Address> {
        let epoch = hint.leader_epoch.map(|wire| Epoch::from_parts(wire.hi, wire.lo));
        let address = Address::parse(&hint.leader_endpoint?, self.pool.scheme()).ok()?;
        self.leader.admits(epoch).then_some(address)
    }
}
