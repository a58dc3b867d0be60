#![doc = include_str!("../README.md")]

#[cfg(feature = "processes")]
pub mod processes;

#[cfg(feature = "suite")]
mod checks;
#[cfg(feature = "suite")]
mod commanded;
#[cfg(feature = "suite")]
mod harness;
#[cfg(feature = "suite")]
mod load;
#[cfg(feature = "suite")]
mod local;
#[cfg(feature = "suite")]
mod model;
#[cfg(feature = "suite")]
mod rig;
#[cfg(feature = "suite")]
mod suite;
#[cfg(feature = "suite")]
mod worker;

pub use tsoracle_history as history;

#[cfg(feature = "suite")]
pub use harness::{Ability, Cluster, Harness, Place, Service};
#[cfg(feature = "suite")]
pub use local::Local;
#[cfg(feature = "suite")]
pub use suite::{Check, run};
