//! The calls of the protocol, each as one call of the engine.

mod cluster;
mod convert;
mod sequence;
mod streams;
mod tso;

use tonic::Request;
use tsoracle_core::Oracle;

use crate::edge::Allowed;

pub(crate) use cluster::Cluster;
pub(crate) use sequence::Sequences;
pub(crate) use tso::Tso;

/// The oracle, waiting no longer than the deadline of the request.
fn within_deadline<T>(oracle: &Oracle, request: &Request<T>) -> Oracle {
    match request.extensions().get() {
        Some(&Allowed { hold, .. }) => oracle.with_hold(hold),
        None => oracle.clone(),
    }
}
