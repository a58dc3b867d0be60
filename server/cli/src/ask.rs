use clap::Args;
use serde::Serialize;
use tsoracle_client::SeqBlock;
use tsoracle_core::{RequestName, SeqKey};

use crate::{
    decode::Decoded,
    endpoints::{Endpoints, Routes},
    failure::Failure,
    output::Output,
};

pub(crate) const TS_EXAMPLES: &str = "\
Examples:
  tsoracle ts                                   470642596462985216
  tsoracle ts --count 100                       the first and the last of 100 in a row
  tsoracle ts --json | jq .time                 when that was, by the server's clock
  tsoracle ts --endpoint db1,db2,db3            whichever of them leads

Exit codes: 0 done, 1 no server could, 2 wrong arguments.";

pub(crate) const SEQ_EXAMPLES: &str = "\
Examples:
  tsoracle seq orders                           0, then 1, then 2 …
  tsoracle seq orders --count 64                64 values in a row that no other caller gets
  tsoracle seq invoices --request-id payment-4711
                                                run it again: the same value, not another one

A command that fails says whether values may have been spent. With --request-id, running it again
is always safe.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

pub(crate) const SEQ_READ_EXAMPLES: &str = "\
Examples:
  tsoracle seq-read orders                      64, if 0 to 63 are taken
  tsoracle seq-read orders --json

Exit codes: 0 done, 1 never used or no server could tell, 2 wrong arguments.";

/// A key that a sequence can have.
pub(crate) fn key(text: &str) -> Result<String, String> {
    SeqKey::new(text).map(Into::into).map_err(|error| error.to_string())
}

/// Checks the name of a request.
fn name(text: &str) -> Result<String, String> {
    RequestName::new(text).map(|_| text.into()).map_err(|error| error.to_string())
}

/// Options of `tsoracle ts`.
#[derive(Args, Debug)]
pub(crate) struct TsArguments {
    /// How many contiguous timestamps, 1 to 262144
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..=262_144))]
    count: u32,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle seq`.
#[derive(Args, Debug)]
pub(crate) struct SeqArguments {
    /// The sequence, 1 to 128 bytes of text; it begins to exist with its first use
    #[arg(value_parser = key)]
    key: String,

    /// How many contiguous values
    #[arg(long, value_name = "N", default_value_t = 1,
          value_parser = clap::value_parser!(u32).range(1..))]
    count: u32,

    /// Ask exactly once: the same text, of 1 to 128 bytes, gives the same block again for 30 days,
    /// whichever client sends it
    #[arg(long, value_name = "TEXT", value_parser = name)]
    request_id: Option<String>,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    routes: Routes,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle seq-read` and `tsoracle seq-delete`.
#[derive(Args, Debug)]
pub(crate) struct KeyArguments {
    /// The sequence
    #[arg(value_parser = key)]
    pub(crate) key: String,

    #[command(flatten)]
    pub(crate) endpoints: Endpoints,

    #[command(flatten)]
    pub(crate) routes: Routes,

    #[command(flatten)]
    pub(crate) output: Output,
}

#[derive(Serialize)]
struct Timestamps {
    #[serde(flatten)]
    first: Decoded,
    count: u32,
}

#[derive(Serialize)]
struct Block<'a> {
    key: &'a str,
    start: u64,
    count: u32,
    #[serde(skip_serializing_if = "Option::is_none")]
    request_id: Option<&'a str>,
}

/// A sequence, and the value that its next block starts with.
#[derive(Serialize)]
pub(crate) struct Next<'a> {
    pub(crate) key: &'a str,
    pub(crate) next: u64,
}

pub(crate) async fn ts(arguments: TsArguments) -> Result<(), Failure> {
    let client = arguments.endpoints.connect().await?;
    let range = client.get_ts_batch(arguments.count).await?;
    let answer = Timestamps { first: range.first().into(), count: range.count() };
    arguments.output.print(&answer, || match range.count() {
        1 => range.first().to_string(),
        count => format!("{} to {} ({count} timestamps)", range.first(), range.last()),
    })
}

pub(crate) async fn seq(arguments: SeqArguments) -> Result<(), Failure> {
    let SeqArguments { key, count, request_id, endpoints, routes, output } = arguments;
    let client = endpoints.connect_with(routes).await?;
    let block = match &request_id {
        Some(text) => client.get_seq_as(text, &key, count).await?,
        None => client.get_seq(&key, count).await?,
    };
    let SeqBlock { start, count, .. } = block;
    let answer = Block { key: &key, start, count, request_id: request_id.as_deref() };
    // The values are granted: they are shown before anything else is done.
    output.print(&answer, || match count {
        1 => start.to_string(),
        count => format!("{start} to {} ({count} values)", block.range().end - 1),
    })?;
    client.close().await;
    Ok(())
}

pub(crate) async fn seq_read(arguments: KeyArguments) -> Result<(), Failure> {
    let client = arguments.endpoints.connect_with(arguments.routes).await?;
    let next = client.read_seq(&arguments.key).await?;
    arguments.output.print(&Next { key: &arguments.key, next }, || next.to_string())
}
