//! What each error of etcd says about the call that got it.
//!
//! The question is always the same: can etcd have done what it was asked for? It answers a transaction only after
//! consensus, and some of its checks are made there, or after it. So an error counts as a refusal only where
//! etcd's own code makes the check before it executes anything; every other one leaves the outcome open, whatever
//! its code suggests.

use std::error::Error as _;

use tonic::{Code, ConnectError, Status};
use tsoracle_core::ErrorKind;

/// What an error says.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Meaning {
    /// Nothing was done, and never will be; another attempt may succeed.
    NotDone,
    /// Nothing was done, since this client has to authenticate again.
    NotLetIn,
    /// Nothing was done, and nothing will be until an operator changes the user, its rights, or the options.
    Refused,
    /// It may have been done, or may yet be.
    Unknown,
}

/// An error, told by its code and, where that is not enough, by what its message contains.
struct Known(Code, &'static str, Meaning);

/// The first one that fits counts. Texts are those of etcd 3.4 to 3.6 (`api/v3rpc/rpctypes/error.go`).
const KNOWN: [Known; 14] = [
    // Tokens and the user are checked before a request is executed; also where the rights have changed since.
    Known(Code::Unauthenticated, "", Meaning::NotLetIn),
    Known(Code::InvalidArgument, "revision of auth store is old", Meaning::NotLetIn),
    // A server whose authentication was switched on answers so to who has no token.
    Known(Code::InvalidArgument, "user name is empty", Meaning::Refused),
    Known(Code::FailedPrecondition, "authentication", Meaning::Refused),
    // The rights to every key of a transaction are checked before its first write.
    Known(Code::PermissionDenied, "", Meaning::Refused),
    // A password, or a request beyond the limits, which are checked before it is proposed.
    Known(Code::InvalidArgument, "", Meaning::Refused),
    // Too much was proposed that is not applied yet; the request was not.
    Known(Code::ResourceExhausted, "too many requests", Meaning::NotDone),
    // The quota is looked at before a request is proposed, and *again after it was applied*: the transaction that
    // crosses it is made and answered so. A message that is too large for either end may be the answer.
    Known(Code::ResourceExhausted, "", Meaning::Unknown),
    // A member without a leader turns a request away that asks for one, before it looks at it.
    Known(Code::Unavailable, "etcdserver: no leader", Meaning::NotDone),
    // The revision to be read is compacted, or is to come: a read is made again. No transaction that writes reads
    // one, so that this would say nothing of it.
    Known(Code::OutOfRange, "", Meaning::Unknown),
    // An alarm: a member found that its data differ from others'. Those who are behind may have applied it.
    Known(Code::DataLoss, "", Meaning::Unknown),
    // Timeouts, a changed leader, a member that stops, a connection that ends: the request may be in the log.
    Known(Code::Unavailable, "", Meaning::Unknown),
    Known(Code::DeadlineExceeded, "", Meaning::Unknown),
    Known(Code::Unknown, "", Meaning::Unknown),
];

/// What `status` says.
pub(crate) fn meaning(status: &Status) -> Meaning {
    // The request never left, whatever the code.
    if is_unconnected(status) {
        return Meaning::NotDone;
    }
    let fits = |known: &&Known| known.0 == status.code() && status.message().contains(known.1);
    KNOWN.iter().find(fits).map_or(Meaning::Unknown, |known| known.2)
}

impl Meaning {
    /// The kind of error that a caller gets; `unknown` is that of an outcome that is open.
    pub(crate) fn kind(self, unknown: ErrorKind) -> ErrorKind {
        match self {
            Self::NotDone | Self::NotLetIn => ErrorKind::Unavailable,
            Self::Refused => ErrorKind::Config,
            Self::Unknown => unknown,
        }
    }
}

/// Whether the request never left, since there was no connection.
fn is_unconnected(status: &Status) -> bool {
    let mut cause = status.source();
    while let Some(error) = cause {
        if error.is::<ConnectError>() {
            return true;
        }
        cause = error.source();
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The errors of etcd, by the texts that its members send.
    #[test]
    fn each_error_says_no_more_than_etcd_knows() {
        let table = [
            (Code::Unauthenticated, "etcdserver: invalid auth token", Meaning::NotLetIn),
            (Code::InvalidArgument, "etcdserver: revision of auth store is old", Meaning::NotLetIn),
            (Code::InvalidArgument, "etcdserver: user name is empty", Meaning::Refused),
            (Code::InvalidArgument, "etcdserver: request is too large", Meaning::Refused),
            (
                Code::InvalidArgument,
                "etcdserver: too many operations in txn request",
                Meaning::Refused,
            ),
            (
                Code::InvalidArgument,
                "etcdserver: authentication failed, invalid user ID or password",
                Meaning::Refused,
            ),
            (
                Code::FailedPrecondition,
                "etcdserver: authentication is not enabled",
                Meaning::Refused,
            ),
            (Code::FailedPrecondition, "etcdserver: cannot do that now", Meaning::Unknown),
            (Code::PermissionDenied, "etcdserver: permission denied", Meaning::Refused),
            (
                Code::ResourceExhausted,
                "etcdserver: mvcc: database space exceeded",
                Meaning::Unknown,
            ),
            (Code::ResourceExhausted, "etcdserver: too many requests", Meaning::NotDone),
            (
                Code::ResourceExhausted,
                "grpc: trying to send message larger than max",
                Meaning::Unknown,
            ),
            (
                Code::OutOfRange,
                "etcdserver: mvcc: required revision has been compacted",
                Meaning::Unknown,
            ),
            (Code::Unavailable, "etcdserver: no leader", Meaning::NotDone),
            (Code::Unavailable, "etcdserver: leader changed", Meaning::Unknown),
            (Code::Unavailable, "etcdserver: request timed out", Meaning::Unknown),
            (
                Code::Unavailable,
                "etcdserver: request timed out, possibly due to previous leader failure",
                Meaning::Unknown,
            ),
            (Code::Unavailable, "etcdserver: server stopped", Meaning::Unknown),
            (Code::Unavailable, "transport is closing", Meaning::Unknown),
            (Code::DataLoss, "etcdserver: corrupt cluster", Meaning::Unknown),
            (Code::DeadlineExceeded, "context deadline exceeded", Meaning::Unknown),
            (Code::Cancelled, "context canceled", Meaning::Unknown),
            (Code::NotFound, "etcdserver: requested lease not found", Meaning::Unknown),
            (Code::Internal, "anything", Meaning::Unknown),
            (Code::Unknown, "anything", Meaning::Unknown),
            (Code::Aborted, "anything", Meaning::Unknown),
            (Code::Unimplemented, "anything", Meaning::Unknown),
        ];
        for (code, text, expected) in table {
            assert_eq!(meaning(&Status::new(code, text)), expected, "{code:?}: {text}");
        }
    }

    #[test]
    fn only_what_etcd_refuses_is_told_as_not_done() {
        assert_eq!(Meaning::Unknown.kind(ErrorKind::Uncertain), ErrorKind::Uncertain);
        assert_eq!(Meaning::NotDone.kind(ErrorKind::Uncertain), ErrorKind::Unavailable);
        assert_eq!(Meaning::NotLetIn.kind(ErrorKind::Uncertain), ErrorKind::Unavailable);
        assert_eq!(Meaning::Refused.kind(ErrorKind::Uncertain), ErrorKind::Config);
    }
}
