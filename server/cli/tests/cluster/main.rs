//! Clusters of real processes: the checks of the conformance suite over each driver that has them,
//! and how long clients notice what happens to a node.

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
