//! The one retry loop: attempts a call at one peer after the other.

use std::sync::Arc;

use futures::stream::FuturesUnordered;
use futures::{FutureExt as _, StreamExt as _};
use tokio::time::{Instant, sleep_until, timeout_at};
use tsoracle_proto::v1::LeaderHint;
use tsoracle_types::Epoch;

use super::attempt::NO_CONNECTION;
use super::backoff::Backoff;
use super::cluster::{Cluster, Limit};
use super::failure::Failure;
use super::history::History;
use super::route::Route;
use super::verdict::Verdict;
use crate::error::{ErrorKind, Result};
use crate::peers::Address;
use crate::rpc::{Idempotency, Rpc};
use crate::stream::Peer;

/// The nodes that have said, during a call, that they do not lead.
type Followers = Vec<Arc<Peer>>;

impl Cluster {
    /// Makes a call: asks one address after the other until one serves, one refuses for good, or
    /// the deadline has passed, which covers connecting and every pause.
    ///
    /// While no node leads it retries: an election does not end a call that has time left.
    pub(crate) async fn call<R: Rpc>(&self, rpc: &R, limit: Limit) -> Result<R::Output> {
        self.call_after(None, rpc, limit).await
    }

    /// As [`call`](Self::call), after a first attempt that failed.
    pub(super) async fn call_after<R: Rpc>(
        &self,
        first: Option<(Arc<Peer>, Failure)>,
        rpc: &R,
        limit: Limit,
    ) -> Result<R::Output> {
        let subject = || rpc.describe();
        let mut history = History::new(&subject, limit.timeout);
        let mut route = Route::new(&self.endpoints, &self.leader);
        let mut backoff = Backoff::new();
        let mut followers = Followers::default();
        if let Some((peer, failure)) = first {
            route.was_asked(peer.address());
            self.note_follower(&mut followers, &peer, &failure);
            if let Some(hint) = self.learn(rpc, &peer, failure, &mut history)? {
                route.hint(hint);
            }
        }
        loop {
            let Some(address) = route.next() else {
                let resume = Instant::now() + backoff.next_pause();
                sleep_until(resume.min(limit.deadline)).await;
                route.start_round();
                continue;
            };
            let Some(until) = self.end_of_attempt(Instant::now(), limit.deadline) else {
                return Err(history.deadline_passed());
            };
            let resend = history.is_uncertain();
            if let Idempotency::ByRequestId(request) = rpc.idempotency()
                && resend
                && !request.may_resend()
            {
                return Err(history.uncertain_because("it was sent too long ago to be sent again"));
            }
            let peer = self.pool.peer(&address);
            match self.attempt(rpc, &peer, until, resend).await {
                Ok(output) => return Ok(output),
                Err(failure) => {
                    self.note_follower(&mut followers, &peer, &failure);
                    if let Some(hint) = self.learn(rpc, &peer, failure, &mut history)? {
                        route.hint(hint);
                    }
                }
            }
        }
    }

    /// Drops the connection to a node that has said twice that it does not lead. Its endpoint may be a load
    /// balancer, which would connect to another node by now.
    fn note_follower(&self, followers: &mut Followers, peer: &Arc<Peer>, failure: &Failure) {
        if !matches!(failure.verdict, Verdict::NotLeader(_)) {
            return;
        }
        match followers.iter().any(|follower| Arc::ptr_eq(follower, peer)) {
            true => self.pool.evict(peer),
            false => followers.push(peer.clone()),
        }
    }

    /// Dials all endpoints at once, repeatedly, until there is a connection to any of them.
    pub(crate) async fn connect(&self, limit: Limit) -> Result<()> {
        let mut history = History::new(&|| "connecting".into(), limit.timeout);
        let mut backoff = Backoff::new();
        loop {
            let addresses = self.endpoints.addresses();
            let peers: Vec<_> = addresses.iter().map(|address| self.pool.peer(address)).collect();
            let mut dials: FuturesUnordered<_> = peers
                .iter()
                .map(|peer| peer.connection.channel().map(move |result| (result, peer)))
                .collect();
            while let Ok(Some((result, peer))) = timeout_at(limit.deadline, dials.next()).await {
                let Err(error) = result else { return Ok(()) };
                self.pool.evict(peer);
                history.failed(peer.address(), error.to_string(), false);
            }
            let resume = Instant::now() + backoff.next_pause();
            if resume >= limit.deadline {
                let is_dialling =
                    |peer: &&Arc<Peer>| peer.connection.channel().now_or_never().is_none();
                for peer in peers.iter().filter(is_dialling) {
                    history.failed(peer.address(), NO_CONNECTION.into(), true);
                }
                return Err(history.unreachable());
            }
            sleep_until(resume).await;
        }
    }

    /// Takes a failed attempt into account. Returns the leader's address, if the peer named one that can be
    /// believed, or the error that ends the call.
    fn learn<R: Rpc>(
        &self,
        rpc: &R,
        peer: &Arc<Peer>,
        failure: Failure,
        history: &mut History<'_>,
    ) -> Result<Option<Address>> {
        let Failure { verdict, cause, timed_out } = failure;
        history.failed(peer.address(), cause, timed_out);
        if verdict == Verdict::Refused(ErrorKind::Unimplemented) {
            history.lacks_method(peer.address());
        }
        if !matches!(verdict, Verdict::Refused(_)) {
            self.leader.failed(peer.address());
            self.unset_serving(peer);
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
                if peer.state.honours_request_ids() == Some(true) {
                    return Ok(None);
                }
                Err(history.uncertain_because(
                    "the server ignores request ids, so that another attempt could spend another block",
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
            // The outcome of an earlier attempt is unknown, and a server at its limit may answer later.
            (Verdict::Refused(ErrorKind::Exhausted), _) if history.is_uncertain() => Ok(None),
            // What lacks a method may be no server of ours at all: another endpoint may have it.
            (Verdict::Refused(ErrorKind::Unimplemented), _)
                if !history.is_uncertain()
                    && !history.is_everywhere(peer.address(), self.endpoints.addresses()) =>
            {
                Ok(None)
            }
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
