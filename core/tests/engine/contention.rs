//! Nodes that believe to lead at the same time: none violates the order, and they do not keep each other
//! from serving.

use std::time::Duration;

use tsoracle_core::{
    Epoch, ErrorKind, ManualClock, Phase, Reject, RequestId, SeqKey, SeqRequest, Session,
    TimestampRange,
};

use crate::rig::{BadRead, Cluster, Fault, Gate, LEASE, NOON_MS, Node, Step, settle};

/// A request that says that it may have been sent before.
fn retry() -> SeqRequest {
    let id = RequestId { retry: true, ..RequestId::new(Session([1; 16]), 1, 1).unwrap() };
    SeqRequest::new(vec![(SeqKey::new("a").unwrap(), 7)], Some(id)).unwrap()
}

/// The same, sent for the first time.
fn first() -> SeqRequest {
    let id = RequestId::new(Session([1; 16]), 1, 1).unwrap();
    SeqRequest::new(vec![(SeqKey::new("a").unwrap(), 7)], Some(id)).unwrap()
}

#[tokio::test]
async fn believers_do_not_fence_each_other_for_ever_and_keep_the_order() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let nodes = [cluster.node(1, &clock), cluster.node(2, &clock), cluster.node(3, &clock)];
    for node in &nodes {
        node.elect();
    }
    let mut last: Option<TimestampRange> = None;
    let mut served_late = 0;
    let mut fences_early = 0;
    for turn in 0..4_000 {
        clock.advance(Duration::from_millis(50));
        settle().await;
        let mut served = false;
        for node in &nodes {
            if let Some(granted) = node.oracle.try_get_ts(3).unwrap() {
                let range = granted.range;
                assert!(last.is_none_or(|last| last.last() < range.first()), "{last:?} {range:?}");
                last = Some(range);
                served = true;
            }
        }
        if turn >= 2_000 {
            served_late += usize::from(served);
        } else {
            fences_early = cluster.count(Step::Fence);
        }
    }
    let fences_late = cluster.count(Step::Fence) - fences_early;
    // In the second half of 200 leases: each challenge costs two fences, and half a lease.
    assert!(fences_late < 50, "{fences_early} fences, then {fences_late}");
    assert!(served_late > 1_600, "served {served_late} of 2,000 times, {fences_late} fences");
}

#[tokio::test]
async fn a_node_that_is_fenced_while_it_waits_does_not_open() {
    let (cluster, a) = Cluster::serving().await;
    let (b, c) = (cluster.node(2, &a.clock), cluster.node(3, &a.clock));
    let _renewal = a.hold(Step::Extend);
    b.elect();
    settle().await;
    a.clock.advance(Duration::from_millis(600));
    c.elect();
    settle().await;
    a.clock.advance(Duration::from_millis(501));
    settle().await;
    assert_eq!(cluster.count(Step::Open), 1, "the one fence found the other");
    a.clock.advance(Duration::from_millis(600));
    assert_eq!(c.serving().await, Epoch(3));
    assert!(b.refuses());
}

#[tokio::test]
async fn a_conflict_ends_a_reign_at_once() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    b.elect();
    settle().await;
    assert!(!a.refuses(), "its lease is not over");
    let error = a.seq("a", 1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None), "{error}");
    settle().await;
    assert!(a.refuses());
    assert_eq!(a.oracle.status().phase, Phase::Electing);
    // It tries again by itself while its driver does not say otherwise, but not at once.
    a.clock.advance(LEASE * 2 / 5);
    settle().await;
    assert_eq!(cluster.count(Step::Fence), 2);
    a.busy_for(LEASE).await;
    assert_eq!(cluster.count(Step::Fence), 3);
}

#[tokio::test]
async fn a_conflict_ends_a_reign_though_its_driver_still_shows_it() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    a.fall_behind();
    b.elect();
    settle().await;
    let error = a.seq("a", 1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None), "{error}");
    settle().await;
    // What is read is older than what the commit has met.
    assert!(a.refuses());
    assert_eq!(a.oracle.status().phase, Phase::Electing);
}

