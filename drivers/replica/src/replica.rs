use std::{collections::BTreeMap, sync::Arc};

use tsoracle_core::{
    BootTime, Clock as _, Effect, Entry, Error, ErrorKind, KeyRange, Latency, Outcome, Reads,
    Result, SeqStore, Snapshot, SystemClock, VERSION, Version, series::STORE_SYNC_DURATION,
};
use tsoracle_store::{Store, Table};

use crate::{
    evidence::{Evidence, History},
    snapshot::{self, Chunks},
};

/// How far the state is.
const REPLICA: Table = Table::new("replica");
const APPLIED: &[u8] = b"applied";

const STATE: Table = Table::new("state");

/// Applied entries that are not in the store yet, at most, and keys that they have changed. They bound what a
/// crash undoes, and how long it takes to write it all.
const UNWRITTEN: (usize, usize) = (1_000, 2_000);

/// Bytes of their writes, at most, those included that later ones replace: no more than what is found fast
/// in the cache of a processor, in memory that need not be asked for again and again.
const UNWRITTEN_BYTES: usize = 256 << 10;

/// A replicated state: it applies the commits of a log, in order, over a [`Store`].
///
/// Every replica that applies the same log holds the same state. It compares versions, and never looks
/// into keys or values. What commits change is kept in memory and written now and then, many at once; a
/// crash undoes what was not written, together with the note of how far it had come, and it is applied
/// again from the log.
///
/// A driver over a log of its own, or a service that carries the oracle in the log that it has anyway,
///
/// 1. wraps an encoded [`LogEntry`](crate::LogEntry) in an entry of its log to commit it, and tells
///    [`Evidence::logged`] when an entry has come into its log;
/// 2. calls [`apply`](Self::apply) for each entry that is decided, in order, and answers the caller who
///    waits for it, if that is this process, with what it returns;
/// 3. notes how far it has applied the log with [`set_applied`](Self::set_applied), in its own terms, and
///    writes what its own entries have changed with [`settle_with`](Self::settle_with), so that a crash
///    leaves both as of one entry;
/// 4. MUST keep an entry in its log, durably, until what it has changed is in the store: before it
///    shortens the log it calls [`settle`](Self::settle);
/// 5. lets its snapshots hold [`snapshot`](Self::snapshot), beside its own data as of the same entry, and
///    [`restore`](Self::restore)s from them, its own data in the same write;
/// 6. answers [`read`](Self::read)s and [`Evidence::seen`] from here.
///
/// After an error, the replica MUST be given up: part of what it had worked out is lost.
#[derive(Debug)]
pub struct Replica {
    store: Store,
    version: Version,
    /// What was applied and is not in the store yet, how many entries that was, and how many bytes.
    unwritten: (Effect, usize, usize),
    applied: Option<Vec<u8>>,
    evidence: Evidence,
    writes: Arc<Latency>,
}

