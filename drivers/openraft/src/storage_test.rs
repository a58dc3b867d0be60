use std::{path::Path, sync::Arc};

use openraft::{
    CommittedLeaderId, EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tsoracle_core::{BootTime, Clock, Effect, Result, SystemClock, Version};
use tsoracle_replica::{Config, LogEntry, StoreThread, Waiters, store_thread::After};

use crate::{
    log::Log,
    machine::StateMachine,
    store,
    types::{Entry, Id, Payload, SnapshotData, Stored, TypeConfig, Vote, storage},
};

/// Makes storage in a directory of its own.
struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Stored<(TempDir, Log, StateMachine)> {
        let directory = tempfile::tempdir().unwrap();
        let Parts { log, machine, .. } = open(directory.path()).await.map_err(storage)?;
        // The suite purges what was never applied.
        log.applied(Some(id(u64::MAX, 0, u64::MAX)));
        Ok((directory, log, machine))
    }
}

struct Parts {
    store: StoreThread,
    log: Log,
    machine: StateMachine,
}

async fn open(directory: &Path) -> Result<Parts> {
    let config = Config {
        path: directory.into(),
        node: 1,
        peers: "1=127.0.0.1:1/h:1".into(),
        ..Config::default()
    };
    let (cluster, waiters) = (config.check()?, Arc::<Waiters>::default());
    let clock: Arc<dyn Clock> = Arc::new(SystemClock);
    let opening =
        StoreThread::start(clock.clone(), move || store::open(&cluster, BootTime::default()));
    let (store, (_, found)) = opening.await?;
    let (own, last, applied) = (store.clone(), found.last, found.applied);
    let log = Log::open(1, own, waiters.clone(), last, applied).await?;
    let machine = StateMachine::new(store.clone(), waiters, clock, log.clone());
    Ok(Parts { log, machine, store })
}

fn id(term: u64, node: u64, index: u64) -> Id {
    Id::new(CommittedLeaderId::new(term, node), index)
}

fn normal(log_id: Id, payload: Vec<u8>) -> Entry {
    Entry { log_id, payload: EntryPayload::Normal(Payload(payload.into())) }
}

/// The version that the commit at an index makes.
fn version(index: u64) -> Version {
    Version { era: 0, number: index + 1, name: index.into() }
}

/// A commit on the one before it.
fn commit(log_id: Id) -> Entry {
    let mut effect = Effect::default();
    effect.set_version(version(log_id.index));
    let base = log_id.index.checked_sub(1).map(version).unwrap_or_default();
    normal(log_id, LogEntry::new(base, effect).unwrap().encode().unwrap())
}

#[tokio::test]
async fn an_entry_of_an_unknown_format_stops_the_node_and_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let Parts { store, mut machine, .. } = open(directory.path()).await.unwrap();
    machine.apply([commit(id(1, 1, 1))]).await.unwrap();
    let newer = normal(id(1, 1, 2), vec![9, 9, 9]);
    let error = machine.apply([newer, commit(id(1, 1, 3))]).await.unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
    let error = machine.apply([commit(id(1, 1, 3))]).await.unwrap_err();
    assert!(error.to_string().contains("not tried again"), "{error}");
    assert!(store.failed().borrow().is_some());
    store.stop().await.unwrap();
    // The same again at each start, until the node is upgraded.
    let Parts { mut machine, .. } = open(directory.path()).await.unwrap();
    let (applied, _) = machine.applied_state().await.unwrap();
    assert!(applied < Some(id(1, 1, 2)));
}

#[tokio::test]
async fn what_a_leader_proposes_is_announced_as_committed_only_when_it_is_on_its_disk() {
    let directory = tempfile::tempdir().unwrap();
    let Parts { store, mut log, mut machine } = open(directory.path()).await.unwrap();
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    let mut entries = vec![];
    for index in 0..50 {
        let entry = commit(id(3, 1, index));
        log.blocking_append([entry.clone()]).await.unwrap();
        let announceable = log.announceable(Some(entry.log_id));
        assert!(announceable <= Some(entry.log_id));
        entries.push(entry);
    }
    // Others read it at once, whatever is on the disk.
    assert_eq!(log.try_get_log_entries(0..50).await.unwrap(), entries);
    // Applying waits for the disk.
    machine.apply(entries.clone()).await.unwrap();
    assert_eq!(log.announceable(Some(id(3, 1, 49))), Some(id(3, 1, 49)));
    assert_eq!(log.announceable(Some(id(3, 1, 7))), Some(id(3, 1, 7)));
    store.stop().await.unwrap();

    let Parts { mut log, mut machine, .. } = open(directory.path()).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..50).await.unwrap(), entries);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(3, 1, 49)));
    // What was applied after the last sync may have to be applied again; nothing else is lost.
    assert!(machine.applied_state().await.unwrap().0 <= Some(id(3, 1, 49)));
}

