use clap::Args;
use serde::Serialize;
use tsoracle_core::{DriverConfig, ErrorKind, Reject, Timestamp, initialize};

use crate::{
    drivers,
    failure::{Failure, usage_if_config},
    log,
    output::Output,
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle init file:/var/lib/tsoracle --seed-physical-ms 1795359025822
  tsoracle init file:./data --seed-physical-ms $(($(date +%s) * 1000 + 60000))

Take the highest timestamp of the other system, in milliseconds since 1970, once it has stopped.

Exit codes: 0 done, 1 not done, 2 wrong arguments.";

/// Options of `tsoracle init`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The driver that will be served, as for `tsoracle serve`; no server may be running over it
    driver: String,

    /// Every timestamp will be later than this many milliseconds since 1970
    #[arg(long, value_name = "N")]
    seed_physical_ms: u64,

    #[command(flatten)]
    output: Output,
}

#[derive(Serialize)]
struct Initialized<'a> {
    driver: &'a str,
    seed_physical_ms: u64,
}

pub(crate) async fn run(arguments: Arguments) -> Result<(), Failure> {
    log::start("warn")?;
    let Arguments { driver: text, seed_physical_ms, output } = arguments;
    let config = DriverConfig::parse(&text).map_err(usage_if_config)?;
    drivers::while_leading(config, async |driver| {
        initialize(driver, seed_physical_ms).await.map_err(|error| match error.kind() {
            ErrorKind::Rejected(Reject::NotEmpty) => Failure::failed(
                "this driver holds state already, which was left as it is; init is for new ones only",
            ),
            _ => error.into(),
        })
    })
    .await?;
    output.print(&Initialized { driver: &text, seed_physical_ms }, || {
        let time = Timestamp::from_parts(seed_physical_ms, 0).map(Timestamp::to_rfc3339);
        format!("initialized: every timestamp will be later than {}", time.unwrap_or_default())
    })
}
