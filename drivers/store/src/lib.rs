#![doc = include_str!("../README.md")]

mod checkpoint;
mod directory;
mod earlier;
mod files;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod header;
mod journal;
mod meters;
mod record;
mod recovery;
mod segment;
mod snapshot;
mod store;
mod tables;

pub use files::{Files, OpenFile};
pub use store::{Options, StateView, Store, Table};
