#![doc = include_str!("../README.md")]

// The modules in their order: each uses those below it, and none above. `tests/layers.rs` checks it.
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;

mod builder;
mod timestamp_stream;

mod client;

mod call;

mod rpc;

mod stream;

mod peers;
mod session;

mod error;
mod tls;
mod values;

pub use builder::ClientBuilder;
pub use client::Client;
pub use error::{Error, ErrorKind, Result};
pub use timestamp_stream::TimestampStream;
pub use tls::TlsOptions;
pub use tsoracle_types::{
    BootTime, Epoch, LeaseId, SeqBlock, SeqKey, Timestamp, TimestampIter, TimestampRange,
};
pub use values::{MaxSafe, SafeFrontier, SeqPage, StampingLease};