#[tokio::test]
async fn a_leader_that_was_restarted_has_to_be_elected_anew() {
    let directory = tempfile::tempdir().unwrap();
    for (vote, found) in [
        (Vote::new_committed(3, 1), Vote::new(3, 1)),
        (Vote::new_committed(4, 2), Vote::new_committed(4, 2)),
    ] {
        let Parts { store, mut log, .. } = open(directory.path()).await.unwrap();
        log.save_vote(&vote).await.unwrap();
        store.stop().await.unwrap();
        let Parts { store, mut log, .. } = open(directory.path()).await.unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(found));
        store.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_log_is_not_purged_before_the_state_that_stands_for_it_has_come() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = open(from.path()).await.unwrap().machine;
    source.apply([commit(id(1, 1, 0)), commit(id(1, 1, 1))]).await.unwrap();
    let Parts { store, mut log, .. } = open(to.path()).await.unwrap();
    log.blocking_append([commit(id(1, 1, 0))]).await.unwrap();
    // openraft purges while it has the state installed.
    tokio::spawn(async move { log.purge(id(1, 1, 1)).await });
    tokio::task::yield_now().await;
    store.stop().await.unwrap();
    // A crash has come first.
    let Parts { store, mut log, mut machine } = open(to.path()).await.unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, None);
    let mut purging = log.clone();
    let purging = tokio::spawn(async move { purging.purge(id(1, 1, 1)).await });
    let sent = source.get_current_snapshot().await.unwrap().unwrap();
    machine.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    purging.await.unwrap().unwrap();
    assert_eq!(log.get_log_state().await.unwrap().last_purged_log_id, Some(id(1, 1, 1)));
    store.stop().await.unwrap();
}

#[tokio::test]
async fn what_a_log_holds_was_observed_when_the_node_started() {
    let directory = tempfile::tempdir().unwrap();
    let Parts { store, mut log, .. } = open(directory.path()).await.unwrap();
    log.blocking_append([commit(id(1, 1, 0))]).await.unwrap();
    store.stop().await.unwrap();
    let Parts { store, mut machine, .. } = open(directory.path()).await.unwrap();
    assert_eq!(store.evidence().seen(&version(0)), None);
    machine.apply([commit(id(1, 1, 0))]).await.unwrap();
    assert_eq!(store.evidence().seen(&version(0)), Some(BootTime::default()));
    store.stop().await.unwrap();
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_the_state() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = open(from.path()).await.unwrap().machine;
    source.apply([commit(id(1, 1, 0)), commit(id(1, 1, 1))]).await.unwrap();
    let built = source.build_snapshot().await.unwrap();
    assert_eq!(built.meta.last_log_id, Some(id(1, 1, 1)));
    drop(built);
    // What is sent is the state as it is by then.
    source.apply([commit(id(1, 1, 2))]).await.unwrap();
    let sent = source.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(sent.meta.last_log_id, Some(id(1, 1, 2)));

    let Parts { store, mut machine, .. } = open(to.path()).await.unwrap();
    machine.install_snapshot(&sent.meta, sent.snapshot).await.unwrap();
    store.stop().await.unwrap();
    let Parts { store, mut machine, .. } = open(to.path()).await.unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(id(1, 1, 2)));
    let found = store.run(After::Anytime, |replica| Ok(replica.version())).await.unwrap();
    assert_eq!(found, version(2));
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, sent.meta);
    // One that has not come changes nothing, and stops the node.
    machine
        .install_snapshot(&current.meta, Box::new(SnapshotData(Box::new(std::iter::empty()))))
        .await
        .unwrap_err();
    drop(current);
    store.stop().await.unwrap();
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}
