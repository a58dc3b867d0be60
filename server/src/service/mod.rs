//! The calls of the protocol, each as one call of the engine.

mod cluster;
mod convert;
mod sequence;
mod streams;
mod tso;

use std::time::Duration;

use tonic::Request;
use tsoracle_core::{CallerId, Oracle};

use crate::edge::Allowed;

pub(crate) use cluster::Cluster;
pub(crate) use sequence::Sequences;
pub(crate) use tso::Tso;

/// The oracle for the caller of the request, waiting no longer than its deadline.
fn within_deadline<T>(oracle: &Oracle, request: &Request<T>) -> Oracle {
    let (hold, caller) = match request.extensions().get() {
        Some(Allowed { hold, caller, .. }) => (*hold, caller.clone()),
        None => (Duration::MAX, None),
    };
    let oracle = oracle.with_hold(hold);
    // Where another server has accepted the connection, it says from whom.
    let remote = || Some(oracle.caller(CallerId::of_address(request.remote_addr()?.ip())));
    match caller.or_else(remote) {
        Some(caller) => oracle.with_caller(caller),
        None => oracle,
    }
}
