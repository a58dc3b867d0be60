//! Little space on the disk: nothing new is begun, and what exists goes on.

use std::time::Duration;

use tsoracle_core::{
    ErrorKind, LeaseHolder, LocalDriver, MemoryStore, Oracle, OracleOptions, Reject, RequestId,
    RequestName, Result, SeqKey, SeqRequest, Session, Space,
};

const TTL: Duration = Duration::from_secs(10);

fn request(key: &str, number: u64) -> SeqRequest {
    let id = RequestId::new(Session([number as u8; 16]), 1, 1).unwrap();
    SeqRequest::new(vec![(SeqKey::new(key).unwrap(), 1)], Some(id)).unwrap()
}

fn named(name: &str) -> SeqRequest {
    let entries = vec![(SeqKey::new("old").unwrap(), 1)];
    SeqRequest::named(entries, RequestName::new(name).unwrap()).unwrap()
}

fn plain(key: &str) -> SeqRequest {
    SeqRequest::single(SeqKey::new(key).unwrap(), 1).unwrap()
}

fn refused<T: std::fmt::Debug>(outcome: Result<T>) -> bool {
    match outcome {
        Err(error) => {
            let low = matches!(error.kind(), ErrorKind::Rejected(Reject::SpaceLow { .. }));
            assert!(low, "{error}");
            assert!(error.to_string().contains("the leader's disk"), "{error}");
            true
        }
        Ok(_) => false,
    }
}

#[tokio::test]
async fn below_the_reserve_nothing_new_is_begun() {
    let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let watching = |reserve| OracleOptions {
        space: Some(Space { directory: directory.path().into(), reserve: Some(reserve) }),
        ..OracleOptions::default()
    };
    let oracle = Oracle::start(driver.clone(), watching(u64::MAX)).unwrap();
    // It is looked at once the oracle runs.
    let mut used = 0;
    while !refused(oracle.get_seq(request("old", used)).await) {
        oracle.get_seq(plain("old")).await.unwrap();
        used += 1;
        tokio::task::yield_now().await;
    }
    assert!(oracle.status().free_bytes.is_some_and(|free| free > 0));
    assert_eq!(oracle.status().reserve_bytes, Some(u64::MAX));
    let problems: Vec<_> = oracle.problems().iter().map(ToString::to_string).collect();
    let troubles = problems.concat();
    assert!(troubles.contains("little space is left in /"), "{troubles}");
    let holder = || LeaseHolder::new("h").unwrap();
    assert!(refused(oracle.get_seq(plain("new")).await));
    assert!(refused(oracle.seed_seq(SeqKey::new("new").unwrap(), 7).await));
    assert!(refused(oracle.get_seq(named("n")).await));
    assert!(refused(oracle.acquire_lease(holder(), 1, TTL).await));
    oracle.get_ts(1).await.unwrap();
    if used > 0 {
        oracle.get_seq(plain("old")).await.unwrap();
        oracle.get_seq(request("old", 0)).await.unwrap();
    }
    // With enough space all is as always.
    let driver = LocalDriver::open(MemoryStore::default()).await.unwrap();
    let oracle = Oracle::start(driver, watching(0)).unwrap();
    while oracle.status().free_bytes.is_none() {
        oracle.get_ts(1).await.unwrap();
        tokio::task::yield_now().await;
    }
    oracle.get_seq(request("new", 1)).await.unwrap();
    oracle.get_seq(named("n")).await.unwrap();
    oracle.acquire_lease(holder(), 1, TTL).await.unwrap();
    assert_eq!(oracle.status().reserve_bytes, Some(0));
    assert_eq!(oracle.problems(), []);
}
