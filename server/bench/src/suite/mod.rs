//! Everything that docs/PERFORMANCE.md promises, measured in one run.

mod clusters;
mod external;
mod figures;
mod grants;
pub(crate) mod machine;
mod many;
pub(crate) mod quiet;
mod records;
mod table;

use std::{
    collections::BTreeMap,
    io::{Write as _, stderr},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use clap::Args;
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};

use self::{
    quiet::{Noise, Part},
    records::{Kind, Records, Run, Spec},
};
use tsoracle::bench::{
    Op,
    disk::Disk,
    echo,
    load::{Measured, Window, now},
    process::Process,
    seconds,
    targets::{Question, Target},
};
use tsoracle::{endpoints::Endpoints, failure::Failure, output::print_line};

/// Options of `tsoracle-bench suite`.
#[derive(Args, Default, Debug)]
pub(crate) struct Arguments {
    /// Where to append and sync, and to keep the servers' state in a directory that is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// Write the table between the markers in this file, instead of printing it
    #[arg(long, value_name = "FILE")]
    write: Option<PathBuf>,

    /// How often everything is measured, in turns
    #[arg(long, value_name = "N", default_value_t = 5,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// How long each load is measured in each round, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    slice: Duration,

    /// How long tails are measured in each round, in seconds
    #[arg(long, value_name = "S", default_value = "12", value_parser = seconds)]
    tail: Duration,

    /// How long the idle server is left alone before and while it is watched, in seconds
    #[arg(long, value_name = "S", default_value = "40", value_parser = seconds)]
    idle: Duration,

    /// How many keys to put into the store for the figures of a large one
    #[arg(long, value_name = "K", default_value_t = 1_000_000,
          value_parser = clap::value_parser!(u64).range(1..=100_000_000))]
    stored_keys: u64,

    /// How long all keys of the large store are drawn from, in seconds
    #[arg(long, value_name = "S", default_value = "30", value_parser = seconds)]
    spread: Duration,

    /// How long to wait for a machine that others leave alone, in seconds, before it is measured all the
    /// same
    #[arg(long, value_name = "S", default_value = "120", value_parser = waiting)]
    wait: Duration,

    /// The program that serves, and asks, as the public crates do: see server/examples/public
    #[arg(long, value_name = "FILE")]
    public: Option<PathBuf>,
}

/// The drivers whose clusters are measured.
pub(crate) const CLUSTERS: [&str; 2] = ["openraft", "omnipaxos"];

fn waiting(text: &str) -> Result<Duration, String> {
    let seconds = text.parse().map_err(|error: std::num::ParseFloatError| error.to_string())?;
    Duration::try_from_secs_f64(seconds).map_err(|error| error.to_string())
}

/// What has been measured so far.
#[derive(Debug, Default)]
pub(crate) struct Results {
    pub(crate) records: Records,
    /// Figures that are no loads, run by run.
    pub(crate) single: BTreeMap<&'static str, Vec<f64>>,
    pub(crate) noise: Noise,
    /// What could not be measured, and why.
    pub(crate) notes: Vec<String>,
}

impl Results {
    fn add(&mut self, name: &'static str, figure: f64) {
        self.single.entry(name).or_default().push(figure);
    }

    /// A part that fails must not hide the others.
    fn note(&mut self, what: &str, outcome: Result<(), Failure>) {
        if let Err(failure) = outcome {
            say(&format!("not measured: {what}: {failure}"));
            self.notes.push(format!("{what}: {failure}"));
        }
    }
}

/// The servers, and connections to them.
struct Suite {
    arguments: Arguments,
    server: Process,
    _echo_server: Process,
    disk: Disk,
    /// By number of connections.
    echo: BTreeMap<u32, Target>,
    unary: BTreeMap<u32, Target>,
    client: Target,
    // Removed last, when no server uses it any more.
    home: TempDir,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let started = now();
    // Wrong markers should be known before minutes have passed.
    if let Some(path) = &arguments.write {
        table::check(path)?;
    }
    let noise = Noise::wait(arguments.wait).await?;
    let mut suite = Suite::start(arguments).await?;
    let mut results = Results { noise, ..Results::default() };
    let idle = Idle::start(suite.home.path()).await?;
    let outcome = suite.rounds(&mut results).await;
    results.note("loads", outcome);
    let outcome = suite.tails(&mut results).await;
    results.note("tails", outcome);
    say("grants in the engine");
    let outcome =
        grants::measure(suite.arguments.rounds, suite.arguments.slice, &mut results).await;
    results.note("grants", outcome);
    let watched = idle.watch(suite.arguments.idle).await;
    let outcome = many::measure(&suite, &mut results).await;
    results.note("a large store", outcome);
    let outcome = match watched {
        Ok(watched) => idle.finish(watched, suite.arguments.idle, &mut results).await,
        Err(failure) => Err(failure),
    };
    results.note("the idle server", outcome);
    for driver in CLUSTERS {
        let outcome = clusters::measure(&suite, driver, &mut results).await;
        results.note(&format!("a cluster of {driver}"), outcome);
    }
    let outcome = external::etcd(&suite, &mut results).await;
    results.note("sequences over etcd", outcome);
    let outcome = external::redis(&suite, &mut results).await;
    results.note("Redis", outcome);
    let outcome = external::public(&suite, &mut results).await;
    results.note("the public client and server", outcome);
    let figures = figures::all(&results, &suite.arguments);
    let text = table::markdown(&figures, &results, &suite.arguments, now() - started);
    match &suite.arguments.write {
        Some(path) => table::write(path, &text),
        None => print_line(&text),
    }
}

