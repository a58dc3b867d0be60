//! A cluster is formed once, by all of its nodes.

use std::{collections::BTreeSet, fs};

use tsoracle_core::{ConsensusDriver, Effect, ErrorKind, Leadership};
use tsoracle_openraft::Config;
use tsoracle_store::{Store, Table};

use crate::nodes::{Nodes, eventually};

/// Why a node belongs to no cluster, once it says that.
async fn waits_for(nodes: &Nodes, node: u32, text: &str) -> String {
    let membership = nodes.running[&node].driver.membership().unwrap();
    eventually(async || {
        let error = membership.members().await.unwrap_err().to_string();
        error.contains(text).then_some(error)
    })
    .await
}

fn leads(nodes: &Nodes, node: u32) -> bool {
    matches!(*nodes.running[&node].driver.leadership().borrow(), Leadership::Leader { .. })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_of_the_list_forms_no_cluster() {
    let mut nodes = Nodes::new(3, |config| config);
    nodes.start(1).await;
    nodes.start(2).await;
    for node in [1, 2] {
        waits_for(&nodes, node, "waiting for node 3 at").await;
        assert!(!leads(&nodes, node));
    }
    nodes.start(3).await;
    assert_eq!(nodes.next().await, 0);
    // Once it is formed, a majority serves.
    nodes.stop(3).await;
    assert_eq!(nodes.next().await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_started_beside_a_cluster_that_serves_form_no_second_one() {
    let mut nodes = Nodes::new(3, |config| match config.node {
        1 => {
            let peers = config.peers.split(',').next().unwrap().into();
            Config { peers, ..config }
        }
        _ => config,
    });
    nodes.start(1).await;
    assert_eq!(nodes.next().await, 0);
    nodes.start(2).await;
    nodes.start(3).await;
    for node in [2, 3] {
        let error = waits_for(&nodes, node, "belongs to a cluster already").await;
        assert!(error.contains("join=true") && error.contains("tsoracle cluster add"), "{error}");
    }
    assert_eq!(nodes.next().await, 10);
    assert!(leads(&nodes, 1) && !leads(&nodes, 2) && !leads(&nodes, 3));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_majority_of_wiped_nodes_does_not_begin_again_beside_a_survivor() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    assert_eq!(nodes.next().await, 0);
    nodes.stop_all().await;
    for wiped in [1, 3] {
        fs::remove_dir_all(nodes.path(wiped)).unwrap();
        nodes.start(wiped).await;
    }
    for wiped in [1, 3] {
        waits_for(&nodes, wiped, "waiting for node 2 at").await;
    }
    nodes.start(2).await;
    for wiped in [1, 3] {
        waits_for(&nodes, wiped, "belongs to a cluster already").await;
    }
    for node in 1..=3 {
        assert!(!leads(&nodes, node));
    }
}

const NODE: Table = Table::new("node");

/// What a directory says of its cluster.
fn cluster(nodes: &Nodes, node: u32) -> Option<Vec<u8>> {
    let store = Store::open(&nodes.path(node), Default::default()).unwrap();
    store.read(NODE, b"cluster").unwrap()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_of_before_there_were_cluster_ids_agree_on_one() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    assert_eq!(nodes.next().await, 0);
    nodes.stop_all().await;
    for node in 1..=3 {
        let store = Store::open(&nodes.path(node), Default::default()).unwrap();
        let mut effect = Effect::default();
        effect.delete(*b"cluster");
        store.write([(NODE, effect)]).unwrap();
    }
    for node in 1..=3 {
        nodes.start(node).await;
    }
    assert_eq!(nodes.next().await, 10);
    let all = |nodes: &Nodes| (1..=3).map(|node| cluster(nodes, node)).collect::<BTreeSet<_>>();
    let mut ids = BTreeSet::new();
    // They agree as they meet, which may not have been all pairs yet.
    for round in 2..100 {
        nodes.stop_all().await;
        ids = all(&nodes);
        for node in 1..=3 {
            nodes.start(node).await;
        }
        assert_eq!(nodes.next().await, round * 10);
        if ids.len() == 1 {
            break;
        }
    }
    assert!(ids.len() == 1 && ids.first().unwrap().is_some(), "{ids:?}");
    // A node can be added to it, and gets the same id.
    let member = nodes.start_joining(4).await;
    nodes.change(tsoracle_core::MembershipChange::Add(member)).await.unwrap();
    nodes.stop(4).await;
    assert_eq!(cluster(&nodes, 4).unwrap()[..17], ids.first().unwrap().as_ref().unwrap()[..17]);
}

/// A directory that an earlier release has made, and that never took part in a cluster, is new.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn directories_that_were_only_made_are_new() {
    let mut nodes = Nodes::new(3, |config| config);
    for node in [2, 3] {
        nodes.start(node).await;
        nodes.stop(node).await;
        let store = Store::open(&nodes.path(node), Default::default()).unwrap();
        let mut effect = Effect::default();
        effect.delete(*b"cluster");
        store.write([(NODE, effect)]).unwrap();
        drop(store);
        nodes.start(node).await;
    }
    for node in [2, 3] {
        waits_for(&nodes, node, "waiting for node 1 at").await;
    }
    nodes.start(1).await;
    assert_eq!(nodes.next().await, 0);
    let error = nodes.change(tsoracle_core::MembershipChange::Remove { id: 9, force: false }).await;
    assert_eq!(*error.unwrap_err().kind(), ErrorKind::Invalid);
}
