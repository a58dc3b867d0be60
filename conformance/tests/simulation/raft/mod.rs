//! A small replicated log, as honest as a real one: terms and votes, entries held by a majority, and
//! everything durable before it is answered. Replicas compare versions and store effects.

mod apply;
mod driver;
mod election;
mod replica;
mod replication;

use tokio::sync::oneshot;
use tsoracle_core::{Outcome, Reads, Result, Snapshot};

use crate::disk::{Commit, Entry};

pub(crate) use driver::start;

/// What a node sends to another.
#[derive(Clone, Debug)]
pub(crate) enum Message {
    AskVote {
        term: u64,
        /// Term and place of the last entry.
        last: (u64, u64),
    },
    Vote {
        term: u64,
        granted: bool,
    },
    Append {
        term: u64,
        /// Term and place of the entry before.
        before: (u64, u64),
        entries: Vec<Entry>,
        committed: u64,
    },
    Appended {
        term: u64,
        /// Up to where the logs are the same, or the last place where they may be.
        matched: Result<u64, u64>,
    },
}

/// What happens to a node.
#[derive(Debug)]
pub(crate) enum Event {
    Message { from: usize, message: Message },
    Commit { commit: Commit, reply: oneshot::Sender<Result<Outcome>> },
    Read { wanted: Reads, reply: oneshot::Sender<Result<Snapshot>> },
    Resign { claim: u64 },
    Stand,
    Stop { reply: oneshot::Sender<()> },
}

impl Message {
    fn term(&self) -> u64 {
        match *self {
            Self::AskVote { term, .. }
            | Self::Vote { term, .. }
            | Self::Append { term, .. }
            | Self::Appended { term, .. } => term,
        }
    }
}