impl Replica {
    /// The replica over what `store` holds; `now` is read before.
    ///
    /// # Errors
    /// `Corrupt` for a state with entries and no version, and those of the store.
    pub fn open(store: Store, now: BootTime) -> Result<Self> {
        let version = stored_version(&store)?;
        if version == Version::EMPTY && !store.scan(&[], &[u8::MAX; 8], 1)?.is_empty() {
            let context = "the state has entries, but no version; restore or replace this node";
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let applied = store.read(REPLICA, APPLIED)?;
        let evidence = Evidence::default();
        evidence.jumped(version, now);
        let writes = Arc::new(Latency::shown_as(STORE_SYNC_DURATION));
        Ok(Self { store, version, unwritten: <_>::default(), applied, evidence, writes })
    }

    /// The store, for what else the driver keeps in it.
    pub fn store(&self) -> &Store {
        &self.store
    }

    /// The version of the state, with all that was applied.
    pub fn version(&self) -> Version {
        self.version
    }

    /// How far the log is applied, as the driver has noted it; `None` if it never has.
    pub fn applied(&self) -> Option<&[u8]> {
        self.applied.as_deref()
    }

    /// Notes how far the log is applied. It is written together with what that has changed.
    pub fn set_applied(&mut self, applied: Vec<u8>) {
        self.applied = Some(applied);
        self.unwritten.1 = self.unwritten.1.max(1);
    }

    /// How long [`write`](Self::write) takes, for callers of any thread.
    pub fn writes(&self) -> Arc<Latency> {
        self.writes.clone()
    }

    /// When commits were first observed, for callers of any thread.
    pub fn evidence(&self) -> Evidence {
        self.evidence.clone()
    }

    /// Applies the commit of `effect` on `base`, which is the next one in the log. Returns what its
    /// caller gets.
    ///
    /// An entry whose base is not the state's version changes nothing. It conflicts; or it is `Stored`,
    /// if an earlier copy of it was. Its caller gets `Unavailable` for a base that the state has never
    /// been at, and `Uncertain` if an earlier copy may have been stored too long ago to tell.
    ///
    /// # Errors
    /// `Fatal` if the effect writes no version, which no [`LogEntry`](crate::LogEntry) does.
    pub fn apply(
        &mut self,
        base: Version,
        effect: Effect,
        now: BootTime,
    ) -> Result<Result<Outcome>> {
        let next = effect.version()?;
        if base == self.version {
            self.unwritten.2 += effect.size();
            self.unwritten.0.merge(effect);
            self.unwritten.1 += 1;
            self.version = next;
            self.evidence.applied(next, now);
            return Ok(Ok(Outcome::Stored));
        }
        self.evidence.refused(&next);
        let found = self.version;
        Ok(match base.admits(next, found) {
            Some(Outcome::Stored) => Ok(Outcome::Stored),
            Some(conflict) => match self.evidence.history(&next) {
                History::Stored => Ok(Outcome::Stored),
                History::NotStored => Ok(conflict),
                // The numbers between were used up without it.
                History::Unknown if found.position() < next.position() => Ok(conflict),
                History::Unknown => Err(Error::new(
                    ErrorKind::Uncertain,
                    format!("the state is at {found:?}; whether it was at {next:?} is not known"),
                )),
            },
            None => Err(Error::new(
                ErrorKind::Unavailable,
                format!("a commit on {base:?} came to a state that is at {found:?} only"),
            )),
        })
    }

    /// Reads from all that was applied.
    ///
    /// # Errors
    /// Those of the store.
    pub fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        Ok(Snapshot {
            version: self.version,
            values: wanted.keys.iter().map(|key| self.get(key)).collect::<Result<_>>()?,
            ranges: wanted.ranges.iter().map(|range| self.scan(range)).collect::<Result<_>>()?,
        })
    }

    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        match self.unwritten.0.get(key) {
            Some(written) => Ok(written.map(<[u8]>::to_vec)),
            None => SeqStore::get(&self.store, key),
        }
    }

    fn scan(&self, KeyRange { from, to, limit }: &KeyRange) -> Result<Vec<Entry>> {
        let written: Vec<_> = self.unwritten.0.range(from, to).collect();
        // Each deletion may hide one entry of the store, so that many more are read.
        let hidden = written.iter().filter(|(_, value)| value.is_none()).count();
        let stored = self.store.scan(from, to, limit.saturating_add(hidden))?;
        if written.is_empty() {
            return Ok(stored);
        }
        let mut merged: BTreeMap<_, _> = stored.into_iter().collect();
        for (key, value) in written {
            match value {
                Some(value) => drop(merged.insert(key.to_vec(), value.to_vec())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(*limit).collect())
    }

    /// Makes `writes` to other tables, durably, with what was applied if there is much of that.
    ///
    /// # Errors
    /// Those of the store.
    pub fn write(&mut self, writes: impl IntoIterator<Item = (Table, Effect)>) -> Result<()> {
        let (entries, keys) = UNWRITTEN;
        let (effect, count, bytes) = &self.unwritten;
        let is_due = *count >= entries || effect.len() >= keys || *bytes >= UNWRITTEN_BYTES;
        let state = if is_due { self.take_unwritten() } else { vec![] };
        let timing = self.writes.begin(SystemClock.now().boot);
        self.store.write(writes.into_iter().chain(state))?;
        timing.end(SystemClock.now().boot);
        Ok(())
    }

    /// Brings the store up to what was applied. The next [`write`](Self::write) makes it durable.
    ///
    /// # Errors
    /// Those of the store.
    pub fn settle(&mut self) -> Result<()> {
        self.settle_with([])
    }

    /// As [`settle`](Self::settle), together with `writes` to other tables: a crash undoes both, or
    /// neither. For what a service that carries the oracle has worked out from entries of its own, up to
    /// where [`applied`](Self::applied) is.
    ///
    /// # Errors
    /// Those of the store.
    pub fn settle_with(&mut self, writes: impl IntoIterator<Item = (Table, Effect)>) -> Result<()> {
        let mut settled = self.take_unwritten();
        settled.extend(writes);
        if settled.is_empty() { Ok(()) } else { self.store.write_unsynced(settled) }
    }

    fn take_unwritten(&mut self) -> Vec<(Table, Effect)> {
        let (effect, entries, _) = std::mem::take(&mut self.unwritten);
        match &self.applied {
            _ if entries == 0 => vec![],
            Some(applied) => vec![(STATE, effect), mark(applied)],
            None => vec![(STATE, effect)],
        }
    }

    /// The state as of now, with [`applied`](Self::applied) in its header.
    ///
    /// # Errors
    /// Those of the store.
    pub fn snapshot(&mut self) -> Result<Chunks> {
        self.settle()?;
        Ok(Chunks::new(self.store.view()?, self.applied().unwrap_or_default()))
    }

    /// Replaces the state by a snapshot, together with `writes` to other tables: all of it or nothing,
    /// and durable on return. How far the log is applied is what the snapshot says.
    ///
    /// # Errors
    /// `Corrupt` if the snapshot is not whole; those of the store.
    pub fn restore(
        &mut self,
        chunks: impl IntoIterator<Item = Result<Vec<u8>>>,
        writes: impl IntoIterator<Item = (Table, Effect)>,
        now: BootTime,
    ) -> Result<()> {
        let (applied, entries) = snapshot::open(chunks)?;
        let writes = writes.into_iter().chain([mark(&applied)]);
        self.store.replace_state(entries, writes)?;
        self.version = stored_version(&self.store)?;
        self.unwritten = <_>::default();
        self.applied = Some(applied);
        self.evidence.jumped(self.version, now);
        Ok(())
    }
}

fn stored_version(store: &Store) -> Result<Version> {
    Version::decode(SeqStore::get(store, VERSION)?.as_deref())
}

fn mark(applied: &[u8]) -> (Table, Effect) {
    let mut effect = Effect::default();
    effect.put(APPLIED, applied);
    (REPLICA, effect)
}
