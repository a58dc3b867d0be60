use std::{
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::Arc,
};

use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};
use tsoracle_core::{Effect, Result, Version};
use tsoracle_replica::{
    LogEntry, Replica, StoreThread, Waiters,
    store_thread::{After, Write},
};
use tsoracle_store::{Store, Table};

use crate::types::{
    Command, Id, LogRecord, LogRecords, Stored, TypeConfig, Vote, decode, encode, storage,
};

/// Big-endian indexes to entries.
const LOG: Table = Table::new("log");

/// The vote, and up to where the log was purged.
const RAFT: Table = Table::new("raft");
const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";

/// Every index of the log is below.
const END: &[u8] = &[u8::MAX; 9];

/// Raft's log and vote, in tables of the store that holds the data as well.
#[derive(Clone, Debug)]
pub(crate) struct Log {
    pub(crate) store: StoreThread,
    pub(crate) waiters: Arc<Waiters>,
}

impl Log {
    /// Runs `work` after all that was submitted before.
    async fn run<T: Send + 'static>(
        &self,
        work: impl FnOnce(&mut Replica) -> Result<T> + Send + 'static,
    ) -> Stored<T> {
        self.store.run(After::Everything, work).await.map_err(storage)
    }
}

/// The version that the oracle's commit in the entry makes, if there is one.
fn version(entry: &LogRecord) -> Option<Version> {
    match &entry.payload {
        EntryPayload::Normal(Command::Oracle(bytes)) => LogEntry::peek(bytes),
        _ => None,
    }
}

fn entries(store: &Store, from: &[u8], to: &[u8]) -> Result<Vec<LogRecord>> {
    let stored = store.entries(LOG, from, to, usize::MAX)?;
    stored.iter().map(|(_, entry)| decode(entry)).collect()
}

/// What deletes the entries in the range.
fn deletion(store: &Store, from: &[u8], to: &[u8]) -> Result<(Table, Effect)> {
    let mut effect = Effect::default();
    for (index, _) in store.entries(LOG, from, to, usize::MAX)? {
        effect.delete(index);
    }
    Ok((LOG, effect))
}

fn purged(store: &Store) -> Result<Option<Id>> {
    store.read(RAFT, PURGED)?.map(|bytes| decode(&bytes)).transpose()
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Stored<Vec<LogRecord>> {
        let from = match range.start_bound() {
            Bound::Included(from) => *from,
            Bound::Excluded(before) => before + 1,
            Bound::Unbounded => 0,
        };
        let to = match range.end_bound() {
            Bound::Included(last) => last + 1,
            Bound::Excluded(to) => *to,
            Bound::Unbounded => u64::MAX,
        };
        let (from, to) = (from.to_be_bytes(), to.to_be_bytes());
        self.run(move |replica| entries(replica.store(), &from, &to)).await
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Stored<LogState<TypeConfig>> {
        let state = |replica: &mut Replica| {
            let last_purged_log_id = purged(replica.store())?;
            let last = replica.store().last(LOG)?;
            let last = last.map(|(_, entry)| decode::<LogRecord>(&entry)).transpose()?;
            let last_log_id = last.map(|entry| entry.log_id).max(last_purged_log_id);
            Ok(LogState { last_purged_log_id, last_log_id })
        };
        self.run(state).await
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Stored<()> {
        let mut effect = Effect::default();
        effect.put(VOTE, encode(vote).map_err(storage)?);
        self.store.write(vec![(RAFT, effect)]).await.map_err(storage)
    }

    async fn read_vote(&mut self) -> Stored<Option<Vote>> {
        let read = |replica: &mut Replica| replica.store().read(RAFT, VOTE);
        self.run(read).await?.map(|vote| decode(&vote)).transpose().map_err(storage)
    }

    /// The entries are durable when openraft is told that they are; others hear of them only then.
    async fn append<I: LogRecords>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Stored<()> {
        let (mut effect, mut logged, mut first) = (Effect::default(), vec![], None);
        for entry in entries {
            first = first.or(Some(entry.log_id.index));
            effect.put(entry.log_id.index.to_be_bytes(), encode(&entry).map_err(storage)?);
            logged.extend(version(&entry));
        }
        // From here on they may be stored, whatever becomes of this node.
        logged.iter().for_each(|next| self.waiters.begun(next));
        let done = Box::new(|written: Result<()>| {
            callback.log_io_completed(written.map_err(io::Error::other));
        });
        self.store.submit(Write { writes: vec![(LOG, effect)], first, logged, done });
        Ok(())
    }

    async fn truncate(&mut self, log_id: Id) -> Stored<()> {
        let truncate = move |replica: &mut Replica| {
            let entries = deletion(replica.store(), &log_id.index.to_be_bytes(), END)?;
            replica.write([entries])
        };
        self.run(truncate).await
    }

    /// What the entries have changed was written before, and becomes durable with this.
    async fn purge(&mut self, log_id: Id) -> Stored<()> {
        let purge = move |replica: &mut Replica| {
            let entries = deletion(replica.store(), &[], &(log_id.index + 1).to_be_bytes())?;
            let mut purged = Effect::default();
            purged.put(PURGED, encode(&log_id)?);
            replica.write([entries, (RAFT, purged)])
        };
        self.run(purge).await
    }
}
