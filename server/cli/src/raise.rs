use clap::Args;
use serde::Serialize;
use tsoracle_core::{DriverConfig, Floor, OracleOptions, adopt};

use crate::{
    drivers,
    failure::{Failure, usage_if_absurd, usage_if_config},
    log,
    output::Output,
    time::{Time, readable},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle raise file:/var/lib/tsoracle --physical-ms $(($(date +%s) * 1000 + 60000))
  tsoracle raise file:/var/lib/tsoracle --physical-ms 2026-11-22T13:30:25Z
  tsoracle raise 'etcd://e1:2379/tsoracle?adopt=cdf818194e3a8c32' --physical-ms 1795359025822

After a backup was restored, timestamps begin where they were when it was made. Take a time above every
one that was issued since, and raise the time to it before anything is served. Sequences do go back to
where the backup has them: their later values will be issued again. A time that is not above the
state's is an error: there is nothing to raise.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle raise`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The driver, as for `tsoracle serve`; no server may be running over it
    driver: String,

    /// Every timestamp will be later than this: milliseconds since 1970, or a time in RFC 3339
    #[arg(long, value_name = "TIME")]
    physical_ms: Time,

    /// Set a time that is more than a year from the clock, or adopt a state that is later already
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Raised<'a> {
    driver: &'a str,
    high_water_ms: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start(log::filter(Some("warn"))?, log::Format::Text, vec![])?;
    let Arguments { driver: text, physical_ms: Time(physical_ms), force, output } = arguments;
    let floor = if force { Floor::forced(physical_ms) } else { physical_ms.into() };
    let config = DriverConfig::parse(&text).map_err(usage_if_config)?;
    let name = config.name().to_owned();
    let high_water_ms = drivers::while_leading(config, async |driver| {
        let adopted = adopt(driver, floor, OracleOptions::default().lease).await;
        adopted.map_err(usage_if_absurd)
    })
    .await?;
    output.print(&Raised { driver: &name, high_water_ms }, || {
        format!("raised: every timestamp will be later than {}", readable(high_water_ms))
    })
}
