//! Timestamps for many callers over one stream.
//!
//! A call costs little more than to wake its task, so what callers share must not cost as much. Callers of
//! different threads join different shards, each behind a lock of its own; a batch is what all
//! shards hold when the transport takes it. An answer is one write for each shard, which its callers read
//! without a lock. No call counts a reference or reads a clock: queues outlive their streams
//! ([`Queues`]), and the stream's task reads the clock for callers that wait for longer than a tick.

mod answers;
mod batched_stream;
mod call;
mod flight;
mod queue;
mod shard;
mod transport;

/// The atomics that the answers are built of, so that a test can put a model in their place.
mod sync {
    pub(super) use std::sync::atomic::{AtomicU64, Ordering, fence};
}

pub(crate) use batched_stream::{BatchedStream, Queues};
pub(crate) use call::{Call, Unanswered};

#[cfg(test)]
#[expect(clippy::duplicate_mod, reason = "the tested code uses the atomics of a model")]
#[path = "timestamps/answers_test.rs"]
mod answers_tests;
