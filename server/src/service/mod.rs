//! The calls of the protocol, each as one call of the engine.

mod backup;
mod cluster;
mod convert;
mod sequence;
mod streams;
mod tso;

use std::{sync::Arc, time::Duration};

use tonic::{Request, Status};
use tsoracle_core::{Error, Oracle};

use crate::{
    edge::Allowed,
    rights::{Client, Right},
    status::{Asked, Statuses},
};

pub(crate) use backup::Backups;
pub(crate) use cluster::Cluster;
pub(crate) use sequence::Sequences;
pub(crate) use tso::Tso;

/// The oracle for the client that makes the call, waiting no longer than its deadline.
fn within_deadline<T>(oracle: &Oracle, request: &Request<T>) -> Oracle {
    let allowed = request.extensions().get::<Allowed>();
    let within = oracle.with_hold(allowed.map_or(Duration::MAX, |allowed| allowed.hold));
    match allowed.and_then(|allowed| allowed.client.caller()) {
        Some(caller) => within.with_caller(caller.clone()),
        None => within,
    }
}

/// Who makes the call. Every call has passed the gate, which says so.
fn client<T>(request: &Request<T>) -> Result<Arc<Client>, Status> {
    let allowed = request.extensions().get::<Allowed>();
    allowed
        .map(|allowed| allowed.client.clone())
        .ok_or_else(|| Status::internal("a call has come past the gate that knows who makes it"))
}

/// A refusal for want of a right, which is recorded.
fn denied(client: &Client, right: Right, object: &str, error: &Error) -> Status {
    let status = Statuses::default().of(error, Asked::Sequences);
    client.audit().refused(client.who(), right.name(), object, &status);
    status
}

/// Checks the right for a sequence.
fn check_key(client: &Client, right: Right, key: &str) -> Result<(), Status> {
    client.check_key(right, key).map_err(|error| denied(client, right, key, &error))
}
