//! A disk that fails once is never trusted again by the process that saw it fail. One that hangs or is
//! slow while the state is written behind the journal holds up nothing that is durable.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{io, sync::mpsc, thread, time::Duration};

use common::{Contents, Disk, Fault, Leader, WRITE_BEHIND, contents, create, made, open, put};
use rustix::io::Errno;
use tsoracle_core::{
    ConsensusDriver, Effect, ErrorKind, LocalDriver, Oracle, OracleOptions, Phase, Reads, SeqKey,
    SeqRequest, SeqStore,
};
use tsoracle_store::{Store, Table};

async fn lead(disk: &Disk) -> Leader {
    let mut leader = Leader::over(disk).await;
    leader.commit(put("leader", 1)).await.unwrap();
    leader
}

/// After its first error, a driver refuses everything for good, and touches the disk no more.
async fn is_latched(leader: &mut Leader, disk: &Disk) {
    disk.heal();
    for _ in 0..3 {
        let error = leader.commit(put("orders", 1)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        let error = leader.driver.read(&Reads::keys(["orders"])).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains("disk/journal-0"), "{error}");
    }
    assert!(leader.driver.leadership().has_changed().is_err(), "leadership has to end");
    leader.driver.shutdown().await.unwrap();
    assert_eq!(disk.tried_since_fault(), Some(0), "the disk was used again");
}

