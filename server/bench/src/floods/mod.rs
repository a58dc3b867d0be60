//! What a client notices of another one that asks for everything.

mod client;
mod kind;

use std::{
    path::{Path, PathBuf},
    process::{Child, Stdio},
    time::Duration,
};

use clap::Args;
use rustix::process::{getpid, setpriority_process};
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};

use self::{client::Modest, kind::Kind};
use crate::suite::{
    machine,
    quiet::{Noise, Part},
};
use tsoracle::{
    bench::{
        load::{Measured, Window, run},
        process::{Process, command},
        seconds,
    },
    failure::Failure,
    output::print_line,
};

/// Options of `tsoracle-bench floods`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// Where to keep the servers' state, in a directory that is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// How long each load is measured, in seconds
    #[arg(long, value_name = "S", default_value = "2", value_parser = seconds)]
    slice: Duration,

    /// Which kinds of flood [default: all]
    #[arg(value_enum)]
    kinds: Vec<Kind>,
}

/// Options of the process that floods.
#[derive(Args, Debug)]
pub(crate) struct FloodArguments {
    #[arg(value_enum)]
    kind: Kind,
    /// The server's
    address: String,
}

/// By how much the p99 of sequences, and of timestamps, may grow.
const GOALS: [(bool, &str, f64); 2] = [(true, "sequences", 10.0), (false, "timestamps", 5.0)];

/// How long a flood has had before it is measured what others notice.
const RISES: Duration = Duration::from_millis(300);

/// A client that floods, in a process of its own. It ends with this value.
struct Flood(Child);

impl Flood {
    fn start(home: &Path, kind: Kind, address: &str) -> Result<Self, Failure> {
        let own = std::env::current_exe().map_err(Failure::failed)?;
        let mut command = command(&own, home, &["flood", &kind.argument(), address]);
        command.stdin(Stdio::null());
        Ok(Self(command.spawn().map_err(Failure::failed)?))
    }

    fn check(&mut self) -> Result<(), Failure> {
        match self.0.try_wait() {
            Ok(None) => Ok(()),
            ended => Err(Failure::failed(format!("the flood has ended: {ended:?}"))),
        }
    }
}

impl Drop for Flood {
    fn drop(&mut self) {
        // Fails only if it has ended already.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The process that floods. It has what the server and the other client leave of the machine: a client elsewhere
/// would take nothing of it.
pub(crate) async fn flood(arguments: FloodArguments) -> Result<(), Failure> {
    setpriority_process(Some(getpid()), 19).map_err(Failure::failed)?;
    client::flood(arguments.kind, &arguments.address).await
}

/// Prints a table of what is measured.
pub(crate) async fn run_all(arguments: Arguments) -> Result<(), Failure> {
    let home = tempfile::Builder::new().prefix("tsoracle-floods-").tempdir_in(&arguments.dir);
    let home: TempDir = home.map_err(Failure::failed)?;
    let kinds = if arguments.kinds.is_empty() { &Kind::ALL[..] } else { &arguments.kinds };
    let mut noise = Noise::default();
    print_line(
        "| one client floods | another one asks for | p99 before | meanwhile | ratio | goal | calls | failed | server's memory |",
    )?;
    print_line("|---|---|---:|---:|---:|---:|---:|---:|---:|")?;
    for kind in kinds {
        let part = Part::begin();
        for line in measure(home.path(), *kind, arguments.slice).await? {
            print_line(&line)?;
        }
        noise.note(part);
    }
    print_line(&noise.text())
}

/// The lines of one kind of flood.
async fn measure(home: &Path, kind: Kind, slice: Duration) -> Result<Vec<String>, Failure> {
    let driver = format!("file:./{}", kind.argument());
    let server =
        Process::start(home, &["serve", &driver, "--listen", "127.0.0.1:0", "--log", "off"])?;
    let modest = Modest::connect(&server.address).await?;
    let window = Window { warm_up: slice / 4, length: slice };
    let one = |sequences, number| {
        let modest = modest.asking(sequences, number);
        async move { run(vec![modest], window, false).await }
    };
    let mut before = vec![];
    for (sequences, ..) in GOALS {
        before.push(one(sequences, 0).await.some("call")?);
    }
    let mut flood = Flood::start(home, kind, &server.address)?;
    SystemClock.sleep(RISES).await;
    let mut lines = vec![];
    for ((sequences, asked, goal), before) in GOALS.into_iter().zip(before) {
        let meanwhile = one(sequences, 1).await;
        flood.check()?;
        let memory = machine::resident_mb(server.pid())?;
        lines.push(line(kind, (asked, goal), &before, &meanwhile, memory));
    }
    Ok(lines)
}

fn line(
    kind: Kind,
    (asked, goal): (&str, f64),
    before: &Measured,
    meanwhile: &Measured,
    memory: f64,
) -> String {
    let p99 = |measured: &Measured| measured.quantile_us(0.99);
    let ratio = p99(meanwhile) / p99(before);
    let failed: u64 = before.errors.values().chain(meanwhile.errors.values()).sum();
    let why = meanwhile.last_error.as_ref().map(|error| format!(" ({error})")).unwrap_or_default();
    format!(
        "| {} | {asked} | {:.0} µs | {:.0} µs | {ratio:.1} × | {goal} × | {} | {failed}{why} | {memory:.0} MB |",
        kind.name(),
        p99(before),
        p99(meanwhile),
        meanwhile.calls
    )
}