/// Says on standard error what is measured now.
fn say(what: &str) {
    // Who does not listen misses nothing.
    let _ = writeln!(stderr(), "{what}");
}

/// Serves, with the state in a directory of that name.
fn serve(home: &Path, name: &str) -> Result<Process, Failure> {
    let driver = format!("file:./{name}");
    Process::start(home, &["serve", &driver, "--listen", "127.0.0.1:0", "--log", "off"])
}

impl Suite {
    async fn start(arguments: Arguments) -> Result<Self, Failure> {
        let within = arguments.dir.display();
        let home = tempfile::Builder::new()
            .prefix("tsoracle-bench-")
            .tempdir_in(&arguments.dir)
            .map_err(|error| Failure::failed(format!("cannot write in {within}: {error}")))?;
        let server = serve(home.path(), "data")?;
        let echo_server = echo::start()?;
        let (mut echo, mut unary) = (BTreeMap::new(), BTreeMap::new());
        let at = |process: &Process| Endpoints::local(&process.address);
        for connections in [1, 4] {
            let many = connections as usize;
            echo.insert(connections, Target::connect(&at(&echo_server), many, true).await?);
            unary.insert(connections, Target::connect(&at(&server), many, true).await?);
        }
        let client = Target::connect(&at(&server), 1, false).await?;
        let disk = Disk::open(&arguments.dir)?;
        Ok(Self { arguments, home, server, _echo_server: echo_server, disk, echo, unary, client })
    }

    /// All loads, again and again, each beside what it is compared with.
    async fn rounds(&mut self, results: &mut Results) -> Result<(), Failure> {
        let window = Window { warm_up: self.arguments.slice, length: self.arguments.slice };
        self.measure(Spec::echo(64, 1), window).await?;
        self.measure(Spec::ts(64, 1), window).await?;
        let window = Window { warm_up: self.arguments.slice / 4, ..window };
        for round in 1..=self.arguments.rounds {
            say(&format!("round {round} of {}", self.arguments.rounds));
            let part = Part::begin();
            for spec in records::ROUND {
                let measured = self.measure(*spec, window).await?;
                results.records.add(*spec, Run::of(&measured));
            }
            results.noise.note(part);
        }
        Ok(())
    }

    /// Long enough that many renewals fall into each run.
    async fn tails(&mut self, results: &mut Results) -> Result<(), Failure> {
        let length = self.arguments.tail;
        let window = Window { warm_up: length / 12, length };
        for round in 1..=self.arguments.rounds {
            say(&format!("tails, {round} of {}", self.arguments.rounds));
            let part = Part::begin();
            for spec in [Spec::ECHO_TAIL, Spec::TS_TAIL] {
                let measured = self.measure(spec, window).await?;
                results.records.add(spec, Run::of(&measured));
            }
            results.noise.note(part);
        }
        Ok(())
    }

    /// What each load is measured in.
    fn window(&self) -> Window {
        Window { warm_up: self.arguments.slice / 4, length: self.arguments.slice }
    }

    /// The rounds of something, each announced as it comes.
    fn rounds_of(&self, what: &str) -> impl Iterator<Item = Part> + use<> {
        let (what, rounds) = (what.to_owned(), self.arguments.rounds);
        (1..=rounds).map(move |round| {
            say(&format!("{what}, {round} of {rounds}"));
            Part::begin()
        })
    }

    /// One load of sequences or timestamps, in the usual window.
    async fn load(&self, target: &Target, spec: Spec) -> Measured {
        self.load_for(target, spec, self.window()).await
    }

    async fn load_for(&self, target: &Target, spec: Spec, window: Window) -> Measured {
        let Spec { kind, callers, keys, .. } = spec;
        let op = match kind {
            Kind::UnarySeq | Kind::ClientSeq => Op::Seq,
            _ => Op::Ts,
        };
        let keys = if keys == 0 { self.arguments.stored_keys } else { keys };
        let question = Question { op, batch: 1, keys };
        target.measure(question, callers as usize, window, false).await
    }

    async fn measure(&mut self, spec: Spec, window: Window) -> Result<Measured, Failure> {
        let target = match spec.kind {
            // Syncing for half of the time tells as much.
            Kind::Disk => return self.disk.measure(window.length / 2),
            Kind::Echo => self.echo.get(&spec.connections),
            Kind::UnaryTs | Kind::UnarySeq => self.unary.get(&spec.connections),
            Kind::ClientTs | Kind::ClientSeq => Some(&self.client),
            Kind::Other => None,
        };
        let target = target.ok_or_else(|| Failure::failed(format!("there is no load {spec:?}")))?;
        Ok(self.load_for(target, spec, window).await)
    }
}

/// A server that was asked once, and then no more.
struct Idle {
    server: Process,
    since: Instant,
}

impl Idle {
    async fn start(home: &Path) -> Result<Self, Failure> {
        let server = serve(home, "idle")?;
        Endpoints::local(&server.address).connect().await?.get_ts().await?;
        Ok(Self { server, since: now() })
    }

    /// What it had written once its lease had run out, and when that was.
    async fn watch(&self, length: Duration) -> Result<(f64, Instant), Failure> {
        SystemClock.sleep(length.saturating_sub(now() - self.since)).await;
        Ok((machine::written_bytes(self.server.pid())?, now()))
    }

    async fn finish(
        &self,
        (before, since): (f64, Instant),
        length: Duration,
        results: &mut Results,
    ) -> Result<(), Failure> {
        say("the idle server");
        SystemClock.sleep(length.saturating_sub(now() - since)).await;
        results.add("idle writes", machine::written_bytes(self.server.pid())? - before);
        results.add("idle memory", machine::resident_mb(self.server.pid())?);
        Ok(())
    }
}
