use std::{fmt::Write as _, sync::Arc};

use clap::Args;
use serde::Serialize;
use tsoracle_core::{ConsensusDriver, DriverConfig, DriverFactory, OpenContext, Registry};

use crate::{
    failure::{Failure, usage_if_config},
    output::Output,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle drivers
  tsoracle drivers --json | jq -r '.[].name'";

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
    registry()?.find(name).map(drop).map_err(usage_if_config)
}

/// Opens the driver that `config` names.
pub(crate) async fn open(
    config: DriverConfig,
    context: OpenContext,
) -> Result<Arc<dyn ConsensusDriver>, Failure> {
    let registry = registry()?;
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
