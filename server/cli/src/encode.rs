use clap::Args;
use tsoracle_core::Timestamp;

use crate::{decode::Decoded, failure::Failure, output::Output, time::Time};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle encode 2026-11-22T13:30:25.822Z
  tsoracle encode 1795359025822 --logical 2
  tsoracle encode 2026-11-22T13:30:25Z --json | jq -r .timestamp_text

No server is asked. `tsoracle decode` is the way back.

Exit codes: 0 done, 2 wrong arguments.";

/// Options of `tsoracle encode`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// The time, in RFC 3339 or in milliseconds since 1970
    time: Time,

    /// The position among the timestamps of that millisecond
    #[arg(long, value_name = "N", default_value_t = 0)]
    logical: u32,

    #[command(flatten)]
    output: Output,
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let Arguments { time: Time(physical_ms), logical, output } = *arguments;
    let timestamp = Timestamp::from_parts(physical_ms, logical).map_err(Failure::usage)?;
    output.print(&Decoded::from(timestamp), || timestamp.to_string())
}
