use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
        mpsc,
    },
};

use openraft::{
    CommittedLeaderId, EntryPayload, RaftLogReader as _, RaftSnapshotBuilder as _,
    storage::{RaftLogStorage as _, RaftLogStorageExt as _, RaftStateMachine as _},
    testing::{StoreBuilder, Suite},
};
use tempfile::TempDir;
use tsoracle_cluster::{Config, EntryId, LogEntry};
use tsoracle_core::{
    Epoch, Result,
    state::{Command, Effect},
};

use crate::{
    keeper::Keeper,
    log::Log,
    machine::StateMachine,
    types::{Entry, Id, Payload, Stored, TypeConfig, Vote, storage},
    waiting::Waiting,
};

/// Makes storage in a directory of its own.
struct Builder;

impl StoreBuilder<TypeConfig, Log, StateMachine, TempDir> for Builder {
    async fn build(&self) -> Stored<(TempDir, Log, StateMachine)> {
        let directory = tempfile::tempdir().unwrap();
        let Parts { log, machine, .. } = open(directory.path()).await.map_err(storage)?;
        Ok((directory, log, machine))
    }
}

struct Parts {
    keeper: Keeper,
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
    let waiting = Arc::<Waiting>::default();
    let (keeper, _, opened) = Keeper::open(&config.check()?, waiting.clone()).await?;
    let log = Log::open(1, keeper.clone(), waiting, opened.last).await?;
    Ok(Parts { log, machine: StateMachine::new(keeper.clone()), keeper })
}

fn id(term: u64, node: u64, index: u64) -> Id {
    Id::new(CommittedLeaderId::new(term, node), index)
}

fn normal(log_id: Id, payload: Vec<u8>) -> Entry {
    Entry { log_id, payload: EntryPayload::Normal(Payload(payload.into())) }
}

fn release(log_id: Id) -> Entry {
    let name = EntryId { node: 1, claim: 1, counter: log_id.index };
    let entry = LogEntry { id: name, epoch: Epoch(1), commands: vec![Command::Release] };
    normal(log_id, entry.encode().unwrap())
}

#[tokio::test]
async fn an_entry_of_an_unknown_format_stops_the_node_and_is_not_passed_over() {
    let directory = tempfile::tempdir().unwrap();
    let Parts { keeper, mut machine, .. } = open(directory.path()).await.unwrap();
    machine.apply([release(id(1, 1, 1))]).await.unwrap();
    let newer = normal(id(1, 1, 2), vec![9, 9, 9]);
    let error = machine.apply([newer, release(id(1, 1, 3))]).await.unwrap_err();
    assert!(error.to_string().contains("format 9"), "{error}");
    let error = machine.apply([release(id(1, 1, 3))]).await.unwrap_err();
    assert!(error.to_string().contains("not tried again"), "{error}");
    assert!(keeper.failed().borrow().is_some());
    keeper.stop().await.unwrap();
    // The same again at each start, until the node is upgraded.
    let Parts { mut machine, .. } = open(directory.path()).await.unwrap();
    let (applied, _) = machine.applied_state().await.unwrap();
    assert!(applied < Some(id(1, 1, 2)));
}

