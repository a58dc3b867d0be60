#![doc = include_str!("../README.md")]

pub mod metadata;

mod address;
mod advice;
mod bearer;
mod epoch;

pub use address::{Address, Scheme};
pub use advice::with_advice;
pub use bearer::{Authorized, Bearer};

/// The generated messages, clients and servers of package `tsoracle.v1`. What each message and
/// field means is written in the `.proto` files.
#[allow(missing_docs, unreachable_pub, clippy::all)]
pub mod v1 {
    tonic::include_proto!("tsoracle.v1");
}

/// The encoded `FileDescriptorSet` of all `.proto` files here: what gRPC server reflection serves.
pub const FILE_DESCRIPTOR_SET: &[u8] =
    include_bytes!(concat!(env!("OUT_DIR"), "/tsoracle_descriptor.bin"));

/// The port a server listens on, and a client dials, unless set otherwise.
pub const DEFAULT_PORT: u16 = 50_551;

/// The most timestamps one `GetTs` grants: as many as one millisecond holds.
pub const MAX_TS_COUNT: u32 = 1 << 18;

/// The most entries of one `GetSeqBatch`.
pub const MAX_SEQ_BATCH_ENTRIES: usize = 128;

/// The most requests in one message of `StreamSeq`.
pub const MAX_STREAM_SEQ_REQUESTS: usize = 4_096;

/// The most bytes of one message of `StreamSeq`.
pub const MAX_STREAM_SEQ_BYTES: usize = 1 << 20;

/// The length of a session id in bytes.
pub const SESSION_BYTES: usize = 16;
