//! The `tsoracle` binary, run as a person or an init system would.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod arguments;
mod backup;
#[cfg(feature = "openraft")]
mod backup_load;
#[cfg(feature = "openraft")]
mod balancer;
mod bench;
mod certificates;
#[cfg(target_os = "linux")]
mod clocks;
mod cluster;
mod commands;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod configuration;
mod crashes;
mod earlier;
mod failures;
mod limits;
mod logging;
mod manuals;
mod migrate;
mod node;
mod ports;
#[cfg(feature = "openraft")]
mod probes;
#[cfg(target_os = "linux")]
mod problems;
mod rights;
#[cfg(any(feature = "openraft", feature = "omnipaxos"))]
mod rolling;
mod sockets;
mod space;
mod stopping;
mod supervised;
#[cfg(target_os = "linux")]
mod tasks;
mod tls;
mod unfinished;
mod verify;
mod web;
