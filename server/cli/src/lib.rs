#![doc = include_str!("../README.md")]

mod access;
mod administrators;
mod arguments;
mod ask;
mod backup;
#[doc(hidden)]
pub mod bench;
mod cert;
mod cluster;
mod completions;
mod decode;
mod descriptors;
#[doc(hidden)]
pub mod drivers;
mod encode;
#[doc(hidden)]
pub mod endpoints;
#[doc(hidden)]
pub mod failure;
mod help;
mod init;
mod inspect;
mod leader;
mod leases;
mod log;
mod man;
mod meters;
mod migrate;
#[doc(hidden)]
pub mod output;
mod place;
mod progress;
mod raise;
mod recorder;
mod regular;
mod reload;
mod restore;
mod sequences;
mod serve;
mod service_manager;
mod settings;
mod signals;
mod status;
mod target;
mod time;
mod token;
#[cfg_attr(not(feature = "otlp"), path = "no_traces.rs")]
mod traces;
mod unfinished;
mod verify;
mod web;

use std::process::ExitCode;

use tsoracle_core::supervised;

use self::{
    arguments::{Cli, Command},
    failure::Failure,
};

/// The `tsoracle` program: reads the arguments of the process, and does what they say.
///
/// Its drivers are those of this crate's features, and any other that is linked into the program.
pub fn main() -> ExitCode {
    let cli = Cli::from_arguments(std::env::args_os());
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return Failure::failed(format!("cannot start threads: {error:#}")).report(),
    };
    let outcome = runtime.block_on(supervised("this command", run(cli.command)));
    // Whatever still hangs, a disk for example, must not keep the process.
    runtime.shutdown_background();
    match outcome.map_err(Failure::from).and_then(|outcome| outcome) {
        Ok(()) => {
            log::flush();
            ExitCode::SUCCESS
        }
        Err(failure) => failure.report(),
    }
}

async fn run(command: Command) -> Result<(), Failure> {
    match command {
        Command::Serve(arguments) => serve::run(*arguments).await,
        Command::Ts(arguments) => ask::ts(arguments).await,
        Command::Seq(arguments) => ask::seq(arguments).await,
        Command::SeqRead(arguments) => ask::seq_read(arguments).await,
        Command::SeqList(arguments) => sequences::list(arguments).await,
        Command::SeqSeed(arguments) => sequences::seed(arguments).await,
        Command::SeqDelete(arguments) => sequences::delete(arguments).await,
        Command::SeqOpen(arguments) => sequences::open(arguments).await,
        Command::LeaseAcquire(arguments) => leases::acquire(arguments).await,
        Command::LeaseRenew(arguments) => leases::renew(arguments).await,
        Command::LeaseRelease(arguments) => leases::release(arguments).await,
        Command::Frontier(arguments) => leases::frontier(arguments).await,
        Command::Decode(arguments) => decode::run(&arguments),
        Command::Encode(arguments) => encode::run(&arguments),
        Command::Status(arguments) => status::run(arguments).await,
        Command::Cluster(command) => cluster::run(command).await,
        Command::Reload(arguments) => reload::run(arguments).await,
        Command::Cert(command) => cert::run(command),
        Command::Token(command) => token::run(command),
        Command::Drivers(arguments) => drivers::run(&arguments),
        Command::Init(arguments) => init::run(arguments).await,
        Command::Backup(arguments) => backup::run(arguments).await,
        Command::Inspect(arguments) => inspect::run(arguments).await,
        Command::Restore(arguments) => restore::run(arguments).await,
        Command::Migrate(arguments) => migrate::run(arguments).await,
        Command::Raise(arguments) => raise::run(arguments).await,
        Command::Verify(arguments) => verify::run(*arguments).await,
        Command::Bench(arguments) => bench::run(*arguments).await,
        Command::BenchEcho => bench::echo::serve().await,
        Command::Completions(arguments) => completions::run(&arguments),
        Command::Man(arguments) => man::run(&arguments),
    }
}