async fn value(leader: &Leader, key: &str) -> u64 {
    let snapshot = leader.driver.read(&Reads::keys([key])).await.unwrap();
    snapshot.values[0].as_ref().map_or(0, |value| u64::from_be_bytes(value[..].try_into().unwrap()))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_sync_is_final() {
    let disk = made();
    let mut leader = lead(&disk).await;
    leader.commit(put("orders", 10)).await.unwrap();
    disk.fail(Fault::SyncOnce(io::ErrorKind::Other));
    let error = leader.commit(put("orders", 15)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    is_latched(&mut leader, &disk).await;

    // The next process finds all that was acknowledged, and the uncertain commit whole or not.
    let leader = lead(&disk).await;
    assert!([10, 15].contains(&value(&leader, "orders").await));
}

/// Without a driver that latches, as the other drivers use it.
#[test]
fn a_store_latches_by_itself() {
    let disk = made();
    let mut store = open(&disk).unwrap();
    store.commit(put("orders", 10)).unwrap();
    disk.fail(Fault::SyncOnce(io::ErrorKind::Other));
    let first = store.commit(put("orders", 15)).unwrap_err();
    assert_eq!(*first.kind(), ErrorKind::Fatal, "{first}");
    for error in [
        store.get(b"orders").unwrap_err(),
        store.scan(&[], &[u8::MAX], 1).unwrap_err(),
        store.last(Table::new("other")).unwrap_err(),
        store.commit(put("orders", 16)).unwrap_err(),
        store.write_unsynced([]).unwrap_err(),
        store.replace_state([], []).unwrap_err(),
        store.view().unwrap_err(),
    ] {
        assert_eq!(error.to_string(), first.to_string());
    }
    drop(store);
    assert_eq!(disk.tried_since_fault(), Some(0), "the disk was used again");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_is_final() {
    for fault in
        [Fault::Growth(io::ErrorKind::StorageFull), Fault::Write(io::ErrorKind::StorageFull)]
    {
        let disk = made();
        let mut leader = lead(&disk).await;
        leader.commit(put("orders", 10)).await.unwrap();
        disk.fail(fault);
        let mut acknowledged = 0;
        let error = loop {
            let mut effect = Effect::default();
            for key in 0..2_000 {
                effect.merge(put(&format!("{acknowledged} {key:0>100}"), 1));
            }
            match leader.commit(effect).await {
                Ok(()) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
        is_latched(&mut leader, &disk).await;

        let leader = lead(&disk).await;
        assert_eq!(value(&leader, "orders").await, 10);
        for group in 0..acknowledged {
            assert_eq!(value(&leader, &format!("{group} {:0>100}", 1_999)).await, 1);
        }
        let last = value(&leader, &format!("{acknowledged} {:0>100}", 0)).await;
        assert_eq!(value(&leader, &format!("{acknowledged} {:0>100}", 1_999)).await, last);
    }
}

/// Commits until that fails, which has to be for good. Returns what was acknowledged.
fn commit_until_failure(store: &mut Store) -> (u64, String) {
    for number in 1.. {
        let mut effect = put("last", number);
        effect.merge(put(&format!("{:0>100}", number % 50), number));
        if let Err(error) = store.commit(effect) {
            assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
            assert_eq!(*store.get(b"last").unwrap_err().kind(), ErrorKind::Fatal);
            return (number - 1, error.to_string());
        }
    }
    unreachable!()
}

/// What fails behind the journal is final as well, and loses nothing that the journal holds.
#[test]
fn a_state_that_cannot_be_written_behind_is_final_and_loses_nothing() {
    for fault in [
        Fault::Write(io::ErrorKind::StorageFull),
        Fault::Growth(io::ErrorKind::StorageFull),
        Fault::SyncOnce(io::ErrorKind::Other),
    ] {
        let disk = made();
        disk.fail_in("snapshot.new", fault);
        let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
        let (acknowledged, error) = commit_until_failure(&mut store);
        assert!(error.contains("disk/snapshot.new"), "{error}");
        disk.heal();
        store.commit(put("last", 0)).unwrap_err();
        drop(store);

        let store = open(&disk).unwrap();
        let last = store.get(b"last").unwrap().unwrap();
        let last = u64::from_be_bytes(last.try_into().unwrap());
        assert!(last == acknowledged || last == acknowledged + 1, "{last}, {acknowledged}");
    }
}

#[test]
fn a_disk_that_is_full_when_the_next_segment_begins_loses_nothing() {
    let disk = made();
    disk.fail_in("journal.new", Fault::Growth(io::ErrorKind::StorageFull));
    let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
    let (acknowledged, error) = commit_until_failure(&mut store);
    assert!(error.contains("disk/journal.new"), "{error}");
    disk.heal();
    drop(store);
    let last = open(&disk).unwrap().get(b"last").unwrap().unwrap();
    assert!(u64::from_be_bytes(last.try_into().unwrap()) >= acknowledged);
}

/// Too many open files, in this process or on the machine, are no damage of the disk.
#[test]
fn a_lack_of_descriptors_ends_nothing_and_loses_nothing() {
    let disk = made();
    let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
    for errno in [Errno::MFILE, Errno::NFILE, Errno::NOMEM] {
        disk.refuse_to_create(5, errno);
        for number in 0..200 {
            store.commit(put(&format!("{:0>100}", number % 50), number)).unwrap();
        }
        assert_eq!(disk.left_to_refuse(), 0, "nothing was created");
    }
    let held = contents(&store).unwrap();
    drop(store);
    assert_eq!(contents(&open(&disk).unwrap()).unwrap(), held);
}

/// Its syncs do not end, and the journal's do: commits go on until the next segment is full as well.
#[test]
fn a_state_that_hangs_while_it_is_written_behind_holds_up_no_commit() {
    let disk = made();
    let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
    let hanging = disk.hold("snapshot.new");
    for number in 0..9 {
        store.commit(put(&format!("{number:0>100}"), number)).unwrap();
    }
    disk.wait_until_held();
    for number in 10..14 {
        store.commit(put("last", number)).unwrap();
        assert_eq!(store.get(b"last").unwrap(), Some(number.to_be_bytes().to_vec()));
    }
    let held = contents(&store).unwrap();
    // What a process leaves that is killed now, or a machine whose power goes.
    assert_eq!(contents(&open(&Disk::holding(disk.image())).unwrap()).unwrap(), held);
    drop(hanging);
    drop(store);
    assert_eq!(contents(&open(&disk).unwrap()).unwrap(), held);
}

/// Commits wait for a disk that does not keep up, rather than fill it.
#[test]
fn the_disk_is_bounded_by_the_state() {
    let disk = made();
    disk.slow("snapshot.new");
    let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
    let mut state = 0;
    for round in 0..1_500_u64 {
        let mut effect = Effect::default();
        let key = format!("{:0>40}", round * 7_919 % 300);
        effect.put(key, vec![7; 300]);
        store.commit(effect).unwrap();
        if round % 100 == 0 {
            state =
                contents(&store).unwrap().iter().map(|(key, value)| key.len() + value.len()).sum();
        }
    }
    assert!(state > 80_000, "{state}");
    // Files grow by 4 KiB, and the most that a commit goes beyond is itself.
    let (peak, most) = (disk.peak(), 3 * state + 6 * 4_096);
    assert!(peak <= most, "{peak} bytes for a state of {state}");
    assert!(peak > state * 2, "the state was not written behind");
}

/// A snapshot that hangs for good: the journal takes two segments beside it, and then commits wait.
#[test]
fn commits_wait_for_a_state_that_hangs_once_the_next_segment_is_full() {
    let disk = made();
    let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
    let hanging = disk.hold("snapshot.new");
    let (done, all_done) = mpsc::channel();
    let writer = thread::spawn(move || {
        for number in 0..1_000 {
            store.commit(put(&format!("{number:0>100}"), number)).unwrap();
        }
        done.send(()).unwrap();
        store
    });
    disk.wait_until_held();
    // However long it is: a store that does not wait is done at some time.
    let waits = all_done.recv_timeout(Duration::from_millis(500)).is_err();
    let (bytes, records) = (disk.image().bytes(), disk.position());
    drop(hanging);
    let store = writer.join().unwrap();
    assert_eq!(contents(&store).unwrap().len(), 1_000);
    assert!(waits, "no commit waits");
    assert!(bytes < 4 * 4_096 && records < 100, "{bytes} bytes, {records} operations");
}

/// A commit is seen once it is on the disk, and not before.
#[test]
fn no_reader_sees_what_is_not_durable() {
    let disk = made();
    let store = open(&disk).unwrap();
    let state = Table::new("state");
    store.write([(state, put("orders", 1))]).unwrap();
    thread::scope(|scope| {
        let hanging = disk.hold("journal-");
        let writer = scope.spawn(|| store.write([(state, put("orders", 2))]));
        disk.wait_until_held();
        assert_eq!(store.read(state, b"orders").unwrap(), Some(1_u64.to_be_bytes().to_vec()));
        let view = store.view().unwrap().entries(&[], &[u8::MAX], 9).unwrap();
        assert_eq!(view, [(b"orders".to_vec(), 1_u64.to_be_bytes().to_vec())]);
        drop(hanging);
        writer.join().unwrap().unwrap();
    });
    assert_eq!(store.read(state, b"orders").unwrap(), Some(2_u64.to_be_bytes().to_vec()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_oracle_whose_disk_failed_serves_no_more() {
    let disk = made();
    let driver = LocalDriver::open(open(&disk).unwrap()).await.unwrap();
    let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
    let orders = || SeqRequest::single(SeqKey::new("orders").unwrap(), 1).unwrap();
    let mut issued = oracle.get_ts(1).await.unwrap().range.last();
    for _ in 0..10 {
        oracle.get_seq(orders()).await.unwrap();
    }
    disk.fail(Fault::SyncOnce(io::ErrorKind::Other));
    loop {
        let error = oracle.get_seq(orders()).await.expect_err("served after a failed sync");
        match error.kind() {
            ErrorKind::Uncertain | ErrorKind::NotLeader(None) => {}
            ErrorKind::Fatal => break,
            _ => panic!("{error}"),
        }
    }
    let mut phase = oracle.phase();
    phase.wait_for(|phase| matches!(phase, Phase::Failed(_))).await.unwrap();
    let error = oracle.get_ts(1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
    oracle.shutdown().await.unwrap();
    assert_eq!(disk.tried_since_fault(), Some(0), "the disk was used again");

    let driver = LocalDriver::open(open(&disk).unwrap()).await.unwrap();
    let oracle = Oracle::start(driver, OracleOptions::default()).unwrap();
    for _ in 0..100 {
        let range = oracle.get_ts(1).await.unwrap().range;
        assert!(range.first() > issued);
        issued = range.last();
    }
    let block = oracle.get_seq(orders()).await.unwrap().blocks.remove(0);
    assert!(block.start == 10 || block.start == 11, "{block:?}");
}

#[test]
fn a_start_on_a_failing_disk_is_refused_and_changes_nothing() {
    // The last commit was never finished, so that the start has something to cut off.
    let disk = made();
    let began = disk.image();
    let store = open(&disk).unwrap();
    store.write([(Table::new("state"), put("orders", 1))]).unwrap();
    let held = contents(&store).unwrap();
    store.write_unsynced([(Table::new("state"), put("orders", 2))]).unwrap();
    let lost = disk.position() - 1;
    store.write_unsynced([(Table::new("state"), put("orders", 3))]).unwrap();
    let mut image = began;
    for (at, operation) in disk.journal().iter().enumerate() {
        if at != lost {
            image.apply(operation);
        }
    }
    drop(store);
    for fault in [Fault::SyncOnce(io::ErrorKind::Other), Fault::Write(io::ErrorKind::StorageFull)] {
        let disk = Disk::holding(image.clone());
        disk.fail(fault);
        let error = open(&disk).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains("disk"), "{error}");
        disk.heal();
        assert_eq!(contents(&open(&disk).unwrap()).unwrap(), held);
    }
    let full = Disk::default();
    full.fail(Fault::Growth(io::ErrorKind::StorageFull));
    assert_eq!(*create(&full).unwrap_err().kind(), ErrorKind::Fatal);
    full.heal();
    create(&full).unwrap();
    assert_eq!(contents(&open(&full).unwrap()).unwrap(), Contents::new());
}
