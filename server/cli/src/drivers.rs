use std::{fmt::Write as _, path::PathBuf, sync::Arc, time::Duration};

use clap::Args;
use rustix::{fs::Mode, process::umask};
use serde::{Deserialize, Serialize};
use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, OpenContext, Registry, SystemClock,
    wait_until_leader,
};

use crate::{
    failure::{Failure, usage_if_config},
    output::Output,
    unfinished,
};

/// How long a cluster may take to elect this node.
pub(crate) const ELECTION: Duration = Duration::from_secs(30);

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle drivers
  tsoracle drivers --json | jq -r '.[].name'";

/// The drivers that this program can be built with.
const FEATURES: [&str; 5] = ["etcd", "file", "omnipaxos", "openraft", "rocksdb"];

/// Options of `tsoracle drivers`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Described {
    name: &'static str,
    summary: &'static str,
    options: Vec<Choice>,
}

#[derive(Serialize)]
struct Choice {
    name: &'static str,
    default: &'static str,
    help: &'static str,
}

/// The drivers of this build.
fn registry() -> Result<Registry, Failure> {
    tsoracle_drivers::link();
    Ok(Registry::linked()?)
}

/// That there is a driver of that name, which is sooner known than whether it can be opened.
pub fn check(name: &str) -> Result<(), Failure> {
    registry()?.find(name).map(drop).map_err(|error| match FEATURES.contains(&name) {
        true => Failure::usage(format!(
            "the driver {name} is not part of this program; build one with it: \
             cargo build --release --features {name}"
        )),
        false => usage_if_config(error),
    })
}

/// The directory in which a driver keeps its state, if it has one of its own.
pub(crate) fn directory(config: &DriverConfig) -> Result<Option<PathBuf>, Failure> {
    /// What any driver's options may have besides.
    #[derive(Deserialize)]
    struct Place {
        path: Option<PathBuf>,
    }
    let registry = registry()?;
    let options = registry.find(config.name()).map_err(usage_if_config)?.options;
    let is_elsewhere = options.iter().any(|option| option.name == "authority");
    let Some(path) = options.iter().find(|option| option.name == "path" && !is_elsewhere) else {
        return Ok(None);
    };
    let place: Place = config.options().map_err(usage_if_config)?;
    Ok(Some(place.path.unwrap_or_else(|| path.default.into())))
}

/// Opens a driver over which no server runs, does `work` once this node leads, and stops the driver.
pub(crate) async fn while_leading<T>(
    config: DriverConfig,
    work: impl AsyncFnOnce(&Arc<dyn ConsensusDriver>) -> Result<T, Failure>,
) -> Result<T, Failure> {
    let driver = open(config, OpenContext::default()).await?;
    let worked = match wait_until_leader(&*driver, &SystemClock, ELECTION).await {
        Ok(_) => work(&driver).await,
        Err(error) => Err(error.into()),
    };
    let stopped = driver.shutdown().await;
    let worked = worked?;
    stopped?;
    Ok(worked)
}

/// Whatever this process makes from now on is nobody else's to read.
pub(crate) fn keep_to_oneself() {
    umask(Mode::RWXG | Mode::RWXO);
}

/// Opens the driver that `config` names, whose state is whole if there is one.
pub(crate) async fn open(
    config: DriverConfig,
    context: OpenContext,
) -> Result<Arc<dyn ConsensusDriver>, Failure> {
    check(config.name())?;
    unfinished::refuse(&config)?;
    open_target(config, context).await
}

/// The same, for a state that need not be whole yet.
pub(crate) async fn open_target(
    config: DriverConfig,
    context: OpenContext,
) -> Result<Arc<dyn ConsensusDriver>, Failure> {
    let registry = registry()?;
    keep_to_oneself();
    // What is not there to choose from is a wrong argument; all else may be mended elsewhere.
    let known = registry.find(config.name()).is_ok_and(|driver| {
        let valid = |key: &&str| driver.options.iter().any(|option| option.name == *key);
        config.keys().iter().all(valid)
    });
    registry.open(config, context).await.map_err(|error| match known {
        true => error.into(),
        false => usage_if_config(error),
    })
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let drivers: Vec<Described> = registry()?.drivers().map(describe).collect();
    arguments.output.print(&drivers, || text(&drivers))
}

fn describe(driver: &DriverFactory) -> Described {
    let options = driver.options.iter().map(|option| Choice {
        name: option.name,
        default: option.default,
        help: option.help,
    });
    Described { name: driver.name, summary: driver.summary, options: options.collect() }
}

fn text(drivers: &[Described]) -> String {
    let mut text = String::new();
    for Described { name, summary, options } in drivers {
        // Writing to a string cannot fail.
        let _ = writeln!(text, "{name}\n    {summary}");
        let width = options.iter().map(|option| option.name.len()).max().unwrap_or(0);
        for Choice { name, default, help } in options {
            let default = match *default {
                "" => String::new(),
                default => format!(" [default: {default}]"),
            };
            let _ = writeln!(text, "    {name:width$}  {help}{default}");
        }
        text.push('\n');
    }
    text + "Use one as `tsoracle serve NAME` or `tsoracle serve NAME:PATH?OPTION=VALUE&…`."
}
