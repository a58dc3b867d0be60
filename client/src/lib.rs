#![doc = include_str!("../README.md")]

mod address;
mod attempt;
mod backoff;
mod batched;
mod builder;
mod client;
mod cluster;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod history;
mod joined;
mod leader;
mod lease;
mod oracles;
mod pool;
mod route;
mod rpc;
mod session;
mod stream;
mod suspicion;
mod tls;
mod verdict;

pub use builder::ClientBuilder;
pub use client::{Client, MaxSafe, SeqPage};
pub use error::{Error, ErrorKind, Result};
pub use lease::{Lease, SafeFrontier};
pub use stream::TimestampStream;
pub use tls::TlsOptions;
pub use tsoracle_types::{
    BootTime, Epoch, LeaseId, SeqBlock, SeqKey, Timestamp, TimestampIter, TimestampRange,
};
