#![doc = include_str!("../README.md")]

mod config;
mod entry;
mod identity;
mod machine;
pub mod snapshot;
mod tls;
pub mod transport;

pub use config::{Addresses, Cluster, Config, OPTIONS};
pub use entry::{EntryId, LogEntry};
pub use identity::Identity;
pub use machine::Machine;
pub use tls::PeerTls;
