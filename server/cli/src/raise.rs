use clap::Args;
use serde::Serialize;
use tsoracle_core::{DriverConfig, OracleOptions, Timestamp, adopt};

use crate::{
    drivers,
    failure::{Failure, usage_if_config},
    log,
    output::Output,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle raise file:/var/lib/tsoracle --physical-ms $(($(date +%s) * 1000 + 60000))
  tsoracle raise 'etcd://e1:2379/tsoracle?adopt=cdf818194e3a8c32' --physical-ms 1795359025822

After a backup was restored, timestamps begin where they were when it was made. Take a time above every
one that was issued since, and raise the time to it before anything is served. Sequences do go back to
where the backup has them: their later values will be issued again.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle raise`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The driver, as for `tsoracle serve`; no server may be running over it
    driver: String,

    /// Every timestamp will be later than this many milliseconds since 1970
    #[arg(long, value_name = "N")]
    physical_ms: u64,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Raised<'a> {
    driver: &'a str,
    high_water_ms: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start("warn")?;
    let Arguments { driver: text, physical_ms, output } = arguments;
    let config = DriverConfig::parse(&text).map_err(usage_if_config)?;
    let name = config.name().to_owned();
    let high_water_ms = drivers::while_leading(config, async |driver| {
        Ok(adopt(driver, physical_ms, OracleOptions::default().lease).await?)
    })
    .await?;
    output.print(&Raised { driver: &name, high_water_ms }, || {
        let time = Timestamp::from_parts(high_water_ms, 0).map(Timestamp::to_rfc3339);
        format!("raised: every timestamp will be later than {}", time.unwrap_or_default())
    })
}
