//! The drivers by themselves: what is compared, observed and resigned.

use std::{collections::BTreeMap, sync::Arc};

use tsoracle_core::{ConsensusDriver, Effect, Leadership, Outcome, Reads, VERSION, Version};
use tsoracle_openraft::{OpenraftDriver, open};

use crate::nodes::{Nodes, eventually};

type Drivers = BTreeMap<u32, Arc<OpenraftDriver>>;

/// Three nodes without an engine.
async fn drivers() -> (Nodes, Drivers) {
    let nodes = Nodes::new(3, |config| config);
    let mut drivers = Drivers::new();
    for node in 1..=3 {
        let config = nodes.config(node);
        drivers.insert(node, eventually(async || open(config.clone()).await.ok()).await);
    }
    (nodes, drivers)
}

/// The driver that leads, and under which claim.
async fn leader(drivers: &Drivers) -> (u32, u64) {
    eventually(async || {
        drivers.iter().find_map(|(&node, driver)| match *driver.leadership().borrow() {
            Leadership::Leader { claim } => Some((node, claim)),
            _ => None,
        })
    })
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
    let base = drivers[&1].read(&Reads::default()).await.unwrap().version;
    // Through the leader, which may change meanwhile: then the same commit is sent again.
    let commit = async |effect: Effect| {
        eventually(async || {
            let (leader, _) = leader(&drivers).await;
            drivers[&leader].commit(base, effect.clone()).await.ok()
        })
        .await
    };
    assert_eq!(base, Version::EMPTY);
    let effect = commit_on(base, 77);
    let made = effect.version().unwrap();
    for driver in drivers.values() {
        assert_eq!(driver.seen(&made), None);
    }
    assert_eq!(commit(effect.clone()).await, Outcome::Stored);
    // The same once more, and another one on the same base.
    assert_eq!(commit(effect).await, Outcome::Stored);
    assert_eq!(commit(commit_on(base, 78)).await, Outcome::Conflict { found: made });
    for driver in drivers.values() {
        eventually(async || driver.seen(&made)).await;
        let snapshot = driver.read(&Reads::keys([VERSION])).await.unwrap();
        assert_eq!((snapshot.version, snapshot.values), (made, vec![Some(made.encode().into())]));
        assert_eq!(driver.seen(&base.next(78).unwrap()), None);
    }
    for driver in drivers.values() {
        driver.shutdown().await.unwrap();
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_resigns_is_followed_by_another_node() {
    let (_nodes, drivers) = drivers().await;
    for _ in 0..3 {
        let (old, claim) = leader(&drivers).await;
        let driver = &drivers[&old];
        driver.resign(claim + 1).await;
        assert_eq!(leader(&drivers).await, (old, claim));
        driver.resign(claim).await;
        eventually(async || (leader(&drivers).await.0 != old).then_some(())).await;
    }
    // With no other node there, it leads on under its claim.
    let (old, claim) = leader(&drivers).await;
    for (_, driver) in drivers.iter().filter(|(node, _)| **node != old) {
        driver.shutdown().await.unwrap();
    }
    drivers[&old].resign(claim).await;
    drivers[&old].shutdown().await.unwrap();
}
