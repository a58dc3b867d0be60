use std::error::Error as StdError;

use tonic::{Code, ConnectError, Status};
use tsoracle_proto::metadata::{self, SESSION_UNKNOWN, UNCOMMITTED};
use tsoracle_proto::v1::LeaderHint;

use crate::error::ErrorKind;
use crate::rpc::Idempotency;

/// The meaning of a failed attempt for its request.
#[derive(Clone, PartialEq, Debug)]
pub(super) enum Verdict {
    /// Not carried out: this node does not lead. The hint may be empty.
    NotLeader(LeaderHint),
    /// Not carried out; another attempt may be.
    NotExecuted,
    /// Carried out, or not, or about to be.
    Uncertain,
    /// Not carried out by this attempt; whether by an earlier one cannot be found out any more.
    SessionUnknown,
    /// Carried out, with an answer that cannot be used.
    Malformed,
    /// Not carried out, and no other attempt will be either.
    Refused(ErrorKind),
}

/// Judges the status of a failed attempt.
///
/// A status that was made on this side of the connection has a source. Whatever its code is, it
/// proves nothing about the request, except that a request without a connection was not sent.
pub(super) fn judge(status: &Status, idempotency: Idempotency<'_>) -> Verdict {
    if status.source().is_some() {
        let is_unsent = has_source::<ConnectError>(status);
        return if is_unsent { Verdict::NotExecuted } else { Verdict::Uncertain };
    }
    let trailers = status.metadata();
    match status.code() {
        Code::FailedPrecondition => {
            if metadata::has_flag(trailers, SESSION_UNKNOWN) {
                return Verdict::SessionUnknown;
            }
            match (metadata::leader_hint(trailers), idempotency) {
                (Some(hint), _) => Verdict::NotLeader(hint),
                // The answer to a request for timestamps during an election.
                (None, Idempotency::Repeatable) => Verdict::NotLeader(LeaderHint::default()),
                (None, Idempotency::ByRequestId(_) | Idempotency::ByState) => {
                    Verdict::Refused(ErrorKind::Refused)
                }
            }
        }
        Code::InvalidArgument => Verdict::Refused(ErrorKind::Invalid),
        Code::AlreadyExists | Code::OutOfRange => Verdict::Refused(ErrorKind::Refused),
        Code::ResourceExhausted => Verdict::Refused(ErrorKind::Exhausted),
        Code::PermissionDenied | Code::Unauthenticated => Verdict::Refused(ErrorKind::Denied),
        Code::NotFound => Verdict::Refused(ErrorKind::NotFound),
        Code::Unimplemented => Verdict::Refused(ErrorKind::Unimplemented),
        // `Ok` cannot fail.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Internal
        | Code::Unknown
        | Code::Aborted
        | Code::DataLoss
        | Code::Ok => {
            // Proxies make these too, after having passed the request on: the code proves nothing.
            let is_certain = metadata::has_flag(trailers, UNCOMMITTED);
            if is_certain { Verdict::NotExecuted } else { Verdict::Uncertain }
        }
    }
}

/// Whether the connection, rather than the server behind it, failed: it is to be dialled again.
pub(super) fn is_broken_connection(status: &Status) -> bool {
    // A channel whose task is gone answers `Unknown` without a source.
    status.source().is_some() || status.code() == Code::Unknown
}

