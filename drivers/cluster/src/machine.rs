use std::collections::BTreeMap;

use tsoracle_core::{
    BootTime, Committed, Result,
    state::{self, Command, Effect, Overlay, REIGN, View as _},
};
use tsoracle_store::{Store, Table};

use crate::{EntryId, LogEntry};

const MACHINE: Table = Table::new("machine");
const APPLIED: &[u8] = b"applied";
const STATE: Table = Table::new("state");

/// Entries that were seen and not applied yet, at most. Of one beyond it is only known when it was
/// applied, which makes a successor wait longer than it had to.
const MOST_SEEN: usize = 4_096;

/// The replicated state machine: it applies the entries of a log, in order, over a [`Store`].
///
/// It also gathers the evidence that shortens a take-over: when this process first saw the entry that
/// wrote the reign record which a fence replaces.
#[derive(Debug)]
pub struct Machine {
    /// When this process first saw each entry that is not applied yet.
    seen: BTreeMap<EntryId, BootTime>,
    /// When it first saw the last write of the reign record, if there was any.
    reign_seen: Option<BootTime>,
}

impl Machine {
    /// The machine over what `store` holds; `now` is read before.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: &Store, now: BootTime) -> Result<Self> {
        let mut machine = Self { seen: BTreeMap::new(), reign_seen: None };
        machine.reload(store, now)?;
        Ok(machine)
    }

    /// As [`open`](Self::open), after the state was replaced by a snapshot.
    ///
    /// # Errors
    /// Those of the store.
    pub fn reload(&mut self, store: &Store, now: BootTime) -> Result<()> {
        // What lies there now was written before now: by the very write that the next one replaces.
        self.reign_seen = store.get(REIGN)?.map(|_| now);
        Ok(())
    }

    /// What was stored with the last entries applied, as the driver gave it.
    ///
    /// # Errors
    /// Those of the store.
    pub fn applied(store: &Store) -> Result<Option<Vec<u8>>> {
        store.read(MACHINE, APPLIED)
    }

    /// The write that [`applied`](Self::applied) reads, to be made together with a snapshot's state.
    pub fn mark(applied: &[u8]) -> (Table, Effect) {
        let mut effect = Effect::default();
        effect.put(APPLIED, applied);
        (MACHINE, effect)
    }

    /// Notes that `entry` was seen in the log, at `now`.
    pub fn observe(&mut self, entry: EntryId, now: BootTime) {
        if self.seen.len() < MOST_SEEN {
            self.seen.entry(entry).or_insert(now);
        }
    }

    /// Works out `entries`, which follow in the log on what was applied before: the answers to each,
    /// and the writes to make, in one commit, before anything else is applied.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` if the state cannot be read. The machine MUST then be given
    /// up: what it had worked out is lost.
    pub fn plan(
        &mut self,
        store: &Store,
        entries: &[LogEntry],
        now: BootTime,
    ) -> Result<(Vec<Committed>, Effect)> {
        let mut overlay = Overlay::new(store);
        let mut answers = Vec::with_capacity(entries.len());
        for LogEntry { id, epoch, commands } in entries {
            let (results, effect) = state::apply(&overlay, *epoch, commands)?;
            let begins_with_fence = matches!(commands.first(), Some(Command::Fence { .. }));
            let replaced_seen = self.reign_seen.filter(|_| begins_with_fence);
            let seen = self.seen.remove(id).unwrap_or(now);
            if effect.touches(REIGN) {
                self.reign_seen = Some(seen);
            }
            overlay.merge(effect);
            answers.push(Committed { results, replaced_seen });
        }
        // Entries that were overwritten before they were committed are never applied.
        if self.seen.len() >= MOST_SEEN {
            self.seen.clear();
        }
        Ok((answers, overlay.into_effect()))
    }

    /// Applies `entries` in one commit, durable on return, together with what the driver keeps:
    /// `applied`, which says how far it has come, and any further writes.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan).
    pub fn apply(
        &mut self,
        store: &Store,
        entries: &[LogEntry],
        now: BootTime,
        applied: &[u8],
        writes: impl IntoIterator<Item = (Table, Effect)>,
    ) -> Result<Vec<Committed>> {
        let (answers, effect) = self.plan(store, entries, now)?;
        store.write([(STATE, effect), Self::mark(applied)].into_iter().chain(writes))?;
        Ok(answers)
    }

    /// As [`apply`](Self::apply), without a sync: a crash undoes it, and `applied` with it. Only for
    /// a driver that applies the entries again then, since its log still has them, durably.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan).
    pub fn apply_unsynced(
        &mut self,
        store: &Store,
        entries: &[LogEntry],
        now: BootTime,
        applied: &[u8],
        writes: impl IntoIterator<Item = (Table, Effect)>,
    ) -> Result<Vec<Committed>> {
        let (answers, effect) = self.plan(store, entries, now)?;
        store.write_unsynced([(STATE, effect), Self::mark(applied)].into_iter().chain(writes))?;
        Ok(answers)
    }
}
