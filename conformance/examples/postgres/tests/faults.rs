//! What a commit is answered when something goes wrong, which the suite does not look into.

mod common;

use std::{sync::Arc, time::Duration};

use common::{Server, string};
use tokio::time::timeout;
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Effect, ErrorKind, Leadership, OpenContext, Outcome,
    Reads, Registry, SystemClock, Version,
};
use tsoracle_postgres as _;
use tsoracle_testbed::proxy::Proxy;

async fn open(connection: &str, endpoint: &str) -> Arc<dyn ConsensusDriver> {
    let config = format!("postgres:{connection}?ttl=2s&timeout=1s");
    let context = OpenContext { service_endpoint: Some(endpoint.into()), ..OpenContext::default() };
    let config = DriverConfig::parse(&config).unwrap();
    Registry::linked().unwrap().open(config, context).await.unwrap()
}

async fn version(driver: &Arc<dyn ConsensusDriver>) -> Version {
    let until = SystemClock.now().boot + common::PATIENCE;
    loop {
        match driver.read(&Reads::default()).await {
            Ok(snapshot) => return snapshot.version,
            Err(error) => assert!(SystemClock.now().boot < until, "{error}"),
        }
        SystemClock.sleep(Duration::from_millis(5)).await;
    }
}

/// A commit on `base` that makes a version of this name.
fn commit(base: Version, name: u128) -> (Version, Effect) {
    let next = base.next(name).unwrap();
    let mut effect = Effect::default();
    effect.set_version(next);
    (next, effect)
}

async fn shows(driver: &Arc<dyn ConsensusDriver>, what: impl FnMut(&Leadership) -> bool) {
    let mut leadership = driver.leadership();
    let waited = timeout(common::PATIENCE, leadership.wait_for(what)).await;
    waited.expect("it did not come to that").expect("the channel has closed");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_whose_answer_is_lost_is_uncertain() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).unwrap();
    let driver = open(&string(proxy.address()), "").await;
    let witness = open(&string(server.address), "").await;
    for (name, is_cut) in [(1, true), (2, false)] {
        let base = version(&driver).await;
        let (next, effect) = commit(base, name);
        proxy.hang_answers();
        let committing = driver.commit(base, effect);
        let cutting = async {
            // It is stored meanwhile.
            while version(&witness).await != next {
                SystemClock.sleep(Duration::from_millis(5)).await;
            }
            if is_cut {
                proxy.cut();
            }
        };
        let (outcome, ()) = tokio::join!(committing, cutting);
        let error = outcome.expect_err("the answer is lost");
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
        proxy.open();
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_meets_another_one_under_way_is_not_stored() {
    let server = Server::start().await;
    let driver = open(&string(server.address), "").await;
    let base = version(&driver).await;
    // Another one, between its write and its end.
    let mut client = server.client().await;
    let other = client.transaction().await.unwrap();
    let (found, _) = commit(base, 1);
    let update = "UPDATE tsoracle SET value = $1 WHERE key = 'v'";
    other.execute(update, &[&found.encode().to_vec()]).await.unwrap();
    // It may be known that a lock is in the way, or that another one was faster.
    let (lost, effect) = commit(base, 2);
    let waiting = driver.commit(base, effect.clone()).await.unwrap_err();
    assert_eq!(*waiting.kind(), ErrorKind::Unavailable, "{waiting}");
    let committing = driver.commit(base, effect.clone());
    let ending = async {
        SystemClock.sleep(Duration::from_millis(100)).await;
        other.commit().await.unwrap();
    };
    let (outcome, ()) = tokio::join!(committing, ending);
    let error = outcome.expect_err("the state was moved on");
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(driver.commit(base, effect).await.unwrap(), Outcome::Conflict { found });
    assert_eq!(driver.seen(&lost), None);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_refused_connection_stores_nothing_and_a_later_one_serves() {
    let server = Server::start().await;
    let proxy = Proxy::to(server.address).unwrap();
    let driver = open(&string(proxy.address()), "").await;
    let base = version(&driver).await;
    shows(&driver, |now| matches!(now, Leadership::Leader { .. })).await;
    proxy.hang();
    proxy.cut();
    shows(&driver, |now| *now == Leadership::Unknown).await;
    let error = driver.commit(base, commit(base, 1).1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    proxy.open();
    shows(&driver, |now| matches!(now, Leadership::Leader { .. })).await;
    assert_eq!(driver.commit(base, commit(base, 2).1).await.unwrap(), Outcome::Stored);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leader_that_resigns_is_replaced_and_its_address_is_known() {
    let server = Server::start().await;
    let first = open(&string(server.address), "first:1").await;
    shows(&first, |now| matches!(now, Leadership::Leader { .. })).await;
    let second = open(&string(server.address), "second:2").await;
    let follows = |endpoint: &'static str| {
        move |now: &Leadership| match now {
            Leadership::Follower { leader: Some(hint) } => hint.endpoint == endpoint,
            _ => false,
        }
    };
    shows(&second, follows("first:1")).await;
    let Leadership::Leader { claim } = *first.leadership().borrow() else { panic!("it led") };
    first.resign(claim).await;
    shows(&second, |now| matches!(now, Leadership::Leader { .. })).await;
    shows(&first, follows("second:2")).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_state_that_is_damaged_under_a_leader_ends_it_for_good() {
    let server = Server::start().await;
    let client = server.client().await;
    for damage in [
        "UPDATE tsoracle SET value = 'garbage' WHERE key = 'v'",
        "DELETE FROM tsoracle WHERE key = 'v'",
    ] {
        let driver = open(&string(server.address), "").await;
        let base = version(&driver).await;
        let (next, mut effect) = commit(base, 1);
        effect.put("orders", "1");
        assert_eq!(driver.commit(base, effect).await.unwrap(), Outcome::Stored);
        let mended = "UPDATE tsoracle SET value = $1 WHERE key = 'v'";
        client.batch_execute(damage).await.unwrap();
        let error = driver.read(&Reads::default()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
        client.execute(mended, &[&next.encode().to_vec()]).await.unwrap();
        let error = driver.commit(next, commit(next, 2).1).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{damage}: {error}");
        let mut leadership = driver.leadership();
        let closing = async { while leadership.changed().await.is_ok() {} };
        timeout(common::PATIENCE, closing).await.expect("the channel of leadership is closed");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_server_that_lets_nobody_in_is_an_error_of_the_config() {
    let server = Server::start().await;
    let connection = string(server.address).replace("dbname=postgres", "dbname=missing");
    let config = DriverConfig::parse(&format!("postgres:{connection}")).unwrap();
    let opened = Registry::linked().unwrap().open(config, OpenContext::default()).await;
    assert_eq!(*opened.unwrap_err().kind(), ErrorKind::Config);
}
