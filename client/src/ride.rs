//! Calls that go together over the streams of [`line`](crate::line), as attempts at a call.

use std::sync::Arc;
use std::time::Duration;

use tonic::Status;
use tsoracle_core::TimestampRange;

use crate::attempt::Failure;
use crate::cluster::{Cluster, Limit};
use crate::error::{ErrorKind, Result};
use crate::line::{Lost, MAX_WAITING, Missed};
use crate::pool::Peer;
use crate::rpc::{GetTs, Idempotency};
use crate::verdict::Verdict;

impl Cluster {
    /// Timestamps: from whoever served the last ones if it can be asked at once, and otherwise as any
    /// other call.
    pub(crate) async fn timestamps(&self, count: u32, timeout: Duration) -> Result<TimestampRange> {
        let limit = Limit::starting_now(timeout);
        let first = match self.timestamps_at_once(count, limit).await {
            Some(Ok(range)) => return Ok(range),
            Some(Err(failed)) => Some(failed),
            None => None,
        };
        // Most calls never come here, and need no room for it.
        Box::pin(async move { self.call_after(first, &GetTs { count }, limit).await }).await
    }

    async fn timestamps_at_once(
        &self,
        count: u32,
        limit: Limit,
    ) -> Option<Result<TimestampRange, (Arc<Peer>, Failure)>> {
        let peer = self.serving.load_full()?;
        let channel = peer.channel_now()?;
        let until = self.end_of_attempt_at(limit.began, limit.deadline)?;
        match peer.timestamps.ride((channel, peer.learner()), count, limit.began, until).await {
            // A part of a range that was checked is one.
            Ok((first, _)) => TimestampRange::new(first, count).ok().map(Ok),
            Err(missed) => {
                let failure = self.missed(&peer, missed, Idempotency::Repeatable)?;
                Some(Err((peer, failure)))
            }
        }
    }

    /// `peer` has answered on a stream. It is asked first from now on, if it leads.
    pub(crate) fn serves_on_stream(&self, peer: &Arc<Peer>) {
        if self.leader.address().as_ref() == Some(peer.address()) {
            self.serving.store(Some(peer.clone()));
        }
    }

    /// `peer` has failed: it is not asked first any more.
    pub(crate) fn serves_no_more(&self, peer: &Arc<Peer>) {
        let serving = self.serving.load();
        if serving.as_ref().is_some_and(|serving| Arc::ptr_eq(serving, peer)) {
            // Whoever has served meanwhile keeps its place.
            self.serving.compare_and_swap(&*serving, None);
        }
    }

    /// What it means that no answer came. Nothing if the peer does not serve streams.
    pub(crate) fn missed(
        &self,
        peer: &Arc<Peer>,
        missed: Missed,
        idempotency: Idempotency<'_>,
    ) -> Option<Failure> {
        Some(match missed {
            Missed::Full => {
                let why = format!("{MAX_WAITING} callers of this client wait already");
                Failure::new(Verdict::Refused(ErrorKind::Exhausted), why)
            }
            Missed::Silent { was_sent } => match (was_sent, self.silent(peer)) {
                (true, failure) => failure,
                (false, failure) => Failure { verdict: Verdict::NotExecuted, ..failure },
            },
            Missed::Lost(Lost::Unserved) => return None,
            Missed::Lost(Lost::Malformed(what)) => {
                Failure::new(Verdict::Malformed, format!("answered {what}"))
            }
            Missed::Lost(Lost::Broken { status, is_certain }) => {
                self.broken(peer, Status::clone(&status), is_certain, idempotency)
            }
        })
    }

    /// The stream broke, and with it everything that was on its way.
    fn broken(
        &self,
        peer: &Arc<Peer>,
        status: Status,
        is_certain: bool,
        idempotency: Idempotency<'_>,
    ) -> Failure {
        let failure = self.failed(peer, status, idempotency);
        let verdict = match (idempotency, is_certain) {
            (Idempotency::Repeatable, _) => failure.verdict,
            // Not sent, whatever the status says of what was.
            (_, true) if failure.verdict == Verdict::Uncertain => Verdict::NotExecuted,
            (_, true) => failure.verdict,
            (_, false) => Verdict::Uncertain,
        };
        Failure { verdict, ..failure }
    }
}
