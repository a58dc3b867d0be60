//! The steps of a node's script, and the requests that it has seen.

use std::sync::Arc;

use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tsoracle_proto::metadata::{self, UNCOMMITTED};
use tsoracle_proto::v1::{LeaderHint, RequestId};

/// What a node does with its next request for timestamps or sequences.
#[derive(Clone, Debug)]
pub(crate) enum Step {
    /// Serves it.
    Serve,
    /// Refuses it with this status.
    Fail(Status),
    /// Serves it, but answers with this status.
    ServeThenFail(Status),
    /// Serves it, but never answers.
    ServeThenHang,
    /// Never answers.
    Hang,
    /// Serves it, but answers for one value less.
    ServeWrongly,
    /// Serves it once the gate has let it through.
    Await(Arc<Semaphore>),
    /// Ends the stream that it came on once the gate has let it through.
    AwaitThenBreak(Arc<Semaphore>),
    /// Ends the stream that it came on.
    Break,
    /// Serves it, and ends the stream that it came on instead of answering.
    ServeThenBreak,
}

/// How a stream ends that breaks.
pub(crate) const BROKEN: &str = "the stream breaks";

pub(crate) fn not_leader(address: &str, epoch: u128) -> Step {
    let leader_endpoint = Some(address.to_owned());
    hinting(LeaderHint { leader_endpoint, leader_epoch: Some(epoch.into()) })
}

pub(crate) fn not_leader_nor_who_is() -> Step {
    hinting(LeaderHint::default())
}

fn hinting(hint: LeaderHint) -> Step {
    let mut trailers = MetadataMap::new();
    metadata::insert_leader_hint(&mut trailers, &hint);
    Step::Fail(Status::with_metadata(Code::FailedPrecondition, "not leader", trailers))
}

pub(crate) fn uncommitted() -> Step {
    let mut trailers = MetadataMap::new();
    metadata::insert_flag(&mut trailers, UNCOMMITTED);
    Step::Fail(Status::with_metadata(Code::Unavailable, "no quorum", trailers))
}

/// Returns once the gate lets a request through.
pub(crate) async fn pass(gate: &Semaphore) -> Result<(), Status> {
    gate.acquire().await.unwrap().forget();
    Ok(())
}

/// The requests that a node has seen.
#[derive(Clone, Debug, Default)]
pub(crate) struct Seen {
    pub(crate) timestamps: usize,
    pub(crate) sequences: Vec<RequestId>,
    pub(crate) closes: Vec<RequestId>,
    pub(crate) probes: usize,
    pub(crate) connections: usize,
    pub(crate) streams: usize,
    pub(crate) refused_streams: usize,
    /// How many timestamps were asked for with each request.
    pub(crate) counts: Vec<u32>,
    /// How many requests came with each message of a stream.
    pub(crate) messages: Vec<usize>,
    /// How many requests came in runs.
    pub(crate) in_runs: usize,
}
