#![doc = include_str!("../README.md")]

#[cfg(feature = "processes")]
pub mod processes;

#[cfg(feature = "suite")]
mod checks;
#[cfg(feature = "suite")]
mod cluster;
#[cfg(feature = "suite")]
mod fixture;
#[cfg(feature = "suite")]
mod load;
#[cfg(feature = "suite")]
mod local;
#[cfg(feature = "suite")]
mod model;
#[cfg(feature = "suite")]
mod oracles;
#[cfg(feature = "suite")]
mod suite;
#[cfg(feature = "suite")]
mod worker;

pub use tsoracle_history as history;

#[cfg(feature = "suite")]
pub use cluster::{BackingServices, Cluster, Disk, Partition, Service};
#[cfg(feature = "suite")]
pub use fixture::{Acting, Action, Config, Fault, Fixture, Shared};
#[cfg(feature = "suite")]
pub use local::Local;
#[cfg(feature = "suite")]
pub use suite::{Check, run};
