//! One attempt at a call, at one peer, connecting included.

use std::sync::Arc;

use crate::peers::Channel;
use tokio::time::{Instant, timeout_at};
use tonic::Request;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::v1::{GetCurrentMaxSafeRequest, LeaderHint};

use super::cluster::Cluster;
use super::failure::Failure;
use super::verdict::Verdict;
use crate::error::ErrorKind;
use crate::peers::unless_superseded;
use crate::rpc::{Attempt, Idempotency, Rejected, Rpc};
use crate::stream::Peer;
use crate::stream::sequences::StreamOpener;

/// The cause of a failure while dialling continues.
pub(super) const NO_CONNECTION: &str = "no connection in time";

impl Cluster {
    /// Asks `peer` until `until`. `resend`: an earlier attempt may have been carried out.
    pub(super) async fn attempt<R: Rpc>(
        &self,
        rpc: &R,
        peer: &Arc<Peer>,
        until: Instant,
        resend: bool,
    ) -> Result<R::Output, Failure> {
        let (channel, idempotency) = (self.connected(peer, until).await?, rpc.idempotency());
        if let Idempotency::ByRequestId(_) = idempotency
            && !self.honours_request_ids(peer, &channel, until).await?
            && (resend || rpc.requires_request_ids())
        {
            let cause = "the server ignores request ids, so this would not be exactly once";
            return Err(Failure::new(Verdict::Refused(ErrorKind::Unimplemented), cause));
        }
        if !self.unary && peer.state.may_have_streams() {
            let (peer_state, sessions) = (&peer.state, &self.sessions);
            let opener = StreamOpener { channel: &channel, peer: peer_state, sessions };
            match rpc.join(peer, opener, until, resend).await {
                None => {}
                Some(Ok(response)) => {
                    self.set_serving(peer);
                    return self.accept(rpc, peer, response);
                }
                Some(Err(error)) => {
                    if let Some(failure) = self.batched_call_failed(peer, error, idempotency) {
                        return Err(failure);
                    }
                }
            }
        }
        let attempt = Attempt { timeout: until - Instant::now(), resend };
        let answer = timeout_at(until, rpc.send(channel, attempt));
        let answer = match idempotency {
            // It cannot be sent again, and so has to be waited for.
            Idempotency::ByRequestId(_) if peer.state.honours_request_ids() != Some(true) => {
                Some(answer.await)
            }
            _ => unless_superseded(&peer.state, answer).await,
        };
        match answer {
            Some(Ok(Ok(response))) => {
                peer.state.note_headers(response.metadata());
                self.accept(rpc, peer, response.into_inner())
            }
            Some(Ok(Err(status))) => Err(self.failed(peer, &status, idempotency)),
            Some(Err(_)) | None => Err(self.no_answer(peer)),
        }
    }

    async fn connected(&self, peer: &Arc<Peer>, until: Instant) -> Result<Channel, Failure> {
        match timeout_at(until, peer.connection.channel()).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => {
                self.pool.evict(peer);
                self.endpoints.avoid(peer.address());
                Err(Failure::new(Verdict::NotExecuted, error.to_string()))
            }
            // Dialling continues: the next attempt may find a connection.
            Err(_) => {
                self.endpoints.avoid(peer.address());
                Err(Failure::timed_out(Verdict::NotExecuted, NO_CONNECTION))
            }
        }
    }

    /// Whether the peer honours request ids: by an earlier answer, or else by a probe that changes nothing.
    ///
    /// It is probed before the first sequence request rather than after one has failed: then the
    /// peer may be gone, and it cannot be found out any more whether the request may be sent again.
    async fn honours_request_ids(
        &self,
        peer: &Arc<Peer>,
        channel: &Channel,
        until: Instant,
    ) -> Result<bool, Failure> {
        let state = &peer.state;
        if let Some(known) = state.honours_request_ids() {
            return Ok(known);
        }
        let mut request = Request::new(GetCurrentMaxSafeRequest {});
        request.set_timeout(until - Instant::now());
        let mut client = TsoServiceClient::new(channel.clone());
        let answer = timeout_at(until, client.get_current_max_safe(request));
        let failure = match unless_superseded(state, answer).await {
            Some(Ok(Ok(response))) => {
                state.note_headers(response.metadata());
                if state.honours_request_ids().is_none() {
                    state.set_ignores_request_ids();
                }
                return Ok(state.honours_request_ids() == Some(true));
            }
            Some(Ok(Err(status))) => self.failed(peer, &status, Idempotency::Repeatable),
            Some(Err(_)) | None => self.no_answer(peer),
        };
        if state.honours_request_ids() == Some(true) {
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
            && peer.state.honours_request_ids() == Some(true)
        {
            request.confirm();
        }
        match rpc.accept(response) {
            Ok(answer) => {
                if let Some(epoch) = answer.epoch {
                    peer.state.served(epoch);
                }
                Ok(answer.output)
            }
            Err(Rejected::NotLeader) => {
                let verdict = Verdict::NotLeader(LeaderHint::default());
                Err(Failure::new(verdict, "does not lead"))
            }
            Err(Rejected::Malformed(reason)) => Err(Failure::malformed(reason)),
        }
    }
}
