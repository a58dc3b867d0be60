//! Looking at sequences, starting them elsewhere than at 0, and deleting them.

use clap::Args;
use serde::Serialize;
use tsoracle_core::MAX_BATCH;
use tsoracle_proto::v1::{
    OpenSeqsRequest, OpenSeqsResponse, SeqEntry, sequence_service_client::SequenceServiceClient,
};

use crate::{
    ask::{KeyArguments, Next},
    endpoints::{Endpoints, Routes, within},
    failure::Failure,
    leader::{Leader, explained},
    output::{Output, word},
    restore::Floors,
};

pub(crate) const LIST_EXAMPLES: &str = "\
Examples:
  tsoracle seq-list                             every sequence, with its next value
  tsoracle seq-list orders-                     those whose keys begin with orders-
  tsoracle seq-list --limit 10 --after orders-9 ten of those that come after that key
  tsoracle seq-list --json | jq -r .key         their keys

Sequences that are first used while the list is made may be left out; none is listed twice.

Exit codes: 0 done, 1 no server could tell, 2 wrong arguments.";

pub(crate) const SEED_EXAMPLES: &str = "\
Examples:
  tsoracle seq-seed invoices 20001              the first invoice will be 20001
  tsoracle seq invoices                         20001

A sequence that was used or seeded before stays as it is, and the command fails: sequences never go
back, and have no gaps. A command that fails without a definite answer says so; seq-read then tells
where the sequence stands.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

pub(crate) const DELETE_EXAMPLES: &str = "\
Examples:
  tsoracle seq-delete tests/orders              64, if its next value would have been 64
  tsoracle seq tests/orders                     0: it begins anew

For sequences that nothing uses any more. Values that it has given out are given out once more if
it is used again, unless seq-seed lets it begin above them. A request that is sent again under an
id of before still gets its block of before. A command that fails without a definite answer says
so; seq-read then tells whether the sequence is gone.

Exit codes: 0 done, 1 never used, not done or not certain, 2 wrong arguments.";

pub(crate) const OPEN_EXAMPLES: &str = "\
Examples:
  tsoracle seq-open --floor orders=70000 --floor invoices=20100
                                                above all that was ever granted of them
  tsoracle seq-open --floors known-values.txt   a line KEY=N for each
  tsoracle seq-open --accept-sequence-loss      all others too, where the backup has them

For a state that was restored from a backup: what was granted after it was taken would be granted
once more, so that requests for sequences are refused until they are opened. A floor is a value
that was never granted, nor any above it. Sequences of which nothing is left to know are opened by
accepting that values may be granted twice. It can be run again after any answer.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

/// Options of `tsoracle seq-open`.
#[derive(Args, Debug)]
pub(crate) struct OpenArguments {
    #[command(flatten)]
    floors: Floors,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle seq-list`.
#[derive(Args, Debug)]
pub(crate) struct ListArguments {
    /// Only sequences whose keys begin with this
    #[arg(default_value = "", hide_default_value = true)]
    prefix: String,

    /// Only sequences after this key, in byte order
    #[arg(long, value_name = "KEY", default_value = "", hide_default_value = true)]
    after: String,

    /// List at most this many [default: all]
    #[arg(long, value_name = "N")]
    limit: Option<u64>,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    routes: Routes,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle seq-seed`.
#[derive(Args, Debug)]
pub(crate) struct SeedArguments {
    /// The sequence, 1 to 128 bytes of text, never used before
    #[arg(value_parser = crate::ask::key)]
    key: String,

    /// Its first value, at most 18446744073709551614
    #[arg(value_parser = clap::value_parser!(u64).range(..u64::MAX))]
    start: u64,

    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    routes: Routes,

    #[command(flatten)]
    output: Output,
}

pub(crate) async fn list(arguments: ListArguments) -> Result<(), Failure> {
    let ListArguments { prefix, mut after, limit, endpoints, routes, output } = arguments;
    let client = endpoints.connect_with(routes).await?;
    let mut left = limit.unwrap_or(u64::MAX);
    while left > 0 {
        let page = client.list_seqs(&prefix, &after).await?;
        for (key, next) in page.entries {
            if left == 0 {
                return Ok(());
            }
            output.print(&Next { key: key.as_str(), next }, || {
                format!("{} {next}", word(key.as_str()))
            })?;
            after = key.into();
            left -= 1;
        }
        if !page.more {
            break;
        }
    }
    Ok(())
}

pub(crate) async fn seed(arguments: SeedArguments) -> Result<(), Failure> {
    let SeedArguments { key, start, endpoints, routes, output } = arguments;
    let client = endpoints.connect_with(routes).await?;
    if let Err(error) = client.seed_seq(&key, start).await {
        return Err(explained(&endpoints, error).await);
    }
    output.print(&Next { key: &key, next: start }, || start.to_string())
}

pub(crate) async fn delete(arguments: KeyArguments) -> Result<(), Failure> {
    let KeyArguments { key, endpoints, routes, output } = arguments;
    let client = endpoints.connect_with(routes).await?;
    let next = match client.delete_seq(&key).await {
        Ok(next) => next,
        Err(error) => return Err(explained(&endpoints, error).await),
    };
    output.print(&Next { key: &key, next }, || next.to_string())
}

#[derive(Serialize)]
struct Opened<'a> {
    entries: Vec<Next<'a>>,
    closed: bool,
}

pub(crate) async fn open(arguments: OpenArguments) -> Result<(), Failure> {
    let OpenArguments { floors, endpoints, output } = arguments;
    let all = floors.accept_sequence_loss;
    let floors: Vec<_> = floors.all()?.into_iter().collect();
    if floors.is_empty() && !all {
        return Err(Failure::usage("give --floor, --floors or --accept-sequence-loss"));
    }
    let mut leader = Leader::new(&endpoints)?;
    let mut entries = vec![];
    let mut closed = true;
    let mut parts: Vec<_> = floors.chunks(MAX_BATCH).collect();
    if parts.is_empty() {
        parts.push(&[]);
    }
    let last = parts.len() - 1;
    for (index, part) in parts.into_iter().enumerate() {
        let floors = part.iter();
        let request = OpenSeqsRequest {
            floors: floors
                .map(|(key, next)| SeqEntry { key: key.as_str().into(), next: *next })
                .collect(),
            accept_sequence_loss: all && index == last,
        };
        let asked = leader.ask(async |channel, timeout| {
            SequenceServiceClient::new(channel).open_seqs(within(request.clone(), timeout)).await
        });
        let OpenSeqsResponse { entries: opened, closed: others, .. } = asked.await?;
        entries.extend(opened);
        closed = others;
    }
    let entries: Vec<_> =
        entries.iter().map(|entry| Next { key: &entry.key, next: entry.next }).collect();
    let opened = Opened { entries, closed };
    output.print(&opened, || {
        let mut text = String::new();
        for Next { key, next } in &opened.entries {
            text.push_str(&format!("{} {next}\n", word(key)));
        }
        text + if opened.closed { "all others are closed" } else { "all are open" }
    })
}
