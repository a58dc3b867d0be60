//! Sequence requests of many callers over one stream.
//!
//! A new request gets its number when its batch is sealed, so that a batch has consecutive numbers. Where the
//! server takes runs, they are sent as one, and only the first value of each block comes back.

mod batch;
mod batched_stream;
mod call;
mod queue;

pub(crate) use batch::{Entry, Grant, NotGranted};
pub(crate) use batched_stream::{BatchedStream, StreamOpener};
