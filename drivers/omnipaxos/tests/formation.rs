//! A cluster is formed once, by all of its nodes.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{collections::BTreeSet, fs, time::Duration};

use tsoracle_core::{Clock, Effect, Leadership, SystemClock};
use tsoracle_store::{Store, Table};

use self::common::{Nodes, served::Served};

/// Slow enough that no node of a loaded machine is taken for dead.
const OPTIONS: &str = "&heartbeat=50ms&election=1s";

/// Many elections, if there were any.
const LONG: Duration = Duration::from_secs(4);

fn leads(nodes: &Nodes, node: usize) -> bool {
    let driver = nodes.driver(node).unwrap();
    matches!(*driver.leadership().borrow(), Leadership::Leader { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_of_the_list_forms_no_cluster() {
    let mut nodes = Nodes::new(3, OPTIONS).await;
    nodes.start(0).await.unwrap();
    nodes.start(1).await.unwrap();
    SystemClock.sleep(LONG).await;
    assert!(!leads(&nodes, 0) && !leads(&nodes, 1));
    nodes.start(2).await.unwrap();
    nodes.leader().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_of_wiped_nodes_does_not_begin_again_beside_a_survivor() {
    let mut nodes = Nodes::started(3, OPTIONS).await;
    nodes.leader().await;
    for node in 0..3 {
        nodes.stop(node).await.unwrap();
    }
    for wiped in [0, 2] {
        fs::remove_dir_all(nodes.directory(wiped)).unwrap();
        nodes.start(wiped).await.unwrap();
    }
    SystemClock.sleep(LONG).await;
    assert!(!leads(&nodes, 0) && !leads(&nodes, 2));
    nodes.start(1).await.unwrap();
    SystemClock.sleep(LONG).await;
    assert!((0..3).all(|node| !leads(&nodes, node)));
}

const NODE: Table = Table::new("node");

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_of_before_there_were_cluster_ids_agree_on_one() {
    let mut served = Served::start(3, OPTIONS).await;
    assert_eq!(served.take(1).await, 0..1);
    for node in 0..3 {
        served.stop_node(node).await;
    }
    for node in 0..3 {
        let store = Store::open(served.nodes.directory(node), Default::default()).unwrap();
        let mut effect = Effect::default();
        effect.delete(*b"cluster");
        store.write([(NODE, effect)]).unwrap();
    }
    let mut ids = BTreeSet::new();
    // They agree as they meet, which may not have been all pairs yet.
    for start in 1..100 {
        for node in 0..3 {
            served.start_node(node).await;
        }
        assert_eq!(served.take(1).await, start..start + 1);
        for node in 0..3 {
            served.stop_node(node).await;
        }
        ids = (0..3)
            .map(|node| {
                let store = Store::open(served.nodes.directory(node), Default::default()).unwrap();
                store.read(NODE, b"cluster").unwrap()
            })
            .collect();
        if ids.len() == 1 {
            break;
        }
    }
    assert!(ids.len() == 1 && ids.first().unwrap().is_some(), "{ids:?}");
}