#[tokio::test]
async fn a_late_commit_of_an_earlier_reign_changes_nothing() {
    for step in [Step::Advance, Step::Extend] {
        let (cluster, a) = Cluster::serving().await;
        let b = cluster.node(2, &a.clock);
        let late = a.hold(step);
        let asked = a.ask("a", 5);
        if step == Step::Extend {
            a.clock.advance(Duration::from_millis(300));
        }
        late.reached().await;
        b.elect();
        settle().await;
        a.clock.advance(LEASE * 2);
        b.serving().await;
        let (before, stored) = (cluster.record(), cluster.next("a"));
        late.open();
        settle().await;
        assert_eq!((cluster.record(), cluster.next("a")), (before, stored));
        assert_eq!(a.oracle.status().phase, Phase::Electing, "another reign is open");
        assert_eq!(asked.await.unwrap().is_ok(), stored == 5);
        assert_eq!(b.seq("a", 1).await.unwrap(), stored);
    }
}

/// A leader that was idle until its lease lapsed, whose driver is behind and does not know of its
/// successor, which serves.
async fn deposed() -> (Cluster, Node, Node) {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    a.seq("a", 1).await.unwrap();
    for _ in 0..400 {
        a.clock.advance(Duration::from_millis(100));
        settle().await;
    }
    assert!(a.refuses());
    settle().await;
    a.clock.advance(LEASE * 35);
    settle().await;
    a.fall_behind();
    b.elect();
    settle().await;
    a.clock.advance(LEASE * 2);
    b.serving().await;
    (cluster, a, b)
}

#[tokio::test]
async fn a_deposed_leader_does_not_refuse_what_its_successor_has_granted() {
    let (cluster, a, b) = deposed().await;
    assert_eq!(b.send(first()).await.unwrap().unwrap(), 1);
    let error = a.until(a.send(retry())).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotLeader(_)), "{error}");
    assert_eq!(cluster.next("a"), 8);
}

#[tokio::test]
async fn a_deposed_leader_that_stops_does_not_refuse_either() {
    let (_, a, b) = deposed().await;
    assert_eq!(b.send(first()).await.unwrap().unwrap(), 1);
    let asked = a.send(retry());
    let oracle = a.oracle.clone();
    let stopping = tokio::spawn(async move { oracle.shutdown().await });
    let error = a.until(asked).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::NotLeader(_)), "{error}");
    a.until(stopping).await.unwrap();
}

#[tokio::test]
async fn a_leader_whose_lease_holds_refuses_without_a_commit() {
    let (cluster, node) = Cluster::serving().await;
    let commits = cluster.log().len();
    let unknown = ErrorKind::Rejected(Reject::SessionUnknown);
    assert_eq!(*node.send(retry()).await.unwrap().unwrap_err().kind(), unknown);
    assert_eq!(node.send(first()).await.unwrap().unwrap(), 0);
    assert_eq!(node.send(retry()).await.unwrap().unwrap(), 0, "and repeats an answer");
    assert_eq!(cluster.log().len(), commits + 1);
}

#[tokio::test]
async fn a_refusal_after_the_lease_has_lapsed_waits_for_a_renewal_that_is_stored() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Extend);
    node.clock.advance(LEASE);
    gate.reached().await;
    let asked = node.send(retry());
    settle().await;
    assert!(!asked.is_finished());
    gate.open();
    let unknown = ErrorKind::Rejected(Reject::SessionUnknown);
    assert_eq!(*asked.await.unwrap().unwrap_err().kind(), unknown);
    assert_eq!(cluster.count(Step::Extend), 1);
}

#[tokio::test]
async fn a_refusal_that_was_read_for_too_long_waits_for_a_renewal_that_is_stored() {
    let (_, node) = Cluster::serving().await;
    // No renewal is due when it is begun, nor are expired sessions looked for.
    node.seq("b", 1).await.unwrap();
    node.clock.advance(LEASE / 5);
    let (answer, renewal) = (Gate::new(), node.hold(Step::Extend));
    node.read_badly(BadRead::HoldAfter(answer.clone()));
    let asked = node.send(retry());
    answer.reached().await;
    node.clock.advance(LEASE * 9 / 10);
    assert!(node.refuses());
    node.read_well();
    answer.open();
    renewal.reached().await;
    settle().await;
    assert!(!asked.is_finished());
    renewal.open();
    let unknown = ErrorKind::Rejected(Reject::SessionUnknown);
    assert_eq!(*asked.await.unwrap().unwrap_err().kind(), unknown);
}