#[tokio::test]
async fn what_a_leader_proposes_is_told_to_be_committed_only_when_it_is_on_its_disk() {
    let directory = tempfile::tempdir().unwrap();
    let Parts { keeper, mut log, mut machine } = open(directory.path()).await.unwrap();
    log.save_vote(&Vote::new_committed(3, 1)).await.unwrap();
    let mut entries = vec![];
    for index in 0..50 {
        let entry = release(id(3, 1, index));
        log.blocking_append([entry.clone()]).await.unwrap();
        let tellable = log.tellable(Some(entry.log_id));
        assert!(tellable <= Some(entry.log_id));
        entries.push(entry);
    }
    // Others read it at once, whatever is on the disk.
    assert_eq!(log.try_get_log_entries(0..50).await.unwrap(), entries);
    // Applying waits for the disk.
    machine.apply(entries.clone()).await.unwrap();
    assert_eq!(log.tellable(Some(id(3, 1, 49))), Some(id(3, 1, 49)));
    assert_eq!(log.tellable(Some(id(3, 1, 7))), Some(id(3, 1, 7)));
    keeper.stop().await.unwrap();

    let Parts { mut log, mut machine, .. } = open(directory.path()).await.unwrap();
    assert_eq!(log.try_get_log_entries(0..50).await.unwrap(), entries);
    assert_eq!(log.get_log_state().await.unwrap().last_log_id, Some(id(3, 1, 49)));
    // What was applied after the last sync may have to be applied again; nothing else is lost.
    assert!(machine.applied_state().await.unwrap().0 <= Some(id(3, 1, 49)));
}

#[tokio::test]
async fn what_is_applied_is_on_the_disk_though_both_are_asked_for_at_once() {
    let directory = tempfile::tempdir().unwrap();
    let Parts { keeper, .. } = open(directory.path()).await.unwrap();
    // The store's thread stands still meanwhile, so that it takes both at once.
    let (go_on, stands_still) = mpsc::channel();
    keeper.append(0, Effect::default(), vec![], move |_| stands_still.recv().unwrap());
    let is_durable = Arc::new(AtomicBool::new(false));
    let written = is_durable.clone();
    keeper.append(1, Effect::default(), vec![], move |_| written.store(true, Ordering::Release));
    let applying = async {
        keeper.apply(vec![release(id(3, 1, 1))]).await.unwrap();
        is_durable.load(Ordering::Acquire)
    };
    let (was_durable, ()) = tokio::join!(applying, async { go_on.send(()).unwrap() });
    assert!(was_durable, "it was applied, and its caller answered, ahead of the disk");
    keeper.stop().await.unwrap();
}

#[tokio::test]
async fn a_leader_that_was_restarted_has_to_be_elected_anew() {
    let directory = tempfile::tempdir().unwrap();
    for (vote, found) in [
        (Vote::new_committed(3, 1), Vote::new(3, 1)),
        (Vote::new_committed(4, 2), Vote::new_committed(4, 2)),
    ] {
        let Parts { keeper, mut log, .. } = open(directory.path()).await.unwrap();
        log.save_vote(&vote).await.unwrap();
        keeper.stop().await.unwrap();
        let Parts { keeper, mut log, .. } = open(directory.path()).await.unwrap();
        assert_eq!(log.read_vote().await.unwrap(), Some(found));
        keeper.stop().await.unwrap();
    }
}

#[tokio::test]
async fn a_snapshot_takes_the_place_of_the_state_and_of_older_snapshots() {
    let (from, to) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let mut source = open(from.path()).await.unwrap().machine;
    source.apply([release(id(1, 1, 1))]).await.unwrap();
    let old = source.build_snapshot().await.unwrap();
    source.apply([release(id(1, 1, 2))]).await.unwrap();
    let new = source.build_snapshot().await.unwrap();
    assert!(!old.snapshot.0.exists() && new.snapshot.0.exists());

    let Parts { keeper, mut machine, .. } = open(to.path()).await.unwrap();
    machine.install_snapshot(&new.meta, new.snapshot.clone()).await.unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(id(1, 1, 2)));
    // One that is older than what is there is not published.
    keeper.publish(old.meta, *old.snapshot).await.unwrap();
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, new.meta);
    keeper.stop().await.unwrap();
    let Parts { mut machine, .. } = open(to.path()).await.unwrap();
    assert_eq!(machine.applied_state().await.unwrap().0, Some(id(1, 1, 2)));
    let current = machine.get_current_snapshot().await.unwrap().unwrap();
    assert_eq!(current.meta, new.meta);
}

#[test]
fn openrafts_own_suite_passes() {
    Suite::test_all(Builder).unwrap();
}
