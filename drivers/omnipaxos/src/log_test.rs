//! The log does what the library's own storage in memory does, and the store has it all.

use std::path::Path;

use omnipaxos::{
    ballot_leader_election::Ballot,
    storage::{Storage, StorageOp},
};
use omnipaxos_storage::memory_storage::MemoryStorage;
use proptest::prelude::*;
use tsoracle_core::{Effect, ErrorKind};
use tsoracle_store::{Store, Table};

use crate::{
    entry::{Commit, Entry, State},
    log::Log,
    storage::SharedLog,
    testing::commit,
};

fn commits(count: usize, seed: u64) -> Vec<Commit> {
    (0..count as u64).map(|index| commit(seed << 8 | index)).collect()
}

fn entries(count: usize, seed: u64) -> Vec<Entry> {
    commits(count, seed).into_iter().map(Entry::Commit).collect()
}

fn ballot(n: u32) -> Ballot {
    Ballot::with(1, n, 0, 1)
}

fn store(path: &Path) -> Store {
    Store::open(path, Default::default()).unwrap()
}

fn reopened(log: &SharedLog, store: &Store) -> SharedLog {
    store.write(log.borrow_mut().take_writes()).unwrap();
    SharedLog::new(Log::open(store).unwrap())
}

/// Something that the library does to its storage.
#[derive(Clone, Debug)]
enum Step {
    Append(usize),
    /// Replaces the part that is not decided, from somewhere in it.
    Replace {
        at: prop::sample::Index,
        count: usize,
    },
    Promise(u32),
    Accept(u32),
    Decide(prop::sample::Index),
    /// Drops what is decided, up to somewhere.
    Trim(prop::sample::Index),
    /// Takes a state that ends so far beyond what is decided, and entries after it.
    TakeState {
        beyond: usize,
        count: usize,
    },
    Reopen,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let index = any::<prop::sample::Index>;
    let step = prop_oneof![
        4 => (0..5_usize).prop_map(Step::Append),
        2 => (index(), 0..4_usize).prop_map(|(at, count)| Step::Replace { at, count }),
        1 => (1..50_u32).prop_map(Step::Promise),
        1 => (1..50_u32).prop_map(Step::Accept),
        3 => index().prop_map(Step::Decide),
        2 => index().prop_map(Step::Trim),
        1 => (0..6_usize, 0..4_usize).prop_map(|(beyond, count)| Step::TakeState { beyond, count }),
        2 => Just(Step::Reopen),
    ];
    prop::collection::vec(step, 1..40)
}

/// Does the same to both.
fn both(log: &mut SharedLog, model: &mut MemoryStorage<Entry>, operations: &[StorageOp<Entry>]) {
    log.write_atomically(operations.iter().map(copied).collect()).unwrap();
    model.write_atomically(operations.iter().map(copied).collect()).unwrap();
}

fn copied(operation: &StorageOp<Entry>) -> StorageOp<Entry> {
    match operation {
        StorageOp::AppendEntry(entry) => StorageOp::AppendEntry(entry.clone()),
        StorageOp::AppendEntries(entries) => StorageOp::AppendEntries(entries.clone()),
        StorageOp::AppendOnPrefix(from, entries) => {
            StorageOp::AppendOnPrefix(*from, entries.clone())
        }
        StorageOp::SetPromise(ballot) => StorageOp::SetPromise(*ballot),
        StorageOp::SetDecidedIndex(index) => StorageOp::SetDecidedIndex(*index),
        StorageOp::SetAcceptedRound(ballot) => StorageOp::SetAcceptedRound(*ballot),
        StorageOp::SetCompactedIdx(index) => StorageOp::SetCompactedIdx(*index),
        StorageOp::Trim(index) => StorageOp::Trim(*index),
        StorageOp::SetStopsign(stop_sign) => StorageOp::SetStopsign(stop_sign.clone()),
        StorageOp::SetSnapshot(snapshot) => StorageOp::SetSnapshot(*snapshot),
    }
}

