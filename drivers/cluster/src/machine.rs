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
        let answers = self.plan_over(&mut overlay, entries, now)?;
        Ok((answers, overlay.into_effect()))
    }

    /// As [`plan`](Self::plan), over a state of which some is not written yet, and which the writes are
    /// added to.
    ///
    /// # Errors
    /// As for [`plan`](Self::plan).
    pub fn plan_over(
        &mut self,
        overlay: &mut Overlay<'_>,
        entries: &[LogEntry],
        now: BootTime,
    ) -> Result<Vec<Committed>> {
        let mut answers = Vec::with_capacity(entries.len());
        for LogEntry { id, epoch, commands } in entries {
            let (results, effect) = state::apply(overlay, *epoch, commands)?;
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
        Ok(answers)
    }

    /// The writes that bring a store to the state that `effect` leads to: to be made in one commit.
    pub fn writes(effect: Effect, applied: &[u8]) -> [(Table, Effect); 2] {
        [(STATE, effect), Self::mark(applied)]
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
        store.write(Self::writes(effect, applied).into_iter().chain(writes))?;
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
        store.write_unsynced(Self::writes(effect, applied).into_iter().chain(writes))?;
        Ok(answers)
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tsoracle_core::{Epoch, NodeId};

    use super::*;

    /// A log that is applied, and the clock.
    struct Log {
        _directory: TempDir,
        store: Store,
        machine: Machine,
        now: u64,
        entries: u64,
    }

    impl Log {
        fn new() -> Self {
            let directory = tempfile::tempdir().unwrap();
            let store = Store::open(directory.path(), Default::default()).unwrap();
            let machine = Machine::open(&store, at(0)).unwrap();
            Self { _directory: directory, store, machine, now: 0, entries: 0 }
        }

        fn entry(&mut self, epoch: u128, commands: Vec<Command>) -> LogEntry {
            self.entries += 1;
            let id = EntryId { node: 1, claim: 1, counter: self.entries };
            LogEntry { id, epoch: Epoch(epoch), commands }
        }

        /// Sees an entry at one moment and applies it at the next: what the fence in it replaced.
        fn apply(&mut self, epoch: u128, commands: Vec<Command>) -> Option<BootTime> {
            let entry = self.entry(epoch, commands);
            self.now += 2;
            self.machine.observe(entry.id, at(self.now - 1));
            self.apply_unseen(entry)
        }

        fn apply_unseen(&mut self, entry: LogEntry) -> Option<BootTime> {
            let applied = entry.id.counter.to_be_bytes();
            let answers = self.machine.apply(&self.store, &[entry], at(self.now), &applied, []);
            let answer = answers.unwrap().remove(0);
            assert!(answer.results.iter().all(|result| result.is_ok()), "{answer:?}");
            answer.replaced_seen
        }
    }

    fn at(millis: u64) -> BootTime {
        BootTime::from_nanos(millis * 1_000_000)
    }

    fn fence() -> Vec<Command> {
        vec![Command::Fence { now_ms: 1_000, headroom_ms: 10, lease_ms: 100 }]
    }

    fn open() -> Vec<Command> {
        vec![Command::Open { node: NodeId(7), lease_ms: 100 }]
    }

    fn extend() -> Vec<Command> {
        vec![Command::Extend { high_water_ms: 1, elapsed_ms: 0 }]
    }

    #[test]
    fn a_fence_is_told_when_the_write_that_it_replaced_was_first_seen() {
        let mut log = Log::new();
        assert_eq!(log.apply(1, fence()), None);
        assert_eq!(log.apply(1, open()), None);
        // Unchanged values count as a write, too.
        log.apply(1, extend());
        log.apply(1, extend());
        assert_eq!(log.now, 8);
        assert_eq!(log.apply(2, fence()), Some(at(7)));
        assert_eq!(log.apply(3, fence()), Some(at(9)));
    }

    #[test]
    fn a_write_that_was_not_seen_before_counts_from_when_it_was_applied() {
        let mut log = Log::new();
        log.apply(1, fence());
        log.now = 50;
        let open = log.entry(1, open());
        log.apply_unseen(open);
        log.now = 80;
        assert_eq!(log.apply(2, fence()), Some(at(50)));
    }

    #[test]
    fn what_lay_in_the_store_was_seen_when_it_was_opened_or_replaced() {
        let mut log = Log::new();
        log.apply(1, fence());
        log.machine = Machine::open(&log.store, at(500)).unwrap();
        assert_eq!(log.apply(2, fence()), Some(at(500)));
        log.machine.reload(&log.store, at(900)).unwrap();
        assert_eq!(log.apply(3, fence()), Some(at(900)));
    }

    #[test]
    fn entries_of_one_commit_see_those_before_them() {
        let mut log = Log::new();
        let entries = [log.entry(1, fence()), log.entry(1, open()), log.entry(1, extend())];
        let (later, stale) = (log.entry(2, fence()), log.entry(1, extend()));
        let entries = [&entries[..], &[later, stale]].concat();
        for (count, entry) in entries.iter().enumerate() {
            log.machine.observe(entry.id, at(count as u64));
        }
        let answers = log.machine.apply(&log.store, &entries, at(9), b"five", []).unwrap();
        assert_eq!(answers[3].replaced_seen, Some(at(2)));
        assert!(answers[..4].iter().all(|answer| answer.results[0].is_ok()));
        assert!(answers[4].results[0].is_err());
        assert_eq!(Machine::applied(&log.store).unwrap(), Some(b"five".to_vec()));
    }

    #[test]
    fn entries_that_are_never_applied_are_forgotten() {
        let mut log = Log::new();
        for _ in 0..2 * MOST_SEEN {
            let entry = log.entry(1, vec![]);
            log.machine.observe(entry.id, at(1));
        }
        assert_eq!(log.machine.seen.len(), MOST_SEEN);
        log.apply(1, fence());
        assert_eq!(log.machine.seen.len(), 0);
    }
}