#[tokio::test]
async fn a_refusal_goes_together_with_the_commit_that_it_was_planned_on() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let held = node.ask("b", 1);
    gate.reached().await;
    node.fault(Step::Advance, Fault::Refuse(ErrorKind::Unavailable));
    // Both are worked out together: the second one is refused because of the first.
    let (granted, refused) = (node.send(first()), node.send(other_request()));
    settle().await;
    gate.open();
    held.await.unwrap().unwrap();
    for asked in [granted, refused] {
        let error = node.until(asked).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "not {error}, of what is not stored");
    }
    assert_eq!(node.until(node.send(other_request())).await.unwrap(), 0);
}

/// Another request under the number of the first.
fn other_request() -> SeqRequest {
    let id = RequestId::new(Session([1; 16]), 1, 1).unwrap();
    SeqRequest::new(vec![(SeqKey::new("a").unwrap(), 9)], Some(id)).unwrap()
}

#[tokio::test]
async fn what_is_known_is_read_once_and_again_after_anything_but_stored() {
    let (_, node) = Cluster::serving().await;
    node.seq("a", 1).await.unwrap();
    let reads = node.driver.reads();
    for expected in 1..50 {
        assert_eq!(node.seq("a", 1).await.unwrap(), expected);
    }
    assert_eq!(node.driver.reads(), reads);
    for fault in [
        Fault::Refuse(ErrorKind::Unavailable),
        Fault::Refuse(ErrorKind::NotLeader(None)),
        Fault::Refuse(ErrorKind::Uncertain),
    ] {
        node.fault(Step::Advance, fault);
        node.seq("a", 1).await.unwrap_err();
        let reads = node.driver.reads();
        node.until(node.ask("a", 1)).await.unwrap();
        assert!(node.driver.reads() > reads, "nothing is planned on what was known before");
    }
}

/// Whether it is read before that commit is made or after it. The last key is one that this commit writes.
#[tokio::test]
async fn what_the_next_commit_needs_is_read_while_one_is_in_flight() {
    for hold in [Fault::HoldBefore, Fault::HoldAfter] {
        let (_, node) = Cluster::serving().await;
        for key in ["b", "c"] {
            node.seq(key, 70).await.unwrap();
        }
        // All is forgotten.
        node.fault(Step::Advance, Fault::Refuse(ErrorKind::Unavailable));
        node.until(node.ask("b", 1)).await.unwrap_err();
        let gate = Gate::new();
        node.fault(Step::Advance, hold(gate.clone()));
        let first = node.ask("a", 5);
        node.pass_until(&gate).await;
        let reads = node.driver.reads();
        let rest = ["b", "c", "a"].map(|key| node.ask(key, 1));
        settle().await;
        assert_eq!(node.driver.reads(), reads + 2, "two of the three are not known");
        gate.open();
        assert_eq!(first.await.unwrap().unwrap(), 0);
        for (asked, start) in rest.into_iter().zip([70, 70, 5]) {
            assert_eq!(asked.await.unwrap().unwrap(), start);
        }
        assert_eq!(node.driver.reads(), reads + 2, "nothing is read twice");
    }
}

#[tokio::test]
async fn what_was_read_ahead_of_a_commit_that_is_not_stored_is_forgotten() {
    let (_, node) = Cluster::serving().await;
    let gate = Gate::new();
    node.fault(Step::Advance, Fault::RefuseAfter(gate.clone(), ErrorKind::Unavailable));
    let first = node.ask("a", 1);
    gate.reached().await;
    let second = node.ask("b", 1);
    settle().await;
    let reads = node.driver.reads();
    gate.open();
    first.await.unwrap().unwrap_err();
    assert_eq!(node.until(second).await.unwrap(), 0);
    assert!(node.driver.reads() > reads, "nothing is planned on what was read before");
}
