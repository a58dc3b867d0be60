use std::{
    fs::File,
    io::{self, BufReader, BufWriter, Write},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::Serialize;
use tsoracle_history::{self as history, Check, Operation};
use tsoracle_verify::{Options, Tls};

use crate::{
    endpoints::{Endpoints, read},
    failure::Failure,
    output::Output,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle verify --endpoint db1,db2,db3        everything, with 10 seconds of load
  tsoracle verify --seconds 60 --callers 64     with more of it
  tsoracle verify --seconds 0                   fields and status codes only
  tsoracle verify --history calls.jsonl         keep what every call asked and got
  tsoracle verify --replay calls.jsonl          check that again, without a server
  tsoracle verify --json | jq '.checks[] | select(.status == \"broken\")'

It asks each call of the protocol, and looks at every field and status code of the answers. Then it
lets many callers loose on all endpoints, and checks what they saw: the order of timestamps, that
none comes twice, that sequences have no gaps. It works with any server that speaks tsoracle.v1;
what a server does not offer, at all or to this client, is listed, and is no failure.

It uses keys that begin with `tsoracle-verify/` and a part drawn at random for each run, which stay behind
afterwards, and some stamping leases and sessions, which it gives back or which run out by themselves.
The load is real: other users of the deployment will notice it.

Exit codes: 0 all that was promised held, 1 it did not or no server could be reached, 2 wrong
arguments.";

/// Options of `tsoracle verify`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoints: Endpoints,

    /// How long many callers ask at the same time; 0 for not at all
    #[arg(long, value_name = "S", default_value_t = 10,
          value_parser = clap::value_parser!(u64).range(..=86_400))]
    seconds: u64,

    /// How many callers that are
    #[arg(long, value_name = "N", default_value_t = 16,
          value_parser = clap::value_parser!(u16).range(1..=1_024))]
    callers: u16,

    /// Write down every call of the load, one line of JSON each
    #[arg(long, value_name = "FILE")]
    history: Option<PathBuf>,

    /// Check what --history wrote, instead of a server
    #[arg(long, value_name = "FILE", conflicts_with_all = ["history", "seconds", "callers"])]
    replay: Option<PathBuf>,

    #[command(flatten)]
    output: Output,
}

/// The answer to `--replay`.
#[derive(Serialize)]
struct Replayed {
    held: bool,
    operations: usize,
    checks: Vec<Check>,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    if let Some(path) = &arguments.replay {
        return replay(path, arguments.output);
    }
    let Arguments { endpoints, seconds, callers, history, output, .. } = arguments;
    let options = Options {
        tls: tls(&endpoints)?,
        token: endpoints.token()?,
        endpoints: endpoints.names().map(Into::into).collect(),
        timeout: endpoints.timeout,
        duration: Duration::from_secs(seconds),
        callers: callers.into(),
    };
    let (verdict, operations) = tsoracle_verify::verify(&options).await.map_err(failure)?;
    if let Some(path) = &history {
        write(path, &operations).map_err(|error| {
            Failure::failed(format!("cannot write {}: {error:#}", path.display()))
        })?;
    }
    output.print(&verdict, || verdict.to_string())?;
    held(&verdict.checks)
}

fn replay(path: &Path, output: Output) -> Result<(), Failure> {
    let unreadable = |error| Failure::failed(format!("cannot read {}: {error:#}", path.display()));
    let file = File::open(path).map_err(unreadable)?;
    let operations = history::read_lines(BufReader::new(file)).map_err(unreadable)?;
    let report = history::check(&operations);
    let (held_all, operations) = (report.held(), operations.len());
    let replayed = Replayed { held: held_all, operations, checks: report.checks };
    output.print(&replayed, || {
        let lines: Vec<String> = replayed.checks.iter().map(Check::to_string).collect();
        format!("{operations} operations\n\n{}", lines.join("\n"))
    })?;
    held(&replayed.checks)
}

/// Success, or which promises do not hold.
fn held(checks: &[Check]) -> Result<(), Failure> {
    let broken: Vec<_> =
        checks.iter().filter(|check| !check.held()).map(|check| check.name).collect();
    match broken.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!("these promises do not hold: {}", broken.join(", ")))),
    }
}

fn write(path: &Path, operations: &[Operation]) -> io::Result<()> {
    let mut file = BufWriter::new(File::create(path)?);
    for operation in operations {
        history::write_line(&mut file, operation)?;
    }
    file.flush()
}

fn tls(endpoints: &Endpoints) -> Result<Option<Tls>, Failure> {
    let Some(ca) = &endpoints.tls_ca else { return Ok(None) };
    let identity = match (&endpoints.tls_cert, &endpoints.tls_key) {
        (Some(cert), Some(key)) => Some((read(cert)?, read(key)?)),
        _ => None,
    };
    Ok(Some(Tls { ca: read(ca)?, identity }))
}

fn failure(error: io::Error) -> Failure {
    match error.kind() {
        io::ErrorKind::InvalidInput => Failure::usage(error),
        io::ErrorKind::NotConnected => {
            Failure::failed(format!("{error:#}; is a server running there?"))
        }
        _ => Failure::failed(error),
    }
}
