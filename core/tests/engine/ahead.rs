//! What is worked out while a commit is in flight leaves only once that commit is stored.

use std::time::Duration;

use tsoracle_core::{ErrorKind, RequestId, SeqKey, SeqRequest, Session};

use crate::rig::{Cluster, Fault, Gate, LEASE, Node, Step, settle};

const KEYS: [&str; 6] = ["b", "c", "d", "e", "f", "g"];

/// A node that knows all that requests for "a" need, so that they are worked out ahead.
async fn knowing() -> (Cluster, Node) {
    let (cluster, node) = Cluster::serving().await;
    for expected in 0..3 {
        assert_eq!(node.seq("a", 1).await.unwrap(), expected);
    }
    (cluster, node)
}

/// A commit of five numbers in flight, which ends as the fault wants once its gate opens.
async fn in_flight(
    node: &Node,
    fault: impl FnOnce(Gate) -> Fault,
) -> (Gate, tokio::task::JoinHandle<tsoracle_core::Result<u64>>) {
    let gate = Gate::new();
    node.fault(Step::Advance, fault(gate.clone()));
    let asked = node.ask("a", 5);
    gate.reached().await;
    (gate, asked)
}

fn refused(gate: Gate) -> Fault {
    Fault::RefuseAfter(gate, ErrorKind::Unavailable)
}

#[tokio::test]
async fn what_was_planned_on_a_commit_that_is_not_stored_is_planned_again() {
    let (cluster, node) = knowing().await;
    let (gate, first) = in_flight(&node, refused).await;
    let rest = [node.ask("a", 10), node.ask("a", 1)];
    settle().await;
    gate.open();
    first.await.unwrap().unwrap_err();
    for (asked, start) in rest.into_iter().zip([3, 13]) {
        assert_eq!(node.until(asked).await.unwrap(), start, "the five are not spent");
    }
    assert_eq!(cluster.next("a"), 14);
}

#[tokio::test]
async fn what_is_repeated_from_a_commit_that_is_not_stored_is_not_told() {
    let request = || {
        let id = RequestId::new(Session([1; 16]), 1, 1).unwrap();
        SeqRequest::new(vec![(SeqKey::new("a").unwrap(), 7)], Some(id)).unwrap()
    };
    let (cluster, node) = knowing().await;
    // Its session is known as well then.
    let other = RequestId::new(Session([1; 16]), 2, 1).unwrap();
    let other = SeqRequest::new(vec![(SeqKey::new("a").unwrap(), 2)], Some(other)).unwrap();
    assert_eq!(node.send(other).await.unwrap().unwrap(), 3);
    node.seq("a", 1).await.unwrap();
    let gate = Gate::new();
    node.fault(Step::Advance, refused(gate.clone()));
    let first = node.send(request());
    gate.reached().await;
    let again = node.send(request());
    settle().await;
    gate.open();
    first.await.unwrap().unwrap_err();
    assert_eq!(node.until(again).await.unwrap(), 6);
    assert_eq!(cluster.next("a"), 13, "and it is stored");
}

#[tokio::test]
async fn a_caller_that_gives_up_after_it_was_planned_for_spends_nothing() {
    let (cluster, node) = knowing().await;
    let (gate, first) = in_flight(&node, Fault::HoldBefore).await;
    let (impatient, patient) = (node.ask("a", 10), node.ask("a", 1));
    settle().await;
    impatient.abort();
    settle().await;
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), 3);
    assert_eq!(patient.await.unwrap().unwrap(), 8);
    assert_eq!(cluster.next("a"), 9);
}

#[tokio::test]
async fn a_renewal_that_is_due_goes_along_with_what_was_planned_before_it() {
    let (cluster, node) = knowing().await;
    for key in KEYS {
        node.seq(key, 1).await.unwrap();
    }
    node.seq("a", 1).await.unwrap();
    node.driver.limits.lock().unwrap().writes = 6;
    let (gate, first) = in_flight(&node, Fault::HoldBefore).await;
    let rest = KEYS.map(|key| node.ask(key, 1));
    settle().await;
    node.clock.advance(LEASE * 2 / 5);
    let commits = cluster.log().len();
    gate.open();
    first.await.unwrap().unwrap();
    for asked in rest {
        node.until(asked).await.unwrap();
    }
    assert_eq!(cluster.log()[commits], [Step::Advance]);
    let next = &cluster.log()[commits + 1];
    assert!(next.contains(&Step::Extend) && next.contains(&Step::Advance), "{next:?}");
    assert!(node.oracle.status().lease_left > LEASE / 2);
}

#[tokio::test]
async fn a_renewal_for_which_there_is_no_room_goes_before_anything_else_is_planned_ahead() {
    let large = || SeqRequest::new(KEYS.map(|key| (SeqKey::new(key).unwrap(), 1)).into(), None);
    let (cluster, node) = knowing().await;
    node.send(large().unwrap()).await.unwrap().unwrap();
    node.seq("a", 1).await.unwrap();
    // The first request of a commit fits, whatever its size.
    node.driver.limits.lock().unwrap().writes = 4;
    let (gate, first) = in_flight(&node, Fault::HoldBefore).await;
    let second = node.send(large().unwrap());
    settle().await;
    node.clock.advance(LEASE * 2 / 5);
    let next = node.hold(Step::Advance);
    let commits = cluster.log().len();
    gate.open();
    first.await.unwrap().unwrap();
    next.reached().await;
    let third = node.send(large().unwrap());
    settle().await;
    let left = node.oracle.status().lease_left;
    let renewing = node.hold(Step::Extend);
    next.open();
    second.await.unwrap().unwrap();
    renewing.reached().await;
    assert_eq!(cluster.log()[commits..], [[Step::Advance], [Step::Advance]]);
    assert_eq!(node.oracle.status().lease_left, left, "nothing was renewed");
    renewing.open();
    third.await.unwrap().unwrap();
    assert!(cluster.log()[commits + 2].contains(&Step::Extend));
    assert!(node.oracle.status().lease_left > left);
}

#[tokio::test]
async fn a_node_that_stops_commits_what_was_planned_ahead_and_releases_last() {
    let (cluster, node) = knowing().await;
    let (gate, first) = in_flight(&node, Fault::HoldBefore).await;
    let planned = node.ask("a", 1);
    settle().await;
    let oracle = node.oracle.clone();
    let stopping = tokio::spawn(async move { oracle.shutdown().await });
    settle().await;
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), 3);
    assert_eq!(planned.await.unwrap().unwrap(), 8);
    stopping.await.unwrap().unwrap();
    assert_eq!(cluster.log().last().unwrap(), &[Step::Release]);
    assert_eq!(cluster.next("a"), 9);
}

#[tokio::test]
async fn what_was_planned_ahead_of_a_take_over_is_not_carried_out() {
    let (cluster, a) = knowing().await;
    let b = cluster.node(2, &a.clock);
    let (gate, first) = in_flight(&a, Fault::HoldBefore).await;
    let planned = a.ask("a", 1);
    settle().await;
    b.elect();
    settle().await;
    a.clock.advance(LEASE * 2);
    b.serving().await;
    assert_eq!(b.seq("a", 1).await.unwrap(), 3);
    gate.open();
    for asked in [first, planned] {
        let error = a.until(asked).await.unwrap_err();
        assert!(matches!(error.kind(), ErrorKind::NotLeader(_)), "{error}");
    }
    a.clock.advance(Duration::from_secs(1));
    settle().await;
    assert_eq!(cluster.next("a"), 4);
}
