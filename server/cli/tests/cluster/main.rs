//! Clusters of real processes: the checks of the conformance suite over each driver that has them,
//! and how long clients notice what happens to a node.

#![allow(clippy::print_stderr, reason = "it says how far it has come")]

mod drivers;
mod failover;
mod table;

use std::process::ExitCode;

fn main() -> ExitCode {
    match failover::rounds() {
        Some(rounds) => failover::measure(rounds, drivers::all()),
        None => tsoracle_testbed::run(drivers::all()),
    }
}
