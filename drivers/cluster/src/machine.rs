use std::collections::BTreeMap;

use tsoracle_core::{
    BootTime, Committed, Result, SeqStore,
    state::{self, Answer, Command, Effect, Overlay, Query, REIGN},
};
use tsoracle_store::{Store, Table};

use crate::{EntryId, LogEntry};

const MACHINE: Table = Table::new("machine");
const APPLIED: &[u8] = b"applied";
const STATE: Table = Table::new("state");

/// Entries that were seen and not applied yet, at most. Of one beyond it is only known when it was
/// applied, which makes a successor wait longer than it had to.
const MOST_SEEN: usize = 4_096;

/// Applied entries, and keys that they have changed, that are not in the store yet, at most. They bound
/// what a crash undoes, and how long it takes to write it all.
const UNWRITTEN: (usize, usize) = (1_000, 2_000);

/// The replicated state machine: it applies the entries of a log, in order, over a [`Store`].
///
/// What they change is kept in memory and written now and then, many entries at once: keys that are
/// in use are written once for all of them. A crash undoes what was not written, together with the note
/// of how far it had come, and it is applied again from the log. So a driver MUST keep an entry in its
/// log, durably, until what it has changed is in the store.
///
/// It also gathers the evidence that shortens a take-over: when this process first saw the entry that
/// wrote the reign record which a fence replaces.
#[derive(Debug)]
pub struct Machine {
    /// When this process first saw each entry that is not applied yet.
    seen: BTreeMap<EntryId, BootTime>,
    /// When it first saw the last write of the reign record, if there was any.
    reign_seen: Option<BootTime>,
    /// What was applied and is not in the store yet, and how many entries that was.
    unwritten: (Effect, usize),
}

impl Machine {
    /// The machine over what `store` holds; `now` is read before.
    ///
    /// # Errors
    /// Those of the store.
    pub fn open(store: &Store, now: BootTime) -> Result<Self> {
        let mut machine =
            Self { seen: BTreeMap::new(), reign_seen: None, unwritten: <_>::default() };
        machine.reload(store, now)?;
        Ok(machine)
    }

    /// As [`open`](Self::open), after the state was replaced by a snapshot.
    ///
    /// # Errors
    /// Those of the store.
    pub fn reload(&mut self, store: &Store, now: BootTime) -> Result<()> {
        // What lies there now was written before now: by the very write that the next one replaces.
        self.reign_seen = SeqStore::get(store, REIGN)?.map(|_| now);
        self.unwritten = <_>::default();
        Ok(())
    }

    /// How far the store is, as the driver gave it to [`settle`](Self::settle) or
    /// [`mark`](Self::mark).
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

    /// Applies `entries`, which follow in the log on what was applied before, and answers each.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` if the state cannot be read. The machine MUST then be given
    /// up: what it had worked out is lost.
    pub fn apply(
        &mut self,
        store: &Store,
        entries: &[LogEntry],
        now: BootTime,
    ) -> Result<Vec<Committed>> {
        let mut overlay = Overlay::over(store, std::mem::take(&mut self.unwritten.0));
        let mut answers = Vec::with_capacity(entries.len());
        for LogEntry { id, epoch, commands } in entries {
            let (results, wrote_reign) = state::apply_over(&mut overlay, *epoch, commands)?;
            let begins_with_fence = matches!(commands.first(), Some(Command::Fence { .. }));
            let replaced_seen = self.reign_seen.filter(|_| begins_with_fence);
            let seen = self.seen.remove(id).unwrap_or(now);
            if wrote_reign {
                self.reign_seen = Some(seen);
            }
            answers.push(Committed { results, replaced_seen });
        }
        self.unwritten.0 = overlay.into_effect();
        self.unwritten.1 += entries.len();
        // Entries that were overwritten before they were committed are never applied.
        if self.seen.len() >= MOST_SEEN {
            self.seen.clear();
        }
        Ok(answers)
    }

