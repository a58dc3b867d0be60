//! The `tsoracle` binary, run as a person or an init system would.

#[cfg(feature = "openraft")]
mod balancer;
mod bench;
#[cfg(target_os = "linux")]
mod clocks;
mod cluster;
mod commands;
#[path = "../../../tests/common/mod.rs"]
mod common;
mod configuration;
mod crashes;
mod failures;
mod limits;
mod logging;
mod manuals;
mod migrate;
mod node;
mod stopping;
mod tls;
mod verify;
