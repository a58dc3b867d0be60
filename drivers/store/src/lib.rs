#![doc = include_str!("../README.md")]

mod directory;
mod record;
mod store;
mod verified;

pub use redb::StorageBackend;
pub use store::{Options, StateView, Store, Table};
