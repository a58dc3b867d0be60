use tokio::sync::oneshot;
use tsoracle_cluster::EntryId;
use tsoracle_core::{
    BootTime, Result,
    state::{Answer, Effect, Query},
};
use tsoracle_store::{StateView, Table};

use super::NEVER;
use crate::types::{Applied, Entry, Meta, SnapshotFile};

pub(super) type Reply<T> = oneshot::Sender<Result<T>>;

/// What the thread is asked to do, in this order.
pub(super) enum Job {
    Write(Write),
    Log { from: u64, to: u64, reply: Reply<Vec<Vec<u8>>> },
    Read { key: &'static [u8], reply: Reply<Option<Vec<u8>>> },
    Apply { entries: Vec<Entry>, reply: Reply<()> },
    Applied { reply: Reply<Applied> },
    Answer { query: Query, reply: Reply<Answer> },
    Claim { reply: Reply<u32> },
    View { reply: Reply<(Applied, StateView)> },
    Publish { meta: Meta, file: SnapshotFile, reply: Reply<bool> },
    Install { meta: Meta, file: SnapshotFile, reply: Reply<()> },
    Stop,
}

/// Writes that may share a sync with others.
pub(super) struct Write {
    pub(super) writes: Vec<(Table, Effect)>,
    /// The first log entry among them, if there is one.
    pub(super) first: Option<u64>,
    /// The entries that were seen, and when.
    pub(super) seen: Vec<EntryId>,
    pub(super) now: BootTime,
    pub(super) done: Box<dyn FnOnce(Result<()>) + Send>,
}

impl Write {
    pub(super) fn new(
        writes: Vec<(Table, Effect)>,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Self {
        Self { writes, first: None, seen: vec![], now: NEVER, done: Box::new(done) }
    }
}