fn step(log: &mut SharedLog, model: &mut MemoryStorage<Entry>, step: &Step, seed: u64) {
    let (first, decided, end) = {
        let log = log.borrow();
        (log.first, log.decided, log.end())
    };
    let between = |at: &prop::sample::Index, from: usize, to: usize| from + at.index(to - from + 1);
    match step {
        Step::Append(1) => {
            let entry = Entry::Commit(commit(seed << 8));
            both(log, model, &[StorageOp::AppendEntry(entry)]);
        }
        Step::Append(count) => {
            both(log, model, &[StorageOp::AppendEntries(entries(*count, seed))]);
        }
        Step::Replace { at, count } => {
            let from = between(at, decided, end);
            both(log, model, &[StorageOp::AppendOnPrefix(from, entries(*count, seed))]);
        }
        Step::Promise(n) => both(log, model, &[StorageOp::SetPromise(ballot(*n))]),
        Step::Accept(n) => both(log, model, &[StorageOp::SetAcceptedRound(ballot(*n))]),
        Step::Decide(at) => {
            both(log, model, &[StorageOp::SetDecidedIndex(between(at, decided, end))]);
        }
        Step::Trim(at) => {
            let to = between(at, first, decided);
            log.borrow_mut().trim(to);
            model.trim(to).unwrap();
            model.set_compacted_idx(to).unwrap();
        }
        Step::TakeState { beyond, count } => {
            let to = decided + beyond;
            log.borrow_mut().offer(to);
            model.trim(to).unwrap();
            model.set_compacted_idx(to).unwrap();
            both(
                log,
                model,
                &[
                    StorageOp::SetAcceptedRound(ballot(9)),
                    StorageOp::SetDecidedIndex(to),
                    StorageOp::AppendOnPrefix(to, entries(*count, seed)),
                ],
            );
            assert_eq!(log.borrow_mut().take_state(), Some(to));
        }
        Step::Reopen => {}
    }
}

/// Everything that can be asked is answered alike.
fn compare(log: &SharedLog, model: &MemoryStorage<Entry>) -> Result<(), TestCaseError> {
    prop_assert_eq!(log.get_promise().unwrap(), model.get_promise().unwrap());
    prop_assert_eq!(log.get_accepted_round().unwrap(), model.get_accepted_round().unwrap());
    prop_assert_eq!(log.get_decided_idx().unwrap(), model.get_decided_idx().unwrap());
    prop_assert_eq!(log.get_log_len().unwrap(), model.get_log_len().unwrap());
    prop_assert_eq!(log.get_compacted_idx().unwrap(), model.get_compacted_idx().unwrap());
    let (first, end) = (log.borrow().first, log.borrow().end());
    for from in first..=end + 1 {
        prop_assert_eq!(log.get_suffix(from).unwrap(), model.get_suffix(from).unwrap());
        for to in from..=end + 1 {
            let found = log.get_entries(from, to).unwrap();
            prop_assert_eq!(found, model.get_entries(from, to).unwrap());
        }
    }
    // The state stands for what is not here any more.
    let state = Entry::State(State { index: first, transfer: 0 });
    for from in 0..first {
        let suffix = log.get_suffix(from).unwrap();
        let rest = model.get_suffix(first).unwrap();
        prop_assert_eq!(suffix.split_first(), Some((&state, &rest[..])));
    }
    let bytes: usize = log.borrow().range(first, end).iter().map(|e| e.bytes().len()).sum();
    prop_assert_eq!(log.borrow().bytes, bytes);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(24))]

    #[test]
    fn the_log_does_what_the_librarys_own_does_and_the_store_has_it(steps in steps()) {
        let directory = tempfile::tempdir().unwrap();
        let store = store(directory.path());
        let mut log = SharedLog::new(Log::open(&store).unwrap());
        let mut model = MemoryStorage::default();
        for (seed, taken) in steps.iter().enumerate() {
            if let Step::Reopen = taken {
                log = reopened(&log, &store);
            }
            step(&mut log, &mut model, taken, seed as u64);
            compare(&log, &model)?;
        }
        compare(&reopened(&log, &store), &model)?;
    }
}

