//! The drivers by themselves: what is compared, observed and resigned.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{sync::Arc, time::Duration};

use futures::poll;
use tokio::time::timeout;
use tsoracle_core::{
    Clock, ConsensusDriver, DriverConfig, Effect, ErrorKind, Leadership, Outcome, Reads,
    SystemClock, VERSION, Version,
};
use tsoracle_omnipaxos::{OmnipaxosDriver, open};

use self::common::{Nodes, PATIENCE};

/// Slow enough that no node of a loaded machine is taken for dead.
const OPTIONS: &str = "&heartbeat=50ms&election=1s";

/// How often to look again.
const LOOK: Duration = Duration::from_millis(10);

type Drivers = Vec<Arc<OmnipaxosDriver>>;

/// Three nodes without an engine.
async fn drivers() -> (Nodes, Drivers) {
    let nodes = Nodes::new(3, OPTIONS).await;
    let mut drivers = Drivers::new();
    for node in 0..3 {
        let config = DriverConfig::parse(&nodes.config(node)).unwrap();
        drivers.push(open(config.options().unwrap()).await.unwrap());
    }
    (nodes, drivers)
}

async fn eventually<T>(look: impl AsyncFn() -> Option<T>) -> T {
    let looking = async {
        loop {
            match look().await {
                Some(found) => return found,
                None => SystemClock.sleep(LOOK).await,
            }
        }
    };
    timeout(PATIENCE, looking).await.unwrap()
}

/// Which driver leads, and under which claim.
async fn leader(drivers: &Drivers) -> (usize, u64) {
    let claim = |driver: &Arc<OmnipaxosDriver>| match *driver.leadership().borrow() {
        Leadership::Leader { claim } => Some(claim),
        _ => None,
    };
    eventually(async || (0..drivers.len()).find_map(|node| Some((node, claim(&drivers[node])?))))
        .await
}

/// A commit on `base` under that name.
fn commit_on(base: Version, name: u128) -> Effect {
    let mut effect = Effect::default();
    effect.put(*b"test", name.to_be_bytes());
    effect.set_version(base.next(name).unwrap());
    effect
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_is_stored_once_and_observed_by_all_nodes_once_it_is_decided() {
    let (_nodes, drivers) = drivers().await;
    let leader = leader(&drivers).await.0;
    let driver = &drivers[leader];
    let base = driver.read(&Reads::default()).await.unwrap().version;
    assert_eq!(base, Version::EMPTY);
    let effect = commit_on(base, 77);
    let made = effect.version().unwrap();
    for driver in &drivers {
        assert_eq!(driver.seen(&made), None);
    }
    let error = drivers[(leader + 1) % 3].commit(base, effect.clone()).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotLeader(_)), "{error}");
    assert_eq!(driver.commit(base, effect.clone()).await.unwrap(), Outcome::Stored);
    // The same once more, and another one on the same base.
    assert_eq!(driver.commit(base, effect).await.unwrap(), Outcome::Stored);
    let outcome = driver.commit(base, commit_on(base, 78)).await.unwrap();
    assert_eq!(outcome, Outcome::Conflict { found: made });
    for driver in &drivers {
        eventually(async || driver.seen(&made)).await;
        let snapshot = driver.read(&Reads::keys([VERSION])).await.unwrap();
        assert_eq!((snapshot.version, snapshot.values), (made, vec![Some(made.encode().into())]));
        assert_eq!(driver.seen(&base.next(78).unwrap()), None);
    }
    for driver in &drivers {
        driver.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_a_leader_without_a_majority_has_begun_is_uncertain_and_not_observed() {
    let (nodes, drivers) = drivers().await;
    let (old, _) = leader(&drivers).await;
    let base = drivers[old].read(&Reads::default()).await.unwrap().version;
    nodes.set_links(old, false);
    let effect = commit_on(base, 77);
    let made = effect.version().unwrap();
    let error = drivers[old].commit(base, effect).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    assert_eq!(drivers[old].seen(&made), None);
    assert_eq!(drivers[old].read(&Reads::default()).await.unwrap().version, base);
    // Another leader's commit takes its place.
    let new = eventually(async || {
        let leads = |node: &usize| {
            matches!(*drivers[*node].leadership().borrow(), Leadership::Leader { .. })
        };
        (0..3).filter(|node| *node != old).find(leads)
    });
    let (new, effect) = (new.await, commit_on(base, 78));
    let found = effect.version().unwrap();
    assert_eq!(drivers[new].commit(base, effect).await.unwrap(), Outcome::Stored);
    nodes.set_links(old, true);
    eventually(async || drivers[old].seen(&found)).await;
    assert_eq!(drivers[old].seen(&made), None);
    for driver in &drivers {
        driver.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_commit_that_is_under_way_when_its_driver_stops_is_answered() {
    let (nodes, drivers) = drivers().await;
    let (leader, _) = leader(&drivers).await;
    let base = drivers[leader].read(&Reads::default()).await.unwrap().version;
    // Without a majority nothing is decided.
    nodes.set_links(leader, false);
    let mut committing = Box::pin(drivers[leader].commit(base, commit_on(base, 77)));
    assert!(poll!(&mut committing).is_pending());
    drivers[leader].shutdown().await.unwrap();
    let error = timeout(PATIENCE, committing).await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    for driver in &drivers {
        driver.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_resigns_is_followed_by_another_node() {
    let (_nodes, drivers) = drivers().await;
    for _ in 0..3 {
        let (old, claim) = leader(&drivers).await;
        let driver = &drivers[old];
        driver.resign(claim + 1).await;
        assert_eq!(leader(&drivers).await, (old, claim));
        driver.resign(claim).await;
        eventually(async || (leader(&drivers).await.0 != old).then_some(())).await;
    }
    // With no other node there, it stops all the same.
    let (old, claim) = leader(&drivers).await;
    for (_, driver) in drivers.iter().enumerate().filter(|(node, _)| *node != old) {
        driver.shutdown().await.unwrap();
    }
    drivers[old].resign(claim).await;
    drivers[old].shutdown().await.unwrap();
}
