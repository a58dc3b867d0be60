//! The calls of the protocol, each as one call of the engine.

mod cluster;
mod convert;
mod sequence;
mod streams;
mod tso;

use std::time::Duration;

use tonic::Request;
use tsoracle_core::{Caller, CallerId, Oracle};

use crate::edge::Allowed;

pub(crate) use cluster::Cluster;
pub(crate) use sequence::Sequences;
pub(crate) use tso::Tso;

/// The oracle for the caller of the request, waiting no longer than its deadline.
fn within_deadline<T>(oracle: &Oracle, request: &Request<T>) -> Oracle {
    let allowed = request.extensions().get::<Allowed>();
    let within = oracle.with_hold(allowed.map_or(Duration::MAX, |allowed| allowed.hold));
    match caller(oracle, request) {
        Some(caller) => within.with_caller(caller),
        None => within,
    }
}

/// Who makes the call, if that is known.
fn caller<T>(oracle: &Oracle, request: &Request<T>) -> Option<Caller> {
    let known = request.extensions().get::<Allowed>().and_then(|allowed| allowed.caller.clone());
    // Where another server has accepted the connection, it says from whom.
    let remote = || Some(oracle.caller(CallerId::of_address(request.remote_addr()?.ip())));
    known.or_else(remote)
}