#[test]
fn single_writes_do_the_same_as_those_of_a_batch() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut log = SharedLog::new(Log::open(&store).unwrap());
    log.append_entry(Entry::Commit(commit(1))).unwrap();
    log.append_entries(entries(3, 2)).unwrap();
    log.append_on_prefix(2, entries(2, 3)).unwrap();
    log.set_promise(ballot(4)).unwrap();
    log.set_accepted_round(ballot(3)).unwrap();
    log.set_decided_idx(3).unwrap();
    let log = reopened(&log, &store);
    let expected = [entries(3, 2)[0].clone(), entries(2, 3)[0].clone(), entries(2, 3)[1].clone()];
    assert_eq!(log.get_suffix(1).unwrap(), expected);
    assert_eq!(log.get_promise().unwrap(), Some(ballot(4)));
    assert_eq!(log.get_decided_idx().unwrap(), 3);
}

#[test]
fn what_must_be_durable_before_messages_leave_is_told_from_what_need_not() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut log = Log::open(&store).unwrap();
    let mut staged = |change: &dyn Fn(&mut Log)| {
        change(&mut log);
        let found = (log.urgent, log.has_only_appended());
        store.write(log.take_writes()).unwrap();
        found
    };
    assert_eq!(staged(&|log| log.append(commits(3, 1))), (true, true));
    assert_eq!(staged(&|log| log.set_decided(2)), (false, true));
    assert_eq!(staged(&|log| log.trim(1)), (false, true));
    assert_eq!(staged(&|log| log.set_promise(ballot(1))), (true, false));
    // The same once more is nothing to write.
    assert_eq!(staged(&|log| log.set_promise(ballot(1))), (false, true));
    assert_eq!(staged(&|log| log.set_accepted(ballot(1))), (true, false));
    assert_eq!(staged(&|log| log.replace(2, commits(1, 2)).unwrap()), (true, false));
    assert_eq!(staged(&|log| log.replace(3, commits(1, 3)).unwrap()), (true, true));
}

#[test]
fn a_gap_is_refused_when_written_and_when_read() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut log = Log::open(&store).unwrap();
    log.append(commits(4, 1));
    log.set_decided(2);
    log.trim(2);
    for from in [1, 5] {
        let error = log.replace(from, commits(1, 2)).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
    }
    store.write(log.take_writes()).unwrap();
    let mut hole = Effect::default();
    hole.delete(2_u64.to_be_bytes());
    store.write([(Table::new("paxos-log"), hole)]).unwrap();
    let error = Log::open(&store).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("where entry 2 should be"), "{error}");
}

#[test]
fn what_is_decided_without_being_there_is_damage() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut log = Log::open(&store).unwrap();
    log.append(commits(2, 1));
    log.set_decided(3);
    store.write(log.take_writes()).unwrap();
    let error = Log::open(&store).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt);
    assert!(error.to_string().contains("3 are decided"), "{error}");
}

#[test]
fn a_state_takes_the_place_of_all_before_the_entries_that_it_came_with() {
    let directory = tempfile::tempdir().unwrap();
    let store = store(directory.path());
    let mut log = Log::open(&store).unwrap();
    log.append(commits(3, 1));
    // OmniPaxos takes other entries, and the state is of no use.
    log.offer(6);
    log.replace(3, commits(1, 2)).unwrap();
    assert_eq!((log.take_state(), log.first, log.end()), (None, 0, 4));
    log.replace(6, commits(1, 3)).unwrap_err();
    log.offer(6);
    log.withdraw();
    log.replace(6, commits(1, 3)).unwrap_err();
    log.offer(6);
    log.offer(7);
    log.replace(6, commits(2, 3)).unwrap();
    assert_eq!((log.take_state(), log.first, log.end()), (Some(6), 6, 8));
    assert_eq!(log.take_state(), None);
    assert!(log.shortened);
    log.set_decided(6);
    store.write(log.take_writes()).unwrap();
    let log = Log::open(&store).unwrap();
    assert_eq!(log.range(6, 8), commits(2, 3));
}
