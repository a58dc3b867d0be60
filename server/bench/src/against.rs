//! Another build beside this one: the same loads, in turns, each through its own client to its own server.

use std::{
    fmt::Write as _,
    io::{Write as _, stderr},
    path::{Path, PathBuf},
    time::Duration,
};

use clap::Args;
use serde::{Deserialize, Serialize};

use tsoracle::bench::{
    baseline::median,
    process::{Process, command, output},
    report::{rounded, thousands},
    seconds,
};
use tsoracle::{failure::Failure, output::Output};

/// Options of `tsoracle-bench against`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The other build of this program
    other: PathBuf,

    /// Where to keep the servers' state, in a directory that is removed
    #[arg(long, value_name = "DIR", default_value = ".")]
    dir: PathBuf,

    /// How often everything is measured, in turns
    #[arg(long, value_name = "N", default_value_t = 7,
          value_parser = clap::value_parser!(u32).range(1..=100))]
    rounds: u32,

    /// How long each load is measured in each round, in seconds
    #[arg(long, value_name = "S", default_value = "1", value_parser = seconds)]
    slice: Duration,

    /// The least ratio of this build's calls per second to the other's
    #[arg(long, value_name = "RATIO", default_value_t = 0.95)]
    least: f64,

    #[command(flatten)]
    output: Output,
}

/// What is asked of both, as arguments of `tsoracle bench`.
const LOADS: [(&str, &str); 8] = [
    ("GetTs, unary, 64 callers", "--unary --callers 64"),
    ("get_ts, 1 caller", "--callers 1"),
    ("get_ts, 64 callers", "--callers 64"),
    ("get_ts, 1024 callers", "--callers 1024"),
    ("GetSeq, unary, 64 callers, 64 keys", "--op seq --unary --callers 64"),
    ("get_seq, 1 caller", "--op seq --callers 1"),
    ("get_seq, 64 callers, 64 keys", "--op seq --callers 64"),
    ("get_seq, 1024 callers, 1000 keys", "--op seq --callers 1024 --keys 1000"),
];

/// One load, this build's calls per second over the other's.
#[derive(Serialize, Debug)]
struct Compared {
    load: &'static str,
    /// The medians of both, this one first.
    calls_per_second: [f64; 2],
    /// Round by round.
    ratios: Vec<f64>,
    median: f64,
    lowest: f64,
    highest: f64,
    /// Below the least, and in no round on a par.
    is_slower: bool,
}

impl Compared {
    fn of(load: &'static str, runs: &[[f64; 2]], least: f64) -> Self {
        let ratios: Vec<_> = runs.iter().map(|[ours, other]| ours / other).collect();
        let middle = |which: usize| median(&runs.iter().map(|run| run[which]).collect::<Vec<_>>());
        let lowest = ratios.iter().copied().fold(f64::INFINITY, f64::min);
        let highest = ratios.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        // A spread that reaches as far as one explains any median.
        let is_slower = median(&ratios) < least && highest < 1.0;
        Self {
            load,
            calls_per_second: [0, 1].map(|which| rounded(middle(which), 10.0)),
            median: rounded(median(&ratios), 1e4),
            lowest: rounded(lowest, 1e4),
            highest: rounded(highest, 1e4),
            ratios: ratios.into_iter().map(|ratio| rounded(ratio, 1e4)).collect(),
            is_slower,
        }
    }
}

/// A build, and a server of it.
struct Build {
    program: PathBuf,
    server: Process,
}

impl Build {
    fn start(program: PathBuf, home: &Path, name: &str) -> Result<Self, Failure> {
        let driver = format!("file:./{name}");
        let serve = ["serve", &driver, "--listen", "127.0.0.1:0", "--log", "off"];
        let server = Process::start_other(&program, home, &serve)?;
        Ok(Self { program, server })
    }

