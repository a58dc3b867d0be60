//! The calls, each as the retry loop needs it: how to send its request, and how to check the response.

use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use crate::peers::Channel;
use tokio::time::Instant;
use tonic::{Request, Response, Status};
use tsoracle_proto::v1;
use tsoracle_types::Epoch;

use crate::session::OpenRequest;
use crate::stream::sequences::StreamOpener;
use crate::stream::{CallError, Peer};

mod inspect;
mod leases;
mod sequences;
mod timestamps;

pub(crate) use inspect::{DeleteSeq, ListSeqs, ReadSeq, SeedSeq};
pub(crate) use leases::{AcquireLease, GetSafeFrontier, ReleaseLease, RenewLease};
pub(crate) use sequences::{CloseSession, GetSeq, GetSeqBatch, granted, status};
pub(crate) use timestamps::{GetCurrentMaxSafe, GetTs};

/// What happens if a call is carried out more than once.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Idempotency<'a> {
    /// No harm: timestamps are disposable, and reading changes nothing.
    Repeatable,
    /// No harm: it has the same result, or is refused because of what the first time has done. Here, as for
    /// sequences, a refusal without a hint is final.
    ByState,
    /// Values are spent that no caller gets, unless the server recognises the request by its id.
    ByRequestId(&'a OpenRequest),
}

/// What a server returns for a unary call.
type Reply<T> = Result<Response<T>, Status>;

/// One kind of call with its arguments.
pub(crate) trait Rpc: Sync {
    /// The server's message.
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

    /// Sends it on a batched stream, and waits until `until`. Nothing if it is never sent on one, or
    /// none is left: then it was not sent.
    fn join(
        &self,
        _peer: &Arc<Peer>,
        _opener: StreamOpener<'_>,
        _until: Instant,
        _resend: bool,
    ) -> impl Future<Output = Option<Result<Self::Response, CallError>>> + Send {
        std::future::ready(None)
    }

    /// Sends it as a unary call.
    fn send(
        &self,
        channel: Channel,
        attempt: Attempt,
    ) -> impl Future<Output = Reply<Self::Response>> + Send;

    /// Checks a response against the request and the protocol.
    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Rejected>;
}

/// One attempt at a unary call.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Attempt {
    /// How long its response is waited for. The server gets this limit too, and does not begin later.
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

/// A response that was accepted.
#[derive(Debug)]
pub(crate) struct Answer<T> {
    pub(crate) output: T,
    /// The epoch of the leader that gave it, if the response has it.
    pub(crate) epoch: Option<Epoch>,
}

/// Reason why a response is rejected.
#[derive(Debug)]
pub(crate) enum Rejected {
    /// It is the response of a node that does not lead.
    NotLeader,
    /// It breaks the protocol, in this way.
    Malformed(String),
}

fn malformed<T>(reason: impl Into<String>) -> Result<T, Rejected> {
    Err(Rejected::Malformed(reason.into()))
}

fn epoch_of(wire: Option<v1::EpochWire>) -> Option<Epoch> {
    wire.map(|wire| Epoch::from_parts(wire.hi, wire.lo))
}
