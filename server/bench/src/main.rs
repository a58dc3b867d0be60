//! Measures everything that docs/PERFORMANCE.md promises, and one build beside another.
//!
//! Any other command is one of the `tsoracle` program, which this one starts its servers as.

mod against;
mod floods;
mod suite;

use std::{ffi::OsString, process::ExitCode};

use clap::{Parser, Subcommand};
use tsoracle::{bench::interruptible, failure::Failure};

/// As the program that is measured.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const SUITE_EXAMPLES: &str = "\
Starts servers of its own, with their state below --dir, and needs some minutes on an otherwise
quiet machine. Every ratio is measured in turns with what it is compared with. What is not reached
is shown as such, and is no error.

Examples:
  tsoracle-bench suite
  tsoracle-bench suite --dir /var/lib --write docs/PERFORMANCE.md";

const AGAINST_EXAMPLES: &str = "\
Each build asks its own server, with its own client, in turns with the other one. It is slower where the
median of the ratios lies below --least, and none of them reaches 1: what the spread explains is no
difference.

Examples:
  tsoracle-bench against ./tsoracle-before
  make bench-against REV=v0.1.0                 builds that one, and measures

Exit codes: 0 no slower, 1 slower, or not measured, 2 wrong arguments.";

const FLOODS_EXAMPLES: &str = "\
For each kind of flood, starts a server over the file driver, measures one caller at an address of its own,
alone and beside a client at another one that floods, and prints a line of a table: docs/PERFORMANCE.md
has it. The client that floods is of the lowest priority, since it shares the machine.

Examples:
  tsoracle-bench floods
  tsoracle-bench floods sessions unread --slice 5";

/// Measures tsoracle on this machine.
#[derive(Parser, Debug)]
#[command(name = "tsoracle-bench", version)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Subcommand, Debug)]
enum Command {
    /// Measure everything that docs/PERFORMANCE.md promises, and write its table
    #[command(after_help = SUITE_EXAMPLES)]
    Suite(Box<suite::Arguments>),
    /// Measure this build beside another one, and fail if it is slower
    #[command(after_help = AGAINST_EXAMPLES)]
    Against(against::Arguments),
    /// Measure what a client notices of another one that asks for everything
    #[command(after_help = FLOODS_EXAMPLES)]
    Floods(floods::Arguments),
    #[command(hide = true)]
    Flood(floods::FloodArguments),
    #[command(external_subcommand)]
    Other(#[expect(dead_code, reason = "they are read again as they were given")] Vec<OsString>),
}

fn main() -> ExitCode {
    let command = match Cli::parse().command {
        Command::Other(_) => return tsoracle::main(),
        command => command,
    };
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start threads: {error}")).report(),
    };
    let measured = async {
        match command {
            Command::Suite(arguments) => suite::run(*arguments).await,
            Command::Against(arguments) => against::run(arguments).await,
            Command::Floods(arguments) => floods::run_all(arguments).await,
            Command::Flood(arguments) => floods::flood(arguments).await,
            Command::Other(_) => Ok(()),
        }
    };
    match runtime.block_on(interruptible(measured)) {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => failure.report(),
    }
}
