//! The client of the public `tsoracle` against this server, unchanged.

mod common;

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use public_tsoracle_client::{Client, ClientError};
use tonic::Code;
use tsoracle_core::{ErrorKind, Leadership, Phase};
use tsoracle_server::{Access, Audit, Policy, PolicyConfig, Rules, Server};

use common::{
    Running,
    driver::{Manner, Scripted},
};

async fn connect(server: &Running) -> Client {
    Client::connect(vec![format!("http://{}", server.address)]).await.expect("the server listens")
}

/// A server that leads, and one that knows it does.
async fn pair() -> (Running, Running) {
    let leader = Running::in_memory().await;
    let follower = Running::over(Scripted::follower(&leader.address.to_string(), 1)).await;
    follower.reach(|phase| matches!(phase, Phase::Following(_))).await;
    (leader, follower)
}

#[tokio::test]
async fn timestamps_rise() {
    let server = Running::in_memory().await;
    let client = connect(&server).await;
    let first = client.get_ts().await.unwrap();
    let batch = client.get_ts_batch(1_000).await.unwrap();
    assert_eq!(batch.len(), 1_000);
    assert!(first < batch[0] && batch.is_sorted_by(|a, b| a < b));
    assert!(*batch.last().unwrap() < client.get_ts().await.unwrap());
    let max_safe = client.get_current_max_safe().await.unwrap();
    assert_ne!(max_safe.max_safe_physical_ms, 0);
}

#[tokio::test]
async fn many_callers_at_once_share_no_timestamp() {
    let server = Running::in_memory().await;
    let client = Arc::new(connect(&server).await);
    let callers: Vec<_> = (0..64)
        .map(|_| {
            let client = client.clone();
            tokio::spawn(async move { client.get_ts_batch(10).await.unwrap() })
        })
        .collect();
    let mut seen = BTreeSet::new();
    for caller in callers {
        for timestamp in caller.await.unwrap() {
            assert!(seen.insert(timestamp), "{timestamp:?} was given out twice");
        }
    }
    assert_eq!(seen.len(), 640);
}

#[tokio::test]
async fn sequences_have_no_gap() {
    let server = Running::in_memory().await;
    let client = connect(&server).await;
    for start in [0, 64, 128] {
        let block = client.get_seq("orders", 64).await.unwrap();
        assert_eq!((block.start, block.count, block.epoch), (start, 64, 1));
    }
    let blocks = client.get_seq_batch(&[("b", 2), ("orders", 1), ("a", 3)]).await.unwrap();
    let blocks: Vec<_> = blocks.iter().map(|block| (block.start, block.count)).collect();
    assert_eq!(blocks, [(0, 2), (192, 1), (0, 3)]);
}

#[tokio::test]
async fn a_follower_sends_it_to_the_leader() {
    let (_leader, follower) = pair().await;
    let client = connect(&follower).await;
    client.get_ts().await.unwrap();
    let client = connect(&follower).await;
    assert_eq!(client.get_seq("k", 3).await.unwrap().start, 0);
    let client = connect(&follower).await;
    assert_eq!(client.get_seq_batch(&[("k", 1), ("l", 1)]).await.unwrap()[0].start, 3);
}

#[tokio::test]
async fn stamping_leases_and_the_safe_frontier() {
    let server = Running::in_memory().await;
    let client = connect(&server).await;
    let ttl = Duration::from_secs(10);
    let lease = client.acquire_lease(b"writer", 1, ttl).await.unwrap();
    assert_eq!(client.acquire_lease(b"writer", 1, ttl).await.unwrap(), lease);
    assert_eq!(
        client.get_safe_frontier().await.unwrap().frontier_physical_ms,
        lease.ts_upper_bound
    );
    let renewed = client.renew_lease(lease.lease_id).await.unwrap();
    assert!(renewed.ts_upper_bound >= lease.ts_upper_bound);
    let another = client.acquire_lease(b"writer", 2, ttl).await.unwrap();
    assert_ne!(another.lease_id, lease.lease_id);
    for (refused, code) in [
        (client.acquire_lease(b"writer", 1, ttl).await.map(drop), Code::FailedPrecondition),
        (client.renew_lease(lease.lease_id).await.map(drop), Code::FailedPrecondition),
        (client.renew_lease(99).await.map(drop), Code::NotFound),
        (client.acquire_lease(b"", 1, ttl).await.map(drop), Code::InvalidArgument),
        (client.acquire_lease(b"writer", 3, 31 * ttl).await.map(drop), Code::InvalidArgument),
    ] {
        assert!(
            matches!(&refused, Err(ClientError::Rpc(status)) if status.code() == code),
            "{refused:?}"
        );
    }
    for lease_id in [lease.lease_id, another.lease_id, another.lease_id] {
        client.release_lease(lease_id).await.unwrap();
    }
}

#[tokio::test]
async fn a_follower_knows_no_frontier() {
    let (_leader, follower) = pair().await;
    let frontier = connect(&follower).await.get_safe_frontier().await.unwrap();
    assert_eq!(frontier.frontier_physical_ms, 0);
}

#[tokio::test]
async fn an_election_is_waited_out() {
    let driver = Scripted::new(Leadership::Unknown);
    let server = Running::over(driver.clone()).await;
    let client = Arc::new(connect(&server).await);
    let timestamp = tokio::spawn({
        let client = client.clone();
        async move { client.get_ts().await.map(drop) }
    });
    let block = tokio::spawn(async move { client.get_seq("k", 3).await.map(|block| block.start) });
    while server.oracle.status().waiting < 2 {
        tokio::task::yield_now().await;
    }
    driver.lead(Leadership::Leader { claim: 9 });
    timestamp.await.unwrap().unwrap();
    assert_eq!(block.await.unwrap().unwrap(), 0);
}

#[tokio::test]
async fn a_refusal_is_definite_and_a_doubt_stays_one() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let client = connect(&server).await;
    let refused = client.get_seq("k", 65_537).await.unwrap_err();
    assert!(matches!(refused, ClientError::Rpc(_)), "{refused:?}");
    driver.behave(Manner::CommitAndFail(ErrorKind::Uncertain));
    let doubt = client.get_seq("k", 1).await.unwrap_err();
    assert!(matches!(doubt, ClientError::SeqUncertain), "{doubt:?}");
    driver.behave(Manner::Commit);
    assert_eq!(client.get_seq("k", 1).await.unwrap().start, 1);
}

#[tokio::test]
async fn a_denial_is_a_refusal_for_good() {
    let nobody: PolicyConfig = serde_json::from_str(r#"{"identities": {}}"#).unwrap();
    let rules = Rules::new(Some(Policy::new(&nobody).unwrap()), None).unwrap();
    let access = Access::new(rules, Audit::default());
    let server = Server::builder().driver(common::memory().await).access(access);
    let server = Running::start(server).await;
    let client = connect(&server).await;
    let error = client.get_ts().await.unwrap_err();
    assert!(
        matches!(&error, ClientError::Rpc(status) if status.code() == Code::Unauthenticated),
        "{error:?}"
    );
    let denials = [
        client.get_seq("k", 1).await.map(|_| ()).unwrap_err(),
        client.get_seq_batch(&[("k", 1)]).await.map(|_| ()).unwrap_err(),
    ];
    for error in denials {
        // Any other code it would take for a commit that may have happened.
        let ClientError::Rpc(status) = &error else { panic!("{error:?}") };
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert!(status.message().contains("certificate or a token"), "{status:?}");
    }
}
