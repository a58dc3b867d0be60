//! The `tsoracle` binary, run as a person or an init system would.

#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod backup;
#[cfg(feature = "openraft")]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod backup_load;
#[cfg(feature = "openraft")]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod balancer;
mod bench;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod certificates;
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod clocks;
mod cluster;
mod commands;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod configuration;
mod crashes;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod earlier;
mod failures;
mod limits;
mod logging;
mod manuals;
mod migrate;
mod node;
#[cfg(feature = "openraft")]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod probes;
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod problems;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod rights;
#[cfg(any(feature = "openraft", feature = "omnipaxos"))]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod rolling;
mod sockets;
mod space;
mod stopping;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod supervised;
#[cfg(target_os = "linux")]
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod tasks;
mod tls;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod unfinished;
mod verify;
#[allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]
mod web;
