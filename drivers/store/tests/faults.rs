//! A disk that fails once is never trusted again by the process that saw it fail.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::io;

use common::{Contents, Disk, Fault, Leader, contents, create, open};
use tsoracle_core::{
    ConsensusDriver, Effect, ErrorKind, LocalDriver, Oracle, OracleOptions, Phase, Reads, SeqKey,
    SeqRequest,
};

async fn lead(disk: &Disk) -> Leader {
    let mut leader = Leader::over(disk).await;
    leader.commit(put("leader", 1)).await.unwrap();
    leader
}

fn put(key: &str, value: u64) -> Effect {
    let mut effect = Effect::default();
    effect.put(key, value.to_be_bytes());
    effect
}

fn made() -> Disk {
    let disk = Disk::default();
    create(&disk).unwrap();
    disk
}

/// After its first error, a driver refuses everything for good, and touches the disk no more.
async fn is_latched(leader: &mut Leader, disk: &Disk) {
    disk.heal();
    for _ in 0..3 {
        let error = leader.commit(put("orders", 1)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        let error = leader.driver.read(&Reads::keys(["orders"])).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains("disk.redb"), "{error}");
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
    let disk = made();
    let held = contents(&open(&disk).unwrap()).unwrap();
    for fault in [Fault::SyncOnce(io::ErrorKind::Other), Fault::Write(io::ErrorKind::StorageFull)] {
        let disk = Disk::holding(disk.image());
        disk.fail(fault);
        let error = open(&disk).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains("disk.redb"), "{error}");
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
