//! How many instructions a grant, the plan of one request and a commit of 64 take: exact where times are not.
//!
//! Counted by valgrind, and compared with the counts on record in `instructions.txt`. These depend on the
//! compiler and the processor, so they are compared only where both are the same.

#![allow(clippy::print_stdout, reason = "this is what it is for")]

mod common;

use std::{
    collections::BTreeMap,
    env, fmt, fs,
    hint::black_box,
    io,
    path::PathBuf,
    process::{Command, ExitCode},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use common::{EPOCH, advance, commit, open_state, planned};
use tokio::runtime::Builder;
use tsoracle_core::{
    BootTime, Clock, LocalDriver, MemoryStore, Now, Oracle, OracleOptions, state::plan,
};

/// By how much a count may exceed the one on record.
const MOST: f64 = 1.05;

/// How much of each is done, besides as much again: the difference leaves out what is done once.
const PARTS: [(&str, u32); 3] =
    [("grant", 20_000), ("plan of one request", 2_000), ("commit of 64", 50)];

fn main() -> ExitCode {
    let arguments: Vec<String> = env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>()[..] {
        ["run", part, times] => {
            work(part, times.parse().expect("a number"));
            ExitCode::SUCCESS
        }
        // Cargo adds an argument of its own.
        [] | ["--bench"] => check(false),
        ["--write"] | ["--write", "--bench"] | ["--bench", "--write"] => check(true),
        _ => {
            println!("usage: instructions [--write]");
            ExitCode::from(2)
        }
    }
}

/// What is counted.
fn work(part: &str, times: u32) {
    match part {
        "grant" => grants(times),
        "plan of one request" => {
            let mut known = open_state();
            commit(&mut known, &(1..=64).map(|n| advance(n, Some(n))).collect::<Vec<_>>());
            let command = advance(65, Some(65));
            for _ in 0..times {
                black_box(
                    plan(&known, EPOCH, black_box(&command))
                        .expect("all is known")
                        .expect("granted"),
                );
            }
        }
        "commit of 64" => {
            let mut known = open_state();
            for round in 0..u64::from(times) {
                let commands: Vec<_> = (1..=64).map(|n| advance(n, Some(round * 64 + n))).collect();
                let next = known.version().next(7).expect("there are numbers left");
                let (effect, writes) = planned(&known, &commands).finish(next);
                black_box(effect.encode().expect("it can be encoded"));
                known.advance(next, writes);
            }
        }
        other => panic!("{other:?} is no part"),
    }
}

/// Time that stands still: reading the system's clocks is not counted, and nothing is renewed meanwhile.
#[derive(Debug)]
struct Still(Now);

#[async_trait]
impl Clock for Still {
    fn now(&self) -> Now {
        self.0
    }

    async fn sleep_until(&self, _: BootTime) {
        std::future::pending().await
    }
}

fn grants(times: u32) {
    let runtime = Builder::new_current_thread().enable_all().build().expect("a runtime");
    let boot = BootTime::default() + Duration::from_secs(3_600);
    // The driver gets this clock as well: under valgrind a program that reads the system's clock crashes.
    let clock = Arc::new(Still(Now { wall_ms: 1_800_000_000_000, boot }));
    let oracle = runtime.block_on(async {
        let driver = LocalDriver::open_by(clock.clone(), || Ok(MemoryStore::default()));
        let driver = driver.await.expect("memory opens");
        let options = OracleOptions { clock, ..OracleOptions::default() };
        let oracle = Oracle::start(driver, options).expect("the options are valid");
        oracle.get_ts(1).await.expect("it serves");
        oracle
    });
    for _ in 0..times {
        black_box(oracle.try_get_ts(black_box(1)).expect("a valid count").expect("it serves"));
    }
}

/// Counts, with what they depend on.
#[derive(PartialEq, Debug)]
struct Counts {
    compiler: String,
    processor: String,
    parts: BTreeMap<String, f64>,
}

impl fmt::Display for Counts {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "compiler: {}\nprocessor: {}", self.compiler, self.processor)?;
        self.parts.iter().try_for_each(|(part, count)| writeln!(f, "{part}: {count:.0}"))
    }
}

