use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwapOption;
use tokio::time::Instant;
use tsoracle_types::Clock;

use super::route::Endpoints;
use crate::error::{Error, ErrorKind, Result};
use crate::peers::{Address, Dialer, Leader};
use crate::session::{OpenRequest, Sessions};
use crate::stream::timestamps::Queues;
use crate::stream::{Peer, Pool, Streams};

/// An attempt may take at least this long, or as long as is left: a shorter one would be over before a healthy
/// server across an ocean could answer.
const SHORTEST_ATTEMPT: Duration = Duration::from_millis(250);

/// No attempt takes longer, connecting included. A request is sent this much after the check that it
/// may be sent again, at most, which is far less than what that check leaves.
const LONGEST_ATTEMPT: Duration = Duration::from_secs(60);

/// As long as any caller means. A clock cannot count on to the longest [`Duration`] there is, by which callers say that
/// they wait for as long as it takes.
const LONGEST_CALL: Duration = Duration::from_secs(100 * 365 * 24 * 60 * 60);

/// The servers of one oracle, and what is known about them.
pub(crate) struct Cluster {
    pub(super) pool: Arc<Pool>,
    /// The callers of timestamps.
    pub(super) queues: Arc<Queues>,
    pub(super) endpoints: Endpoints,
    pub(super) leader: Arc<Leader>,
    pub(crate) sessions: Arc<Sessions>,
    attempt_timeout: Duration,
    /// Every call is unary; none goes over a batched stream.
    pub(super) unary: bool,
    /// The peer that served last on a stream, asked without looking for the leader.
    pub(super) serving: ArcSwapOption<Peer>,
}

/// How long a call may take.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Limit {
    pub(super) began: Instant,
    pub(super) deadline: Instant,
    /// The whole time, for error messages.
    pub(super) timeout: Duration,
}

impl Limit {
    pub(crate) fn starting_now(timeout: Duration) -> Self {
        Self::starting_at(Instant::now(), timeout)
    }

    pub(super) fn starting_at(began: Instant, timeout: Duration) -> Self {
        Self { began, deadline: began + timeout.min(LONGEST_CALL), timeout }
    }
}

impl Cluster {
    pub(crate) fn new(
        dialer: Dialer,
        addresses: &[Address],
        attempt_timeout: Duration,
        unary: bool,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let queues = Arc::<Queues>::default();
        let pool = Pool::new(dialer, addresses, {
            let queues = queues.clone();
            move || Streams::new(queues.clone())
        });
        Self {
            endpoints: Endpoints::new(addresses.to_vec()),
            leader: pool.leader().clone(),
            pool,
            queues,
            sessions: Arc::new(Sessions::new(clock)),
            attempt_timeout: attempt_timeout.min(LONGEST_ATTEMPT),
            unary,
            serving: ArcSwapOption::empty(),
        }
    }

    /// Numbers a new sequence request.
    ///
    /// # Errors
    /// `Timeout` if the limit passes while too many are in flight.
    pub(crate) async fn begin_request(&self, limit: Limit) -> Result<OpenRequest> {
        self.sessions.begin(limit.deadline).await.ok_or_else(|| {
            let timeout = limit.timeout;
            let context =
                format!("too many sequence requests are in flight: none ended within {timeout:?}");
            Error::new(ErrorKind::Timeout, context)
        })
    }

    /// When an attempt ends that begins now: early enough that a peer without an answer leaves time for
    /// others. Nothing once the deadline has passed.
    pub(super) fn end_of_attempt(&self, now: Instant, deadline: Instant) -> Option<Instant> {
        let left = deadline.checked_duration_since(now).filter(|left| !left.is_zero())?;
        Some(now + self.time_of_attempt(left))
    }

    /// How long an attempt may take when `left` is left for the call.
    pub(crate) fn time_of_attempt(&self, left: Duration) -> Duration {
        (left / 2).max(SHORTEST_ATTEMPT).min(self.attempt_timeout).min(left)
    }

    /// `peer` has answered on a stream. It is asked first from now on, if it leads.
    pub(super) fn set_serving(&self, peer: &Arc<Peer>) {
        if self.leader.address().as_ref() == Some(peer.address()) {
            self.serving.store(Some(peer.clone()));
            peer.streams.timestamps.set_serving();
        }
    }

    /// `peer` has failed: it is not asked first any more.
    pub(super) fn unset_serving(&self, peer: &Arc<Peer>) {
        peer.streams.timestamps.unset_serving();
        let serving = self.serving.load();
        if serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, peer)) {
            // Another peer that has served meanwhile stays.
            self.serving.compare_and_swap(&*serving, None);
        }
    }
}
