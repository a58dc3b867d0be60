//! The `tsoracle` binary, run as a person or an init system would.

mod bench;
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
mod space;
mod stopping;
mod tls;
mod verify;
