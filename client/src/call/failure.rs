//! The meaning of a failed attempt, and its effect on the peer's connection.

use std::error::Error as _;
use std::sync::Arc;

use tonic::{Code, Status, TimeoutExpired};
use tsoracle_types::on_one_line;

use super::cluster::Cluster;
use super::verdict::{Verdict, has_source, is_broken_connection, judge};
use crate::error::ErrorKind;
use crate::rpc::{Idempotency, status};
use crate::stream::{CallError, Lost, MAX_WAITING, Peer};

/// A failed attempt, and what it means for the call.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) verdict: Verdict,
    pub(super) cause: String,
    /// No answer came in time.
    pub(super) timed_out: bool,
}

impl Failure {
    pub(super) fn new(verdict: Verdict, cause: impl Into<String>) -> Self {
        Self { verdict, cause: cause.into(), timed_out: false }
    }

    pub(super) fn timed_out(verdict: Verdict, cause: impl Into<String>) -> Self {
        Self { timed_out: true, ..Self::new(verdict, cause) }
    }

    pub(super) fn malformed(reason: impl std::fmt::Display) -> Self {
        Self::new(Verdict::Malformed, format!("answered {reason}"))
    }
}

impl Cluster {
    /// The call ended with this status.
    pub(super) fn failed(
        &self,
        peer: &Arc<Peer>,
        status: &Status,
        idempotency: Idempotency<'_>,
    ) -> Failure {
        // The channel knows when the attempt ends, and may notice first.
        if has_source::<TimeoutExpired>(status) {
            return self.no_answer(peer);
        }
        peer.state.note_headers(status.metadata());
        // Another connection may prove what this one did not.
        let is_unknown = status.code() == Code::Unauthenticated && self.pool.may_prove_more();
        if is_unknown {
            self.unset_serving(peer);
        }
        if is_broken_connection(status) || is_unknown {
            self.pool.evict(peer);
        }
        let (verdict, cause) = (judge(status, idempotency), cause_of(status));
        Failure { verdict, cause, timed_out: status.code() == Code::DeadlineExceeded }
    }

    /// No answer came. The connection may be dead, so the next attempt makes another.
    pub(super) fn no_answer(&self, peer: &Arc<Peer>) -> Failure {
        self.pool.evict(peer);
        self.endpoints.avoid(peer.address());
        Failure::timed_out(Verdict::Uncertain, "no answer in time")
    }

    /// A batched call failed. Nothing if the peer does not serve streams.
    pub(super) fn batched_call_failed(
        &self,
        peer: &Arc<Peer>,
        error: CallError,
        idempotency: Idempotency<'_>,
    ) -> Option<Failure> {
        Some(match error {
            CallError::Full => {
                let cause = format!("{MAX_WAITING} callers of this client wait already");
                Failure::new(Verdict::Refused(ErrorKind::Exhausted), cause)
            }
            CallError::TimedOut { was_sent: true } => self.no_answer(peer),
            CallError::TimedOut { was_sent: false } => {
                Failure { verdict: Verdict::NotExecuted, ..self.no_answer(peer) }
            }
            CallError::Failed(failure) => self.failed(peer, &status(*failure), idempotency),
            CallError::Lost(Lost::NoStreams) => return None,
            CallError::Lost(Lost::Malformed(reason)) => Failure::malformed(reason),
            CallError::Lost(Lost::Broken { status, is_certain }) => {
                let failure = self.failed(peer, &status, idempotency);
                let verdict = match (idempotency, is_certain) {
                    (Idempotency::Repeatable, _) => failure.verdict,
                    // Not sent, whatever the status means for the batches that were.
                    (_, true) if failure.verdict == Verdict::Uncertain => Verdict::NotExecuted,
                    (_, true) => failure.verdict,
                    (_, false) => Verdict::Uncertain,
                };
                Failure { verdict, ..failure }
            }
        })
    }
}

fn cause_of(status: &Status) -> String {
    match status.source() {
        Some(source) => on_one_line(source),
        None if status.message().is_empty() => status.code().description().to_lowercase(),
        None => status.message().to_owned(),
    }
}
