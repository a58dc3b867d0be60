#![doc = include_str!("../README.md")]

mod checks;
mod cluster;
mod fixture;
mod load;
mod local;
mod model;
mod oracles;
mod suite;
mod worker;

pub use tsoracle_history as history;

pub use cluster::{
    BackingServices, Cluster, Direction, Disk, Double, Doubles, HungFiles, Partition, Service,
};
pub use fixture::{Acting, Action, Config, Fault, Fixture, Shared};
pub use local::Local;
pub use suite::{Check, run, run_clusters};