    /// How many calls a second its client makes.
    fn measure(&self, home: &Path, load: &str, slice: &str) -> Result<f64, Failure> {
        #[derive(Deserialize)]
        struct Report {
            calls_per_second: f64,
        }
        let endpoint = ["--endpoint", &self.server.address, "--json", "--seconds", slice];
        let arguments: Vec<_> =
            ["bench"].into_iter().chain(endpoint).chain(load.split(' ')).collect();
        let text = output(command(&self.program, home, &arguments))?;
        let report: Report = serde_json::from_str(text.trim()).map_err(|error| {
            let program = self.program.display();
            Failure::failed(format!("{program} does not report as expected: {error}: {text}"))
        })?;
        Ok(report.calls_per_second)
    }
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    let absolute = |path| std::path::absolute(path).map_err(Failure::failed);
    let own = std::env::current_exe().map_err(Failure::failed)?;
    let home = tempfile::Builder::new()
        .prefix("tsoracle-bench-")
        .tempdir_in(absolute(&arguments.dir)?)
        .map_err(|error| Failure::failed(format!("cannot write: {error}")))?;
    let builds = [
        Build::start(own, home.path(), "ours")?,
        Build::start(absolute(&arguments.other)?, home.path(), "other")?,
    ];
    let slice = arguments.slice.as_secs_f64().to_string();
    let mut runs = vec![vec![]; LOADS.len()];
    for round in 1..=arguments.rounds {
        // Who does not listen misses nothing.
        let _ = writeln!(stderr(), "round {round} of {}", arguments.rounds);
        for ((_, load), runs) in LOADS.iter().zip(&mut runs) {
            let mut rates = [0.0; 2];
            // Each goes first every other time.
            let first = round as usize % 2;
            for which in [first, 1 - first] {
                rates[which] = builds[which].measure(home.path(), load, &slice)?;
            }
            runs.push(rates);
        }
    }
    let compared: Vec<_> = LOADS
        .iter()
        .zip(&runs)
        .map(|((load, _), runs)| Compared::of(load, runs, arguments.least))
        .collect();
    arguments.output.print(&compared, || text(&compared))?;
    let slower: Vec<_> = compared.iter().filter(|one| one.is_slower).map(|one| one.load).collect();
    match slower.is_empty() {
        true => Ok(()),
        false => Err(Failure::failed(format!(
            "slower than {} by more than the spread explains: {}",
            arguments.other.display(),
            slower.join("; ")
        ))),
    }
}

fn text(compared: &[Compared]) -> String {
    let width = compared.iter().map(|one| one.load.len()).max().unwrap_or_default();
    let mut text =
        format!("{:width$}  {:>11}  {:>11}  ratio (spread)", "calls a second", "this", "other");
    for Compared {
        load,
        calls_per_second: [ours, other],
        median,
        lowest,
        highest,
        is_slower,
        ..
    } in compared
    {
        let mark = if *is_slower { "  SLOWER" } else { "" };
        let (ours, other) = (thousands(*ours), thousands(*other));
        // Writing to a string cannot fail.
        let _ = write!(
            text,
            "\n{load:width$}  {ours:>11}  {other:>11}  {median:.2} ({lowest:.2} to {highest:.2}){mark}"
        );
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    fn slower(ratios: &[f64]) -> bool {
        let runs: Vec<_> = ratios.iter().map(|ratio| [ratio * 200.0, 200.0]).collect();
        let compared = Compared::of("load", &runs, 0.95);
        assert_eq!(compared.ratios, ratios);
        compared.is_slower
    }

    #[test]
    fn slower_is_what_the_spread_does_not_explain() {
        assert!(slower(&[0.9, 0.93, 0.99]));
        assert!(!slower(&[0.9, 0.93, 1.0]), "it was on a par once");
        assert!(!slower(&[0.9, 0.96, 0.99]), "not by much");
        assert!(!slower(&[1.1, 1.2, 1.3]));
    }
}
