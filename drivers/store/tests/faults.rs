//! A disk that fails once is never trusted again by the process that saw it fail.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{io, sync::Arc};

use common::{Contents, Disk, Fault, contents, create, open};
use tsoracle_core::{
    ConsensusDriver, Epoch, ErrorKind, Leadership, LocalDriver, NodeId, Oracle, OracleOptions,
    Phase, SeqKey, SeqRequest,
    state::{Advance, Answer, Command, Limits, Query},
};

async fn lead(disk: &Disk) -> (Arc<LocalDriver>, Epoch) {
    let driver = LocalDriver::open(open(disk).unwrap()).await.unwrap();
    let Leadership::Leader { epoch } = *driver.leadership().borrow() else { panic!("not leading") };
    let fence = Command::Fence { now_ms: 1_000, headroom_ms: 1_000, lease_ms: 1_000 };
    let open = Command::Open { node: NodeId(1), lease_ms: 1_000 };
    let committed = driver.commit(epoch, vec![fence, open]).await.unwrap();
    assert!(committed.results.iter().all(Result::is_ok), "{:?}", committed.results);
    (driver, epoch)
}

fn advance(key: &str, count: u32) -> Command {
    let entries = vec![(SeqKey::new(key).unwrap(), count)];
    Command::Advance(Advance { entries, id: None, elapsed_ms: 0, limits: Limits::default() })
}

fn made() -> Disk {
    let disk = Disk::default();
    create(&disk).unwrap();
    disk
}

/// After its first error, `driver` refuses everything for good, and touches the disk no more.
async fn is_latched(driver: &LocalDriver, epoch: Epoch, disk: &Disk) {
    disk.heal();
    for _ in 0..3 {
        let error = driver.commit(epoch, vec![advance("orders", 1)]).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        let error = driver.read(Query::Reign).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        assert!(error.to_string().contains("disk.redb"), "{error}");
    }
    assert!(driver.leadership().has_changed().is_err(), "leadership has to end");
    driver.shutdown().await.unwrap();
    assert_eq!(disk.tried_since_fault(), Some(0), "the disk was used again");
}

async fn next(driver: &LocalDriver, key: &str) -> u64 {
    match driver.read(Query::Sequence(SeqKey::new(key).unwrap())).await.unwrap() {
        Answer::Sequence(next) => next.unwrap_or(0),
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_failed_sync_is_final() {
    let disk = made();
    let (driver, epoch) = lead(&disk).await;
    driver.commit(epoch, vec![advance("orders", 10)]).await.unwrap();
    disk.fail(Fault::SyncOnce(io::ErrorKind::Other));
    let error = driver.commit(epoch, vec![advance("orders", 5)]).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    is_latched(&driver, epoch, &disk).await;

    // The next process finds all that was acknowledged, and the uncertain commit whole or not.
    let (driver, _) = lead(&disk).await;
    assert!([10, 15].contains(&next(&driver, "orders").await));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_full_disk_is_final() {
    for fault in
        [Fault::Growth(io::ErrorKind::StorageFull), Fault::Write(io::ErrorKind::StorageFull)]
    {
        let disk = made();
        let (driver, epoch) = lead(&disk).await;
        driver.commit(epoch, vec![advance("orders", 10)]).await.unwrap();
        disk.fail(fault);
        let mut acknowledged = 0;
        let error = loop {
            let keys = (0..2_000).map(|key| advance(&format!("{acknowledged} {key:0>100}"), 1));
            match driver.commit(epoch, keys.collect()).await {
                Ok(_) => acknowledged += 1,
                Err(error) => break error,
            }
        };
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
        is_latched(&driver, epoch, &disk).await;

        let (driver, _) = lead(&disk).await;
        assert_eq!(next(&driver, "orders").await, 10);
        for group in 0..acknowledged {
            assert_eq!(next(&driver, &format!("{group} {:0>100}", 1_999)).await, 1);
        }
        let last = next(&driver, &format!("{acknowledged} {:0>100}", 0)).await;
        assert_eq!(next(&driver, &format!("{acknowledged} {:0>100}", 1_999)).await, last);
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
