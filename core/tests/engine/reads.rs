//! Reads: of one version, under the lease, and by drivers that are behind.

use std::time::Duration;

use tsoracle_core::{Epoch, ErrorKind, ManualClock, SeqKey, SeqList};

use crate::rig::{BadRead, Cluster, Gate, LEASE, NOON_MS, Node, Step, settle};

fn read(node: &Node) -> tokio::task::JoinHandle<tsoracle_core::Result<Option<u64>>> {
    let oracle = node.oracle.clone();
    tokio::spawn(async move { oracle.read_seq(SeqKey::new("a").unwrap()).await })
}

#[tokio::test]
async fn a_read_is_answered_under_the_lease_without_a_commit() {
    let (cluster, node) = Cluster::serving().await;
    node.seq("a", 5).await.unwrap();
    let commits = cluster.log().len();
    assert_eq!(read(&node).await.unwrap().unwrap(), Some(5));
    assert_eq!(cluster.log().len(), commits);
}

#[tokio::test]
async fn a_read_that_arrives_after_the_lease_waits_for_a_renewal_that_is_stored() {
    let (_, node) = Cluster::serving().await;
    let (answer, renewal) = (Gate::new(), node.hold(Step::Extend));
    node.clock.advance(LEASE / 2);
    renewal.reached().await;
    node.read_badly(BadRead::HoldAfter(answer.clone()));
    let asked = read(&node);
    answer.reached().await;
    node.clock.advance(LEASE * 3 / 5);
    node.read_well();
    answer.open();
    settle().await;
    assert!(!asked.is_finished());
    renewal.open();
    assert_eq!(asked.await.unwrap().unwrap(), None);
}

#[tokio::test]
async fn a_deposed_leader_answers_no_read_however_far_its_driver_is_behind() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let a = cluster.node_with(1, &clock, |options| options.hold = LEASE * 10);
    let b = cluster.node(2, &clock);
    a.elect();
    a.serving().await;
    let answer = Gate::new();
    a.fall_behind();
    a.read_badly(BadRead::HoldAfter(answer.clone()));
    let asked = read(&a);
    answer.reached().await;
    let _renewal = a.hold(Step::Extend);
    b.elect();
    settle().await;
    a.clock.advance(LEASE * 2);
    b.serving().await;
    b.seq("a", 5).await.unwrap();
    a.read_well();
    answer.open();
    let error = a.until(asked).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None), "{error}");
}

#[tokio::test]
async fn a_driver_that_has_caught_up_shows_that_another_node_has_taken_over() {
    let (_, a) = Cluster::serving().await;
    let b = a.driver.cluster.node(2, &a.clock);
    b.elect();
    settle().await;
    // Its lease holds, and it was told nothing.
    a.grant();
    let error = read(&a).await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None), "{error}");
}

#[tokio::test]
async fn a_driver_that_is_behind_cannot_take_over_before_it_has_caught_up() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    b.fall_behind();
    a.seq("a", 5).await.unwrap();
    let before = a.oracle.get_ts(262_144).await.unwrap().range.last();
    a.busy_for(LEASE).await;
    a.oracle.shutdown().await.unwrap();
    b.elect();
    let trouble = b.troubled().await;
    assert!(trouble.contains("moved on"), "{trouble}");
    b.busy_for(LEASE * 3).await;
    assert!(b.refuses());
    assert_eq!(cluster.count(Step::Fence), 1);
    b.catch_up();
    b.clock.advance(LEASE);
    assert_eq!(b.serving().await, Epoch(2));
    assert!(b.grant().range.first() > before);
    assert_eq!(b.seq("a", 1).await.unwrap(), 5);
}

#[tokio::test]
async fn a_listing_is_of_one_version_while_commits_go_on() {
    let (_, node) = Cluster::serving().await;
    let keys: Vec<_> = (0..50).map(|n| format!("k{n:02}")).collect();
    let all = || {
        let entries = keys.iter().map(|key| (SeqKey::new(key).unwrap(), 1)).collect();
        tsoracle_core::SeqRequest::new(entries, None).unwrap()
    };
    node.send(all()).await.unwrap().unwrap();
    for _ in 0..50 {
        let writing = node.send(all());
        let list = SeqList { limit: 50, ..SeqList::default() };
        let listed = node.oracle.list_seqs(list).await.unwrap().entries;
        assert_eq!(listed.len(), 50);
        assert!(listed.iter().all(|(_, next)| *next == listed[0].1), "{listed:?}");
        writing.await.unwrap().unwrap();
    }
}

#[tokio::test]
async fn a_page_after_all_that_begins_with_a_prefix_is_empty() {
    let (_, node) = Cluster::serving().await;
    node.seq("ab", 1).await.unwrap();
    let list = SeqList { prefix: "a".into(), after: "z".into(), limit: 10 };
    let page = node.oracle.list_seqs(list).await.unwrap();
    assert_eq!((page.entries, page.more), (vec![], false));
}

#[tokio::test]
async fn a_read_that_fails_for_a_while_is_told_as_such() {
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Fail(ErrorKind::Unavailable));
    let error = read(&node).await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    // A request that needs a read is given back as not committed.
    let error = node.until(node.ask("a", 1)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    node.read_well();
    node.clock.advance(Duration::from_millis(500));
    assert_eq!(node.seq("a", 1).await.unwrap(), 0);
}