    /// Answers a query from all that was applied.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` if the state cannot be read.
    pub fn answer(&mut self, store: &Store, query: &Query) -> Result<Answer> {
        let overlay = Overlay::over(store, std::mem::take(&mut self.unwritten.0));
        let answer = state::answer(&overlay, query);
        self.unwritten.0 = overlay.into_effect();
        answer
    }

    /// Whether so much is not in the store yet that it should be written with the next commit.
    pub fn is_due(&self) -> bool {
        let (entries, keys) = UNWRITTEN;
        self.unwritten.1 >= entries || self.unwritten.0.len() >= keys
    }

    /// The writes that bring the store up to what was applied, of which `applied` tells how far that
    /// is: to be made in one commit, before anything else is applied. None if it is there already.
    pub fn settle(&mut self, applied: &[u8]) -> Vec<(Table, Effect)> {
        match std::mem::take(&mut self.unwritten) {
            (_, 0) => vec![],
            (effect, _) => vec![(STATE, effect), Self::mark(applied)],
        }
    }
}

#[cfg(test)]
mod tests {
    use tempfile::TempDir;
    use tsoracle_core::{
        Epoch, NodeId, SeqKey,
        state::{Advance, Limits},
    };

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

        fn settle(&mut self) {
            let writes = self.machine.settle(&self.entries.to_be_bytes());
            self.store.write_unsynced(writes).unwrap();
        }

        fn apply_unseen(&mut self, entry: LogEntry) -> Option<BootTime> {
            let answers = self.machine.apply(&self.store, &[entry], at(self.now));
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
        log.settle();
        log.machine = Machine::open(&log.store, at(500)).unwrap();
        assert_eq!(log.apply(2, fence()), Some(at(500)));
        log.settle();
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
        let answers = log.machine.apply(&log.store, &entries, at(9)).unwrap();
        assert_eq!(answers[3].replaced_seen, Some(at(2)));
        assert!(answers[..4].iter().all(|answer| answer.results[0].is_ok()));
        assert!(answers[4].results[0].is_err());
    }

    #[test]
    fn what_is_not_written_is_undone_by_a_crash_together_with_how_far_it_was() {
        let mut log = Log::new();
        log.apply(1, fence());
        log.settle();
        log.apply(1, open());
        log.apply(1, extend());
        let reign = |log: &Log| SeqStore::get(&log.store, REIGN).unwrap();
        let written = reign(&log);
        let answered = log.machine.answer(&log.store, &Query::Reign).unwrap();
        log.machine.reload(&log.store, at(99)).unwrap();
        assert_eq!(Machine::applied(&log.store).unwrap(), Some(1_u64.to_be_bytes().to_vec()));
        assert_ne!(log.machine.answer(&log.store, &Query::Reign).unwrap(), answered);
        // Applied again, it is the same.
        log.entries = 1;
        log.apply(1, open());
        log.apply(1, extend());
        assert_eq!(log.machine.answer(&log.store, &Query::Reign).unwrap(), answered);
        assert_eq!(reign(&log), written);
        log.settle();
        assert_ne!(reign(&log), written);
        assert_eq!(Machine::applied(&log.store).unwrap(), Some(3_u64.to_be_bytes().to_vec()));
        assert!(log.machine.settle(b"nothing").is_empty());
    }

    #[test]
    fn it_is_due_after_so_many_entries_or_keys() {
        let mut log = Log::new();
        log.apply(1, fence());
        log.apply(1, open());
        assert!(!log.machine.is_due());
        for _ in 2..UNWRITTEN.0 {
            log.apply(1, extend());
        }
        assert!(log.machine.is_due());
        log.settle();
        assert!(!log.machine.is_due());
        let limits = Limits { keys: 10_000, sessions: 1, open_requests: 1, leases: 1 };
        let advance = |key: usize| {
            let entries = vec![(SeqKey::new(key.to_string()).unwrap(), 1)];
            Command::Advance(Advance { entries, id: None, elapsed_ms: 0, limits })
        };
        log.apply(1, (0..UNWRITTEN.1).map(advance).collect());
        assert!(log.machine.is_due());
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
