#![doc = include_str!("../README.md")]

mod calls;
#[cfg(feature = "transport")]
mod config;
mod entry;
mod evidence;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
pub mod handover;
#[cfg(feature = "transport")]
mod identity;
mod latch;
pub mod leaps;
mod lifecycle;
pub mod message_parts;
pub mod own_thread;
mod replica;
#[cfg(test)]
mod replica_test;
pub mod snapshot;
mod stepped_store;
mod stopped;
mod store_owner;
pub mod store_thread;
#[cfg(test)]
mod store_thread_test;
pub mod stored;
mod tasks;
#[cfg(feature = "transport")]
mod tls;
pub mod transfer;
#[cfg(feature = "transport")]
pub mod transport;
mod waiters;

pub use calls::Calls;
#[cfg(feature = "transport")]
pub use config::{Addresses, Cluster, Config, FIXED_OPTIONS, OPTIONS};
pub use entry::LogEntry;
pub use evidence::Evidence;
#[cfg(feature = "transport")]
pub use identity::{ClusterId, Formed, Identity};
pub use latch::Latch;
pub use lifecycle::Lifecycle;
pub use replica::Replica;
pub use stepped_store::{Next, SteppedStore};
pub use stopped::stopped;
pub use store_thread::StoreThread;
pub use tasks::{Gate, Gated, Tasks};
#[cfg(feature = "transport")]
pub use tls::{PeerNames, PeerTls};
pub use tsoracle_core::Announcer;
pub use waiters::{Answer, Waiters};
