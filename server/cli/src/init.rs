use clap::Args;
use serde::Serialize;
use tsoracle_core::{DriverConfig, ErrorKind, Floor, Reject, initialize};

use crate::{
    drivers,
    failure::{Failure, usage_if_absurd, usage_if_config},
    log,
    output::Output,
    time::{Time, readable},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle init file:/var/lib/tsoracle --seed-physical-ms 1795359025822
  tsoracle init file:./data --seed-physical-ms $(($(date +%s) * 1000 + 60000))
  tsoracle init file:./data --seed-physical-ms 2026-11-22T13:30:25Z

Take the highest timestamp of the other system, in milliseconds since 1970, once it has stopped.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle init`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The driver that will be served, as for `tsoracle serve`; no server may be running over it
    driver: String,

    /// Every timestamp will be later than this: milliseconds since 1970, or a time in RFC 3339
    #[arg(long, value_name = "TIME")]
    seed_physical_ms: Time,

    /// Set a time that is more than a year from the clock
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Initialized<'a> {
    driver: &'a str,
    seed_physical_ms: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start(log::filter(Some("warn"))?, log::Format::Text, vec![])?;
    let Arguments { driver: text, seed_physical_ms: Time(seed_physical_ms), force, output } =
        arguments;
    let floor = if force { Floor::forced(seed_physical_ms) } else { seed_physical_ms.into() };
    let config = DriverConfig::parse(&text).map_err(usage_if_config)?;
    drivers::while_leading(config, async |driver| {
        initialize(driver, floor).await.map_err(|error| match error.kind() {
            ErrorKind::Rejected(Reject::NotEmpty) => Failure::failed(
                "this driver holds state already, which was left as it is; init is for new ones only",
            ),
            _ => usage_if_absurd(error),
        })
    })
    .await?;
    output.print(&Initialized { driver: &text, seed_physical_ms }, || {
        format!("initialized: every timestamp will be later than {}", readable(seed_physical_ms))
    })
}
