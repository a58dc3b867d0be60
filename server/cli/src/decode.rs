use clap::Args;
use serde::Serialize;
use tsoracle_core::Timestamp;

use crate::{failure::Failure, output::Output};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle decode 470642596465082370
  tsoracle decode $(tsoracle ts) --json
  tsoracle decode 470642596465082370 --json | jq -r .time

No server is asked. `tsoracle encode` is the way back.";

/// Options of `tsoracle decode`.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    /// A timestamp, as `tsoracle ts` prints it
    timestamp: u64,

    #[command(flatten)]
    output: Output,
}

/// A timestamp's parts.
#[derive(Serialize)]
pub(crate) struct Decoded {
    pub(crate) timestamp: u64,
    pub(crate) physical_ms: u64,
    pub(crate) logical: u32,
    pub(crate) time: String,
}

impl From<Timestamp> for Decoded {
    fn from(timestamp: Timestamp) -> Self {
        Self {
            timestamp: timestamp.as_u64(),
            physical_ms: timestamp.physical_ms(),
            logical: timestamp.logical(),
            time: timestamp.to_rfc3339(),
        }
    }
}

pub(crate) fn run(arguments: &Arguments) -> Result<(), Failure> {
    let decoded = Decoded::from(Timestamp::from_u64(arguments.timestamp));
    arguments.output.print(&decoded, || {
        let Decoded { physical_ms, logical, ref time, .. } = decoded;
        format!("physical_ms {physical_ms}\nlogical     {logical}\ntime        {time}")
    })
}
