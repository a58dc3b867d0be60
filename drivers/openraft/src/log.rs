use std::{
    collections::BTreeMap,
    fmt::Debug,
    io,
    ops::{Bound, RangeBounds},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use openraft::{
    EntryPayload, LogState, OptionalSend, RaftLogReader,
    storage::{LogFlushed, RaftLogStorage},
};
use serde::de::DeserializeOwned;
use tokio::sync::watch;
use tsoracle_core::{Effect, Result, Version};
use tsoracle_replica::{
    LogEntry, StoreThread, Waiters,
    leaps::Reached,
    store_thread::{After, Write},
};

use crate::{
    store::{LOG, RAFT},
    types::{Entries, Entry, Id, Stored, TypeConfig, Vote, decode, encode, next_index, storage},
};

pub(crate) const VOTE: &[u8] = b"vote";
const PURGED: &[u8] = b"purged";

/// Bytes of entries that are kept in memory, for readers of the end of the log, at most, beside those
/// that are not written yet.
const CACHED_BYTES: usize = 16 << 20;

/// Bytes of one message to a follower; a single entry may be larger.
const MESSAGE_BYTES: usize = 1 << 20;

/// Raft's log and vote, in the store.
#[derive(Clone, Debug)]
pub(crate) struct Log(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    node: u64,
    store: StoreThread,
    waiters: Arc<Waiters>,
    state: Mutex<State>,
    /// How far the state has come that stands for what is purged.
    applied: watch::Sender<Option<Id>>,
}

/// The log as it is to be, of which the last writes may still be under way.
#[derive(Debug, Default)]
struct State {
    vote: Option<Vote>,
    purged: Option<Id>,
    last: Option<Id>,
    /// The end of the log, without a gap, up to the last entry.
    cached: BTreeMap<u64, Entry>,
    bytes: usize,
    /// Up to here, everything is on the disk.
    durable: Option<Id>,
}

impl Log {
    /// The log in the store, whose last entry is `last`, and which is applied up to `applied`.
    pub(crate) async fn open(
        node: u64,
        store: StoreThread,
        waiters: Arc<Waiters>,
        last: Option<Id>,
        applied: Option<Id>,
    ) -> Result<Self> {
        let purged: Option<Id> = read(&store, PURGED).await?;
        let last = last.max(purged);
        let state = State { purged, last, durable: last, ..State::default() };
        let (state, applied) = (Mutex::new(state), watch::Sender::new(applied));
        Ok(Self(Arc::new(Inner { node, store, waiters, state, applied })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// How far this node has come.
    pub(crate) fn reached(&self) -> Reached {
        let state = self.state();
        let term = state.vote.map_or(0, |vote| vote.leader_id.term);
        Reached { term, index: next_index(state.last.as_ref()) }
    }

    /// Up to where the log may be announced as committed: not beyond what is on this node's disk.
    pub(crate) fn announceable(&self, committed: Option<Id>) -> Option<Id> {
        committed.min(self.state().durable)
    }

    /// Notes that the state has come so far.
    pub(crate) fn applied(&self, last: Option<Id>) {
        self.0.applied.send_if_modified(|applied| {
            let is_later = last > *applied;
            *applied = last.max(*applied);
            is_later
        });
    }

    /// Returns when the state has come so far, or never will.
    async fn has_applied(&self, log_id: Id) {
        let (mut applied, mut failed) = (self.0.applied.subscribe(), self.0.store.failed());
        tokio::select! {
            biased;
            _ = applied.wait_for(|applied| *applied >= Some(log_id)) => {}
            _ = failed.wait_for(Option::is_some) => {}
        }
    }

    /// The entries from `from` to before `to`, as far as there are any.
    async fn range(&self, from: u64, to: u64) -> Result<Vec<Entry>> {
        let (from, cached_from, cached) = {
            let state = self.state();
            let from = from.max(next_index(state.purged.as_ref()));
            let to = to.min(next_index(state.last.as_ref()));
            if from >= to {
                return Ok(vec![]);
            }
            let cached_from = state.cached.first_key_value().map_or(to, |(index, _)| *index);
            let cached_from = cached_from.clamp(from, to);
            let cached: Vec<_> =
                state.cached.range(cached_from..to).map(|(_, entry)| entry.clone()).collect();
            (from, cached_from, cached)
        };
        if from == cached_from {
            return Ok(cached);
        }
        let stored = self.0.store.run(After::Everything, move |replica| {
            let (from, to) = (from.to_be_bytes(), cached_from.to_be_bytes());
            replica.store().entries(LOG, &from, &to, usize::MAX)
        });
        let entries = stored.await?.into_iter().map(|(_, entry)| decode(&entry));
        let mut entries = entries.collect::<Result<Vec<_>>>()?;
        entries.extend(cached);
        Ok(entries)
    }

    /// Puts the entries into the log, for readers at once, and calls `done` when they are durable; or
    /// at once if this node proposes them as the leader.
    ///
    /// openraft has its leader wait for its own disk before it sends an entry to others, which makes
    /// each commit two syncs long. Here both go on side by side, and what openraft then takes for
    /// committed stays within this node until its disk has the entry, too: it is not applied (the
    /// store's thread syncs first), it is not announced to others (see [`Log::announceable`]), no change of
    /// members is built on it, and a leader that lost such an entry in a crash does not go on in its old
    /// term (see [`RaftLogStorage::read_vote`]).
    pub(crate) fn append_entries(
        &self,
        entries: Vec<Entry>,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) -> Result<()> {
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            done(Ok(()));
            return Ok(());
        };
        let (first, last) = (first.log_id.index, last.log_id);
        let mut effect = Effect::default();
        for entry in &entries {
            effect.put(entry.log_id.index.to_be_bytes(), encode(entry)?);
        }
        let logged: Vec<_> = entries.iter().filter_map(version).collect();
        let mut state = self.state();
        let proposes = state.vote.is_some_and(|vote| {
            vote.committed
                && vote.leader_id.node_id == self.0.node
                && entries.iter().all(|entry| entry.log_id.leader_id == vote.leader_id)
        });
        // From here on it may be sent to others.
        logged.iter().for_each(|next| self.0.waiters.begun(next));
        for entry in entries {
            state.bytes += size(&entry);
            state.cached.insert(entry.log_id.index, entry);
        }
        state.last = Some(last);
        let (now, later) = if proposes { (Some(done), None) } else { (None, Some(done)) };
        let log = self.clone();
        // Under the lock, so that writes are made in the order of the log.
        let done = Box::new(move |written: Result<()>| {
            if written.is_ok() {
                log.state().written(last);
            }
            if let Some(done) = later {
                done(written);
            }
        });
        let writes = vec![(LOG, effect)];
        self.0.store.submit(Write { writes, first: Some(first), logged, done });
        drop(state);
        if let Some(done) = now {
            done(Ok(()));
        }
        Ok(())
    }
}

/// Sabotage.
#[cfg(feature = "simulation")]
impl Log {
    /// Takes this node for the leader that it was.
    pub(crate) fn lead_on(&self, vote: Vote) {
        self.state().vote = Some(vote);
    }

    /// Takes entries for durable.
    pub(crate) fn pretend_durable(&self, last: Option<Id>) {
        let mut state = self.state();
        state.durable = state.durable.max(last);
    }
}

impl State {
    fn written(&mut self, last: Id) {
        // What was cut off or overwritten meanwhile has a write of its own.
        if self.last >= Some(last) {
            self.durable = self.durable.max(Some(last));
        }
        let durable = next_index(self.durable.as_ref());
        while self.bytes > CACHED_BYTES {
            match self.cached.first_entry() {
                Some(first) if *first.key() < durable => {
                    self.bytes -= size(&first.remove());
                }
                _ => return,
            }
        }
    }

    fn forget(&mut self, range: impl RangeBounds<u64>) {
        let gone: Vec<_> = self.cached.range(range).map(|(index, _)| *index).collect();
        for index in gone {
            let entry = self.cached.remove(&index);
            self.bytes -= entry.as_ref().map_or(0, size);
        }
    }
}

fn size(entry: &Entry) -> usize {
    /// What an entry takes besides its bytes.
    const FIXED: usize = 256;
    match &entry.payload {
        EntryPayload::Normal(payload) => FIXED + payload.0.len(),
        _ => FIXED,
    }
}

/// Reads what is stored under a key.
pub(crate) async fn read<T: DeserializeOwned>(
    store: &StoreThread,
    key: &'static [u8],
) -> Result<Option<T>> {
    let bytes = store.run(After::Everything, |replica| replica.store().read(RAFT, key)).await?;
    bytes.map(|bytes| decode(&bytes)).transpose()
}

/// The version that the commit in the entry makes, if there is one.
pub(crate) fn version(entry: &Entry) -> Option<Version> {
    match &entry.payload {
        EntryPayload::Normal(payload) => LogEntry::peek(&payload.0),
        _ => None,
    }
}

impl RaftLogReader<TypeConfig> for Log {
    async fn try_get_log_entries<R: RangeBounds<u64> + Clone + Debug + OptionalSend>(
        &mut self,
        range: R,
    ) -> Stored<Vec<Entry>> {
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
        self.range(from, to).await.map_err(storage)
    }

    async fn limited_get_log_entries(&mut self, start: u64, end: u64) -> Stored<Vec<Entry>> {
        let mut entries = self.range(start, end).await.map_err(storage)?;
        let mut bytes = 0;
        let fitting = entries.iter().take_while(|entry| {
            let fits = bytes < MESSAGE_BYTES;
            bytes += size(entry);
            fits
        });
        let fitting = fitting.count();
        entries.truncate(fitting);
        Ok(entries)
    }
}

impl RaftLogStorage<TypeConfig> for Log {
    type LogReader = Self;

    async fn get_log_state(&mut self) -> Stored<LogState<TypeConfig>> {
        let state = self.state();
        Ok(LogState { last_purged_log_id: state.purged, last_log_id: state.last })
    }

    async fn get_log_reader(&mut self) -> Self {
        self.clone()
    }

    async fn save_vote(&mut self, vote: &Vote) -> Stored<()> {
        let mut effect = Effect::default();
        effect.put(VOTE, encode(vote).map_err(storage)?);
        self.state().vote = Some(*vote);
        self.0.store.write(vec![(RAFT, effect)]).await.map_err(storage)
    }

    /// The vote; not as a leader's if it is this node's own. It may have lost entries that it had sent
    /// to others, and would give out their places in the log again under the same term. So it has to be
    /// elected again.
    async fn read_vote(&mut self) -> Stored<Option<Vote>> {
        let vote: Option<Vote> = read(&self.0.store, VOTE).await.map_err(storage)?;
        let vote = vote.map(|vote| match vote.leader_id.node_id == self.0.node {
            true => Vote { committed: false, ..vote },
            false => vote,
        });
        self.state().vote = vote;
        Ok(vote)
    }

    async fn append<I: Entries>(
        &mut self,
        entries: I,
        callback: LogFlushed<TypeConfig>,
    ) -> Stored<()> {
        let done =
            |written: Result<()>| callback.log_io_completed(written.map_err(io::Error::other));
        self.append_entries(entries.into_iter().collect(), done).map_err(storage)
    }

    async fn truncate(&mut self, log_id: Id) -> Stored<()> {
        let before = match log_id.index.checked_sub(1) {
            Some(index) => self.range(index, log_id.index).await.map_err(storage)?.pop(),
            None => None,
        };
        let written = {
            let mut state = self.state();
            let end = next_index(state.last.as_ref());
            state.forget(log_id.index..);
            state.last = before.map(|entry| entry.log_id).or(state.purged);
            state.durable = state.durable.min(state.last);
            let mut effect = Effect::default();
            (log_id.index..end).for_each(|index| effect.delete(index.to_be_bytes()));
            self.0.store.write(vec![(LOG, effect)])
        };
        written.await.map_err(storage)
    }

    /// Where a state comes from the leader, openraft purges the log that it stands for while it is still being
    /// installed. In a crash both would be missing. So the log waits for the state.
    async fn purge(&mut self, log_id: Id) -> Stored<()> {
        self.has_applied(log_id).await;
        let written = {
            let mut state = self.state();
            let end = next_index(state.last.as_ref()).min(log_id.index + 1);
            let from = next_index(state.purged.as_ref());
            state.forget(..=log_id.index);
            state.purged = state.purged.max(Some(log_id));
            state.last = state.last.max(Some(log_id));
            state.durable = state.durable.max(Some(log_id));
            let mut purged = Effect::default();
            purged.put(PURGED, encode(&log_id).map_err(storage)?);
            let mut entries = Effect::default();
            (from..end).for_each(|index| entries.delete(index.to_be_bytes()));
            self.0.store.write(vec![(LOG, entries), (RAFT, purged)])
        };
        written.await.map_err(storage)
    }
}
