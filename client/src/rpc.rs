//! The calls, each as the retry loop needs it: how to send one, and what its answer must be.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Request, Response, Status};
use tsoracle_proto::v1;
use tsoracle_types::Epoch;

use crate::attempt::Failure;
use crate::cluster::Cluster;
use crate::pool::Peer;
use crate::session::OpenRequest;

mod leases;
mod sequences;
mod state;
mod timestamps;

pub(crate) use leases::{AcquireLease, GetSafeFrontier, ReleaseLease, RenewLease};
pub(crate) use sequences::{CloseSession, GetSeq, GetSeqBatch, granted, status};
pub(crate) use state::{ListSeqs, ReadSeq, SeedSeq};
pub(crate) use timestamps::{GetCurrentMaxSafe, GetTs};

/// What it means to carry a call out more than once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Idempotency<'a> {
    /// No harm: timestamps are disposable, and reading changes nothing.
    Repeatable,
    /// No harm: it comes to the same, or is refused for what the first time has done. Here, as for
    /// sequences, a refusal without a hint is final.
    ByState,
    /// Values spent for nobody, unless the server recognises the request by its id.
    ByRequestId(&'a OpenRequest),
}

/// One kind of call with its arguments.
pub(crate) trait Rpc: Sync {
    /// The message a server answers with.
    type Response: Send;
    /// What the caller gets.
    type Output: Send;

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::Repeatable
    }

    /// Whether a server that ignores request ids must not be asked at all.
    fn requires_request_ids(&self) -> bool {
        false
    }

    /// The call with its arguments, for people.
    fn describe(&self) -> String;

    /// Sends it along with others' until `until`. Nothing if it does not go that way, or the server
    /// does not serve streams: then it was not sent.
    fn join(
        &self,
        _cluster: &Cluster,
        _peer: &Arc<Peer>,
        _channel: &Channel,
        _until: Instant,
        _resend: bool,
    ) -> impl Future<Output = Option<Result<Self::Response, Failure>>> + Send {
        std::future::ready(None)
    }

    fn send(
        &self,
        channel: Channel,
        attempt: Attempt,
    ) -> impl Future<Output = Result<Response<Self::Response>, Status>> + Send;

    /// Checks an answer against the request and the protocol.
    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Unacceptable>;
}

/// One attempt at a call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// How long its answer is waited for. The server is told, and does not begin later.
    pub(crate) timeout: Duration,
    /// An earlier attempt may have been carried out.
    pub(crate) resend: bool,
}

impl Attempt {
    fn request<T>(self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        request.set_timeout(self.timeout);
        request
    }
}

/// An acceptable answer.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) output: T,
    /// The epoch of the leader that gave it, if it says.
    pub(crate) epoch: Option<Epoch>,
}

/// Why an answer is none.
#[derive(Debug)]
pub(crate) enum Unacceptable {
    /// It is what a node says that does not lead.
    NotLeader,
    /// It breaks the protocol, in this way.
    Malformed(String),
}

fn malformed<T>(what: impl Into<String>) -> Result<T, Unacceptable> {
    Err(Unacceptable::Malformed(what.into()))
}

fn epoch_of(wire: Option<v1::EpochWire>) -> Option<Epoch> {
    wire.map(|wire| Epoch::from_parts(wire.hi, wire.lo))
}
