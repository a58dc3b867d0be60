//! Measures a server, and beside it what the machine could do at best.

pub mod baseline;
pub mod disk;
pub mod echo;
pub mod load;
pub mod process;
pub mod report;
pub mod targets;

use std::{path::PathBuf, time::Duration};

use clap::{Args, ValueEnum};
use serde::Serialize;

use self::{
    baseline::Baseline,
    load::Window,
    report::Report,
    targets::{Question, Target},
};
use crate::{endpoints::Endpoints, failure::Failure, output::Output, signals::Signals};

pub const EXAMPLES: &str = "\
Callers run in a closed loop: each has one call under way, and makes the next one when it is
answered. One second before counting begins is for warming up.

Absolute figures depend on the machine. With --baseline, the same callers also call a bare echo over
the same transport, and a bare loop appends to a file and syncs it, in turns with the server, so that
ratios mean something even on a machine that others use.

Examples:
  tsoracle bench                                64 callers ask for timestamps, for 10 s
  tsoracle bench --callers 1024 --baseline      how many times as many as unary calls could be?
  tsoracle bench --op seq --keys 1000 --json    blocks of 1000 sequences; figures for programs
  tsoracle bench --op seq --callers 1 --baseline --dir /var/lib/tsoracle
  tsoracle bench --unary --connections 4        plain gRPC calls, as any client can make them

`--op seq` spends values of the sequences bench-0, bench-1 and so on: try it where that is no loss.

Exit codes: 0 measured, 1 no call succeeded, 2 wrong arguments.";

/// Options of `tsoracle bench`.
#[derive(Args, Debug)]
pub struct Arguments {
    #[command(flatten)]
    load: Load,
}

/// What callers ask for.
#[derive(ValueEnum, Serialize, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
#[serde(rename_all = "lowercase")]
pub enum Op {
    /// Timestamps
    Ts,
    /// Blocks of sequences
    Seq,
}

#[derive(Args, Debug)]
struct Load {
    /// What to ask for
    #[arg(long, value_enum, default_value_t = Op::Ts)]
    op: Op,

    /// How many callers ask at the same time
    #[arg(long, value_name = "N", default_value_t = 64,
          value_parser = clap::value_parser!(u32).range(1..=65_536))]
    callers: u32,

    /// How many timestamps or values each call asks for
    #[arg(long, value_name = "B", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=262_144))]
    batch: u32,

    /// How many sequences are drawn from, with --op seq [default: as many as callers]
    #[arg(long, value_name = "K", value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    keys: Option<u64>,

    /// How long to count, in seconds
    #[arg(long, value_name = "S", default_value = "10", value_parser = seconds)]
    seconds: Duration,

    /// How many connections the callers share
    #[arg(long, value_name = "C", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=1_024))]
    connections: u32,

    /// Make plain unary gRPC calls, to the first server that answers, instead of using the client
    #[arg(long)]
    unary: bool,

    /// Measure a bare echo, and a bare append and fdatasync, in turns with the server
    #[arg(long)]
    baseline: bool,

    /// Where to append and sync, with --baseline; best where the server keeps its state
    #[arg(long, value_name = "DIR", default_value = ".", requires = "baseline")]
    dir: PathBuf,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// How long to warm up before what counts.
const WARM_UP: Duration = Duration::from_secs(1);

/// Reads a time in seconds.
///
/// # Errors
/// What is wrong with the text.
pub fn seconds(text: &str) -> Result<Duration, String> {
    let seconds = text.parse::<f64>().map_err(|error| format!("{error:#}"))?;
    match seconds {
        0.1..=86_400.0 => Ok(Duration::from_secs_f64(seconds)),
        _ => Err("the time must be 0.1 to 86400 seconds".into()),
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    interruptible(arguments.load.run()).await
}

/// Measures until a signal comes. What is measured is dropped then, and ends the servers that it has started.
///
/// # Errors
/// Those of the measurement, or that it was interrupted.
pub async fn interruptible(
    measured: impl Future<Output = Result<(), Failure>>,
) -> Result<(), Failure> {
    let mut signals = Signals::install()?;
    tokio::select! {
        outcome = measured => outcome,
        () = signals.next() => Err(Failure::failed("interrupted")),
    }
}

impl Load {
    async fn run(self) -> Result<(), Failure> {
        let callers = self.callers as usize;
        // A connection without callers would be none.
        let connections = (self.connections as usize).min(callers);
        let keys = self.keys.unwrap_or(u64::from(self.callers));
        let question = Question { op: self.op, batch: self.batch, keys };
        let target = Target::connect(&self.endpoints, connections, self.unary).await?;
        let (measured, baseline) = if self.baseline {
            let mut baseline = Baseline::start(&self.dir, connections).await?;
            let measured = baseline.run(&target, question, callers, self.seconds).await?;
            (measured, Some(baseline))
        } else {
            let window = Window { warm_up: WARM_UP, length: self.seconds };
            (target.measure(question, callers, window, load::is_watched()).await, None)
        };
        target.close().await;
        let measured = measured.some("call")?;
        let report = Report::new(&self, connections, question, &measured, baseline.as_ref());
        self.output.print(&report, || report.text())
    }
}
