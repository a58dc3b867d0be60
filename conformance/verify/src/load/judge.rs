use std::sync::Arc;

use tonic::{Code, ConnectError, Status};
use tsoracle_client::ErrorKind;
use tsoracle_proto::{
    metadata::{self, SESSION_UNKNOWN, UNCOMMITTED},
    v1,
};

use tsoracle_history::Outcome;

use crate::probe::{is_elsewhere, is_of_this_side};

/// What a request says that was invalid on purpose.
pub(crate) const INVALID: &str = "invalid, on purpose";

/// Why a valid request may fail while a deployment is in trouble, and nothing is wrong.
pub(crate) const TROUBLE: [&str; 11] = [
    "not leader",
    "not connected",
    "connection lost",
    "session unknown",
    "Unavailable",
    "DeadlineExceeded",
    "Cancelled",
    "ResourceExhausted",
    // Of our client.
    "Uncertain",
    "Timeout",
    "Exhausted",
];

/// What a failed call says about its request.
pub(super) fn failed<T>(status: &Status) -> Outcome<T> {
    let (why, is_open) = reason(status);
    if is_open { Outcome::Uncertain(why) } else { Outcome::Refused(why) }
}

/// Why a call failed, and whether it may have been carried out all the same.
pub fn reason(status: &Status) -> (Arc<str>, bool) {
    let is_uncommitted = metadata::has_flag(status.metadata(), UNCOMMITTED);
    if is_connect_error(status) {
        ("not connected".into(), false)
    } else if is_of_this_side(status) || status.code() == Code::Unknown {
        // Whatever its code is: this side made it.
        ("connection lost".into(), true)
    } else if is_elsewhere(status) && status.code() == Code::FailedPrecondition {
        ("not leader".into(), false)
    } else if metadata::has_flag(status.metadata(), SESSION_UNKNOWN) {
        ("session unknown".into(), false)
    } else {
        let code = status.code();
        (format!("{code:?}").into(), is_open(code) && !is_uncommitted)
    }
}

/// What a stream says about one of its requests.
pub(super) fn refused<T>(failure: &v1::SeqFailure) -> Outcome<T> {
    match failure {
        v1::SeqFailure { hint: Some(_), .. } => Outcome::Refused("not leader".into()),
        v1::SeqFailure { session_unknown: true, .. } => Outcome::Refused("session unknown".into()),
        _ => {
            let code = Code::from(failure.code as i32);
            let why = format!("{code:?}").into();
            let is_open = is_open(code) && !failure.uncommitted;
            if is_open { Outcome::Uncertain(why) } else { Outcome::Refused(why) }
        }
    }
}

/// What our client says. It is certain unless it says that it is not.
pub(super) fn reported<T>(kind: ErrorKind) -> Outcome<T> {
    let name = format!("{kind:?}").into();
    match kind {
        ErrorKind::Uncertain | ErrorKind::Protocol => Outcome::Uncertain(name),
        _ => Outcome::Refused(name),
    }
}

/// Whether a call that failed with `code` may have been carried out.
fn is_open(code: Code) -> bool {
    use Code::{Aborted, Cancelled, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown};
    let open = [Aborted, Cancelled, DataLoss, DeadlineExceeded, Internal, Unavailable, Unknown];
    open.contains(&code)
}

fn is_connect_error(status: &Status) -> bool {
    let mut source = std::error::Error::source(status);
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}