/// Whether an error of type `E` is among the causes of a status.
pub(super) fn has_source<E: StdError + 'static>(status: &Status) -> bool {
    std::iter::successors(status.source(), |&error| error.source()).any(|error| error.is::<E>())
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tonic::metadata::MetadataMap;
    use tsoracle_types::SystemClock;

    use super::*;
    use crate::session::{OpenRequest, Sessions};

    fn request() -> OpenRequest {
        Sessions::new(Arc::new(SystemClock)).named("a request")
    }

    fn with_flag(code: Code, flag: &'static str) -> Status {
        let mut trailers = MetadataMap::new();
        metadata::insert_flag(&mut trailers, flag);
        Status::with_metadata(code, "", trailers)
    }

    fn with_hint(hint: &LeaderHint) -> Status {
        let mut trailers = MetadataMap::new();
        metadata::insert_leader_hint(&mut trailers, hint);
        Status::with_metadata(Code::FailedPrecondition, "not leader", trailers)
    }

    #[test]
    fn codes_without_trailers() {
        let table = [
            (Code::InvalidArgument, Verdict::Refused(ErrorKind::Invalid)),
            (Code::AlreadyExists, Verdict::Refused(ErrorKind::Refused)),
            (Code::OutOfRange, Verdict::Refused(ErrorKind::Refused)),
            (Code::ResourceExhausted, Verdict::Refused(ErrorKind::Exhausted)),
            (Code::PermissionDenied, Verdict::Refused(ErrorKind::Denied)),
            (Code::Unauthenticated, Verdict::Refused(ErrorKind::Denied)),
            (Code::NotFound, Verdict::Refused(ErrorKind::NotFound)),
            (Code::Unimplemented, Verdict::Refused(ErrorKind::Unimplemented)),
            (Code::Unavailable, Verdict::Uncertain),
            (Code::DeadlineExceeded, Verdict::Uncertain),
            (Code::Cancelled, Verdict::Uncertain),
            (Code::Internal, Verdict::Uncertain),
            (Code::Unknown, Verdict::Uncertain),
            (Code::Aborted, Verdict::Uncertain),
            (Code::DataLoss, Verdict::Uncertain),
        ];
        let request = request();
        for (code, verdict) in table {
            for idempotency in [Idempotency::Repeatable, Idempotency::ByRequestId(&request)] {
                assert_eq!(judge(&Status::new(code, ""), idempotency), verdict, "{code:?}");
            }
        }
    }

    #[test]
    fn a_failed_precondition_means_what_its_trailers_say() {
        let request = request();
        let bare = Status::failed_precondition("");
        let no_hint = Verdict::NotLeader(LeaderHint::default());
        assert_eq!(judge(&bare, Idempotency::Repeatable), no_hint);
        let refused = Verdict::Refused(ErrorKind::Refused);
        assert_eq!(judge(&bare, Idempotency::ByRequestId(&request)), refused);
        assert_eq!(judge(&bare, Idempotency::ByState), refused);

        let hint = LeaderHint { leader_endpoint: Some("a:1".into()), leader_epoch: Some(4.into()) };
        for idempotency in [Idempotency::Repeatable, Idempotency::ByRequestId(&request)] {
            assert_eq!(judge(&with_hint(&LeaderHint::default()), idempotency), no_hint);
            assert_eq!(judge(&with_hint(&hint), idempotency), Verdict::NotLeader(hint.clone()));
            let unknown = with_flag(Code::FailedPrecondition, SESSION_UNKNOWN);
            assert_eq!(judge(&unknown, idempotency), Verdict::SessionUnknown);
        }
    }

    #[test]
    fn the_uncommitted_trailer_is_certain() {
        let request = request();
        for idempotency in [Idempotency::Repeatable, Idempotency::ByRequestId(&request)] {
            let status = with_flag(Code::Unavailable, UNCOMMITTED);
            assert_eq!(judge(&status, idempotency), Verdict::NotExecuted);
        }
    }

    #[test]
    fn a_status_made_on_this_side_says_nothing_whatever_its_code() {
        let broken = |error: Box<dyn StdError + Send + Sync>| {
            let mut status = Status::resource_exhausted("h2 protocol error");
            status.set_source(error.into());
            status
        };
        let request = request();
        let reset = broken(Box::new(std::io::Error::other("reset")));
        assert_eq!(judge(&reset, Idempotency::ByRequestId(&request)), Verdict::Uncertain);
        assert!(is_broken_connection(&reset));
        let unconnected = broken(Box::new(ConnectError("refused".into())));
        assert_eq!(judge(&unconnected, Idempotency::ByRequestId(&request)), Verdict::NotExecuted);
    }
}
