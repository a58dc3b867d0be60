//! One attempt at a call, at one address: from connecting to what its end says.

use std::error::Error as StdError;
use std::sync::Arc;

use tokio::time::{Instant, timeout_at};
use tonic::transport::Channel;
use tonic::{Code, Request, Status, TimeoutExpired};
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{GetCurrentMaxSafeRequest, LeaderHint};
use tsoracle_types::on_one_line;

use crate::cluster::Cluster;
use crate::error::ErrorKind;
use crate::pool::Peer;
use crate::rpc::{Attempt, Idempotency, Rpc, Unacceptable};
use crate::suspicion::unless_superseded;
use crate::verdict::{Verdict, is_broken_connection, judge};

/// What a dial says for itself while it goes on.
pub(crate) const NO_CONNECTION: &str = "no connection in time";

/// How an attempt failed, and what that means.
#[derive(Debug)]
pub(crate) struct Failure {
    pub(crate) verdict: Verdict,
    pub(crate) cause: String,
    pub(crate) status: Option<Status>,
    /// For want of an answer.
    pub(crate) timed_out: bool,
}

impl Failure {
    pub(crate) fn new(verdict: Verdict, cause: impl Into<String>) -> Self {
        Self { verdict, cause: cause.into(), status: None, timed_out: false }
    }

    fn timed_out(verdict: Verdict, cause: impl Into<String>) -> Self {
        Self { timed_out: true, ..Self::new(verdict, cause) }
    }
}

impl Cluster {
    /// Asks `peer` until `until`. `resend`: an earlier attempt may have been carried out.
    pub(crate) async fn attempt<R: Rpc>(
        &self,
        rpc: &R,
        peer: &Arc<Peer>,
        until: Instant,
        resend: bool,
    ) -> Result<R::Output, Failure> {
        let channel = self.connected(peer, until).await?;
        if let Idempotency::ByRequestId(_) = rpc.idempotency()
            && !self.honours_request_ids(peer, &channel, until).await?
            && (resend || rpc.requires_request_ids())
        {
            let why = "the server ignores request ids, so this would not be exactly once";
            return Err(Failure::new(Verdict::Refused(ErrorKind::Unimplemented), why));
        }
        if !self.unary
            && peer.may_have_streams()
            && let Some(joined) = rpc.join(self, peer, &channel, until, resend).await
        {
            return joined.and_then(|response| self.accept(rpc, peer, response));
        }
        let attempt = Attempt { timeout: until - Instant::now(), resend };
        let answer = timeout_at(until, rpc.send(channel, attempt));
        let answer = match rpc.idempotency() {
            // It cannot be asked for again, and so has to be waited for.
            Idempotency::ByRequestId(_) if peer.honours_request_ids() != Some(true) => {
                Some(answer.await)
            }
            _ => unless_superseded(peer.learner(), answer).await,
        };
        match answer {
            Some(Ok(Ok(response))) => {
                peer.learner().heard(response.metadata());
                self.accept(rpc, peer, response.into_inner())
            }
            Some(Ok(Err(status))) => Err(self.failed(peer, status, rpc.idempotency())),
            Some(Err(_)) | None => Err(self.silent(peer)),
        }
    }

    async fn connected(&self, peer: &Arc<Peer>, until: Instant) -> Result<Channel, Failure> {
        match timeout_at(until, peer.channel()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                self.pool.evict(peer);
                self.endpoints.avoid(peer.address());
                Err(Failure::new(Verdict::NotExecuted, error.to_string()))
            }
            // The dial goes on by itself: the next attempt may find it done.
            Err(_) => {
                self.endpoints.avoid(peer.address());
                Err(Failure::timed_out(Verdict::NotExecuted, NO_CONNECTION))
            }
        }
    }

    /// Whether the peer honours request ids: by an earlier answer, or else by asking something
    /// that changes nothing.
    ///
    /// It is asked before the first sequence request rather than after one has failed: then the
    /// peer may be gone, and with it the answer to whether sending the request again is safe.
    async fn honours_request_ids(
        &self,
        peer: &Arc<Peer>,
        channel: &Channel,
        until: Instant,
    ) -> Result<bool, Failure> {
        if let Some(known) = peer.honours_request_ids() {
            return Ok(known);
        }
        let mut request = Request::new(GetCurrentMaxSafeRequest {});
        request.set_timeout(until - Instant::now());
        let mut client = TsoServiceClient::new(channel.clone());
        let answer = timeout_at(until, client.get_current_max_safe(request));
        let failure = match unless_superseded(peer.learner(), answer).await {
            Some(Ok(Ok(response))) => {
                peer.learner().heard(response.metadata());
                if peer.honours_request_ids().is_none() {
                    peer.set_ignores_request_ids();
                }
                return Ok(peer.honours_request_ids() == Some(true));
            }
            Some(Ok(Err(status))) => self.failed(peer, status, Idempotency::Repeatable),
            Some(Err(_)) | None => self.silent(peer),
        };
        if peer.honours_request_ids() == Some(true) {
            return Ok(true);
        }
        // A failure without the header may be a proxy's. The sequence request was not sent.
        Err(Failure { verdict: Verdict::NotExecuted, ..failure })
    }

    fn accept<R: Rpc>(
        &self,
        rpc: &R,
        peer: &Peer,
        response: R::Response,
    ) -> Result<R::Output, Failure> {
        if let Idempotency::ByRequestId(request) = rpc.idempotency()
            && peer.honours_request_ids() == Some(true)
        {
            request.confirm();
        }
        match rpc.accept(response) {
            Ok(answer) => {
                if let Some(epoch) = answer.epoch {
                    self.leader.served(peer.address(), epoch);
                }
                Ok(answer.output)
            }
            Err(Unacceptable::NotLeader) => {
                let verdict = Verdict::NotLeader(LeaderHint::default());
                Err(Failure::new(verdict, "does not lead"))
            }
            Err(Unacceptable::Malformed(what)) => {
                Err(Failure::new(Verdict::Malformed, format!("answered {what}")))
            }
        }
    }

    pub(crate) fn failed(
        &self,
        peer: &Arc<Peer>,
        status: Status,
        idempotency: Idempotency<'_>,
    ) -> Failure {
        if is_silence(&status) {
            return self.silent(peer);
        }
        peer.learner().heard(status.metadata());
        if is_broken_connection(&status) {
            self.pool.evict(peer);
        }
        Failure {
            verdict: judge(&status, idempotency),
            cause: cause_of(&status),
            timed_out: status.code() == Code::DeadlineExceeded,
            status: Some(status),
        }
    }

    /// No answer came. The connection may be dead, so the next attempt makes another.
    pub(crate) fn silent(&self, peer: &Arc<Peer>) -> Failure {
        self.pool.evict(peer);
        self.endpoints.avoid(peer.address());
        Failure::timed_out(Verdict::Uncertain, "no answer in time")
    }
}

fn cause_of(status: &Status) -> String {
    match status.source() {
        Some(source) => on_one_line(source),
        None if status.message().is_empty() => status.code().description().to_lowercase(),
        None => status.message().to_owned(),
    }
}

/// Whether the channel gave up waiting: it knows when the attempt ends, and may notice first.
fn is_silence(status: &Status) -> bool {
    let mut source = status.source();
    while let Some(error) = source {
        if error.is::<TimeoutExpired>() {
            return true;
        }
        source = error.source();
    }
    false
}