impl Counts {
    fn read(text: &str) -> Option<Self> {
        let mut lines: BTreeMap<_, _> =
            text.lines().filter_map(|line| line.split_once(": ")).collect();
        let (compiler, processor) =
            (lines.remove("compiler")?.into(), lines.remove("processor")?.into());
        let parts = lines.into_iter().map(|(part, count)| Some((part.into(), count.parse().ok()?)));
        Some(Self { compiler, processor, parts: parts.collect::<Option<_>>()? })
    }
}

fn check(write: bool) -> ExitCode {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("benches/instructions.txt");
    let counted = match count() {
        Ok(counted) => counted,
        Err(error) if error.kind() == io::ErrorKind::NotFound && !write => {
            println!("skipped: valgrind is not there to count instructions");
            return ExitCode::SUCCESS;
        }
        Err(error) => {
            println!("cannot count instructions: {error}");
            return ExitCode::FAILURE;
        }
    };
    if write {
        fs::write(&path, counted.to_string()).expect("the counts can be written");
        print!("{counted}");
        return ExitCode::SUCCESS;
    }
    let kept = fs::read_to_string(&path).ok().and_then(|text| Counts::read(&text));
    let Some(kept) = kept else {
        println!("{} cannot be read: write it with --write", path.display());
        return ExitCode::FAILURE;
    };
    compare(&counted, &kept)
}

fn compare(counted: &Counts, kept: &Counts) -> ExitCode {
    if (&counted.compiler, &counted.processor) != (&kept.compiler, &kept.processor) {
        print!("{counted}");
        println!("skipped: the counts on record are of {}, {}", kept.compiler, kept.processor);
        return ExitCode::SUCCESS;
    }
    let mut outcome = ExitCode::SUCCESS;
    for (part, count) in &counted.parts {
        let ratio = kept.parts.get(part).map_or(f64::INFINITY, |kept| count / kept);
        println!("{part}: {count:.0} instructions, {ratio:.3} of those on record");
        if ratio > MOST {
            println!("{part}: more by over 5 %: mend it, or keep it with --write and say why");
            outcome = ExitCode::FAILURE;
        }
        if ratio < 2.0 - MOST {
            println!("{part}: less by over 5 %; keep it with --write");
        }
    }
    outcome
}

fn count() -> io::Result<Counts> {
    let mut parts = BTreeMap::new();
    for (part, times) in PARTS {
        let (once, twice) = (counted(part, times)?, counted(part, 2 * times)?);
        parts.insert(part.into(), ((twice - once) / f64::from(times)).round());
    }
    let compiler = Command::new("rustc").arg("--version").output()?;
    let compiler = String::from_utf8_lossy(&compiler.stdout).trim().to_owned();
    let processors = fs::read_to_string("/proc/cpuinfo").unwrap_or_default();
    let model =
        processors.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let processor = model.map_or("unknown", |(_, model)| model).to_owned();
    Ok(Counts { compiler, processor, parts })
}

/// The instructions of this program when it does so much.
fn counted(part: &str, times: u32) -> io::Result<f64> {
    let output = Command::new("valgrind")
        .args(["--tool=cachegrind", "--cache-sim=no", "--cachegrind-out-file=/dev/null"])
        .arg(env::current_exe()?)
        .args(["run", part, &times.to_string()])
        .output()?;
    let printed = String::from_utf8_lossy(&output.stderr);
    // "I refs:" in some versions, and more blanks between in others.
    let refs = printed.lines().find_map(|line| {
        let (name, count) = line.split_once("refs:")?;
        name.trim_end().ends_with('I').then_some(count)
    });
    let count = refs.map(|count| count.trim().replace(',', "").parse());
    match count {
        Some(Ok(count)) if output.status.success() => Ok(count),
        _ => Err(io::Error::other(format!("valgrind printed: {printed}"))),
    }
}
