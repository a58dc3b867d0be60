//! What every failure becomes on the wire: the one place that chooses status codes and trailers.

use std::sync::Arc;

use tonic::{Code, Status, metadata::MetadataMap};
use tsoracle_core::{Error, ErrorKind, LeaderHint, Reject};
use tsoracle_proto::{metadata, v1};

/// Which call failed: an unknown leader is encoded in two ways.
///
/// The public client waits out an election if `GetTs` has no hint trailer at all, but takes a
/// sequence request without one for refused for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Asked {
    /// For an unknown leader the trailer is left out.
    Timestamps,
    /// For an unknown leader the trailer is empty: sequences and stamping leases.
    Sequences,
}

/// Turns errors into statuses, for a node that is reached at a certain endpoint.
#[derive(Clone, Default, Debug)]
pub(crate) struct Statuses {
    own_endpoint: Option<Arc<str>>,
    without_hints: bool,
}

impl Statuses {
    /// `own_endpoint` is never given as a hint.
    pub(crate) fn new(own_endpoint: Option<Arc<str>>) -> Self {
        Self { own_endpoint, without_hints: false }
    }

    /// No node is ever named: those who ask are to ask at another kind of address than leaders are known by.
    pub(crate) fn without_hints() -> Self {
        Self { own_endpoint: None, without_hints: true }
    }

    /// The status that a caller gets for `error`.
    pub(crate) fn of(&self, error: &Error, asked: Asked) -> Status {
        let context = format!("{error:#}");
        match error.kind() {
            ErrorKind::NotLeader(hint) => self.not_leader(hint.as_ref(), asked),
            ErrorKind::Unavailable => with_flag(Code::Unavailable, &context, metadata::UNCOMMITTED),
            ErrorKind::Uncertain => Status::unavailable(context),
            ErrorKind::Rejected(reject) => self.rejected(reject, context, asked),
            ErrorKind::Invalid => Status::invalid_argument(context),
            ErrorKind::Overloaded => Status::resource_exhausted(context),
            ErrorKind::Unauthenticated => Status::unauthenticated(context),
            ErrorKind::Denied => Status::permission_denied(context),
            // `Config`, `Corrupt` and `Fatal`; a kind that is not known here is a bug as well.
            _ => Status::internal(context),
        }
    }

    /// What a stream says of one request that failed: what a status and its trailers would.
    pub(crate) fn failure(&self, error: &Error) -> v1::SeqFailure {
        let status = self.of(error, Asked::Sequences);
        let trailers = status.metadata();
        v1::SeqFailure {
            code: status.code() as u32,
            message: status.message().to_owned(),
            uncommitted: metadata::has_flag(trailers, metadata::UNCOMMITTED),
            hint: metadata::leader_hint(trailers),
            session_unknown: metadata::has_flag(trailers, metadata::SESSION_UNKNOWN),
        }
    }

    /// A grant without a block, which is a bug.
    pub(crate) fn no_block(&self) -> v1::SeqFailure {
        self.failure(&Error::new(ErrorKind::Fatal, "the engine granted no block"))
    }

    fn rejected(&self, reject: &Reject, context: String, asked: Asked) -> Status {
        match reject {
            Reject::Fenced { .. } => self.not_leader(None, asked),
            Reject::OutOfRange { .. } => Status::out_of_range(context),
            Reject::TooMany { .. }
            | Reject::OverShare { .. }
            | Reject::OverOwnLimit { .. }
            | Reject::SpaceLow { .. }
            | Reject::TooManyOpenRequests { .. } => Status::resource_exhausted(context),
            Reject::SessionUnknown => {
                with_flag(Code::FailedPrecondition, &context, metadata::SESSION_UNKNOWN)
            }
            Reject::IdReused { .. } | Reject::NameReused | Reject::NothingLeft { .. } => {
                Status::invalid_argument(context)
            }
            Reject::SequenceExists { .. } => Status::already_exists(context),
            Reject::LeaseUnknown { .. } | Reject::SequenceUnknown { .. } => {
                Status::not_found(context)
            }
            Reject::LeaseOfAnother { .. } => Status::permission_denied(context),
            // `Overflow`, `Forgotten`, and leases that are not the holder's any more. A refusal that is not known here is definite, too.
            _ => Status::failed_precondition(context),
        }
    }

    fn not_leader(&self, hint: Option<&LeaderHint>, asked: Asked) -> Status {
        let mut trailers = MetadataMap::new();
        let elsewhere = hint.filter(|hint| {
            !self.without_hints
                && !hint.endpoint.is_empty()
                && self.own_endpoint.as_deref() != Some(&hint.endpoint)
        });
        match (elsewhere, asked) {
            (Some(hint), _) => metadata::insert_leader_hint(
                &mut trailers,
                &v1::LeaderHint {
                    leader_endpoint: Some(hint.endpoint.clone()),
                    leader_epoch: hint.epoch.map(|epoch| epoch.0.into()),
                },
            ),
            (None, Asked::Sequences) => {
                metadata::insert_leader_hint(&mut trailers, &v1::LeaderHint::default());
            }
            (None, Asked::Timestamps) => {}
        }
        Status::with_metadata(Code::FailedPrecondition, "not leader", trailers)
    }
}

/// The failures of one message. Where many of its requests are refused for the same reason, that is put into
/// words once: a client must not cost the server more by being refused than by being served.
#[derive(Debug)]
pub(crate) struct Failures<'a> {
    statuses: &'a Statuses,
    last: Option<(Reject, v1::SeqFailure)>,
}

impl<'a> Failures<'a> {
    pub(crate) fn new(statuses: &'a Statuses) -> Self {
        Self { statuses, last: None }
    }

    /// As [`Statuses::failure`].
    pub(crate) fn of(&mut self, error: &Error) -> v1::SeqFailure {
        let ErrorKind::Rejected(reject) = error.kind() else { return self.statuses.failure(error) };
        match &self.last {
            Some((last, failure)) if last == reject => failure.clone(),
            _ => {
                let failure = self.statuses.failure(error);
                self.last = Some((reject.clone(), failure.clone()));
                failure
            }
        }
    }
}

/// The request's deadline, or the server's own limit, has passed.
pub(crate) fn too_late() -> Status {
    Status::deadline_exceeded("the request's deadline has passed")
}

/// The request says how long it may take in a way that is no time.
pub(crate) fn bad_timeout() -> Status {
    Status::invalid_argument("grpc-timeout is not 1 to 8 digits and a unit of H, M, S, m, u or n")
}

/// What a request that cannot be decoded is answered. To the transport it is a bug of the server's.
pub(crate) fn undecodable(status: Status) -> Status {
    match status.code() == Code::Internal && status.message().starts_with(UNDECODABLE) {
        true => Status::invalid_argument(status.message()),
        false => status,
    }
}

/// How the transport's words for that begin.
const UNDECODABLE: &str = "failed to decode Protobuf message";

/// A key that has no value to read.
pub(crate) fn never_used(key: &str) -> Status {
    Status::not_found(format!("sequence {key:?} has never been used"))
}

fn with_flag(code: Code, message: &str, flag: &'static str) -> Status {
    let mut trailers = MetadataMap::new();
    metadata::insert_flag(&mut trailers, flag);
    Status::with_metadata(code, message, trailers)
}

#[cfg(test)]
#[path = "status_test.rs"]
mod tests;
