//! Commits whose outcome the driver does not know: the engine finds it out, and tells it exactly where
//! the state tells.

use std::time::Duration;

use tsoracle_core::{Effect, Epoch, ErrorKind, RequestId, SeqKey, SeqRequest, Session};

use crate::rig::{Cluster, Fault, Gate, LEASE, NOON_MS, Node, Step, settle};

/// A request that is exactly once.
fn request(number: u64) -> SeqRequest {
    let id = RequestId::new(Session([1; 16]), number, 1).unwrap();
    SeqRequest::new(vec![(SeqKey::new("a").unwrap(), 7)], Some(id)).unwrap()
}

/// With this fault, the driver cannot read either from then on.
fn cut(fault: Fault) -> Fault {
    Fault::Cut(Box::new(fault), ErrorKind::Unavailable)
}

/// Lets another node commit on whatever is there.
fn commit_elsewhere(cluster: &Cluster, name: u128) {
    let mut effect = Effect::default();
    effect.set_version(cluster.version().next(name).unwrap());
    cluster.commit(cluster.version(), effect).unwrap();
}

#[tokio::test]
async fn a_commit_whose_answer_is_lost_is_told_as_stored() {
    let (cluster, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::LoseReply(ErrorKind::Uncertain));
    // No time passes: the state tells at once.
    assert_eq!(node.seq("a", 7).await.unwrap(), 0);
    assert_eq!(node.seq("a", 1).await.unwrap(), 7, "and is planned on");
    assert_eq!(cluster.count(Step::Settle), 0);
}

#[tokio::test]
async fn a_commit_that_never_arrives_is_decided_by_another_and_told_as_not_committed() {
    let (cluster, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Refuse(ErrorKind::Uncertain));
    let error = node.seq("a", 7).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(cluster.count(Step::Settle), 1);
    assert_eq!(node.until(node.ask("a", 1)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_commit_that_arrives_after_it_was_decided_changes_nothing() {
    let (cluster, node) = Cluster::serving().await;
    let late = node.delay(Step::Advance);
    let error = node.seq("a", 7).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    late.open();
    settle().await;
    assert_eq!(cluster.next("a"), 0);
    assert_eq!(node.until(node.ask("a", 1)).await.unwrap(), 0);
}

#[tokio::test]
async fn a_commit_that_arrives_while_it_is_looked_for_is_found() {
    let (cluster, node) = Cluster::serving().await;
    let late = node.delay(Step::Advance);
    let deciding = node.hold(Step::Settle);
    let asked = node.ask("a", 7);
    deciding.reached().await;
    late.open();
    settle().await;
    deciding.open();
    assert_eq!(node.until(asked).await.unwrap(), 0);
    assert_eq!((cluster.next("a"), cluster.count(Step::Settle)), (7, 0));
}

#[tokio::test]
async fn a_commit_that_decides_may_be_lost_as_well() {
    for fault in [
        Fault::Refuse(ErrorKind::Uncertain),
        Fault::Refuse(ErrorKind::Unavailable),
        Fault::LoseReply(ErrorKind::Uncertain),
    ] {
        let (cluster, node) = Cluster::serving().await;
        node.fault(Step::Advance, Fault::Refuse(ErrorKind::Uncertain));
        node.fault(Step::Settle, fault);
        let error = node.until(node.ask("a", 7)).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
        assert_eq!((cluster.next("a"), cluster.count(Step::Settle)), (0, 1));
        assert_eq!(node.until(node.ask("a", 1)).await.unwrap(), 0, "the reign goes on");
        assert_eq!(cluster.count(Step::Fence), 1);
    }
}

#[tokio::test]
async fn a_successor_whose_fence_followed_the_commit_tells_that_it_is_stored() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    a.fault(Step::Advance, cut(Fault::LoseReply(ErrorKind::Uncertain)));
    let asked = a.ask("a", 7);
    settle().await;
    b.elect();
    settle().await;
    commit_elsewhere(&cluster, 77);
    a.read_well();
    assert_eq!(a.until(asked).await.unwrap(), 0);
}

#[tokio::test]
async fn a_successor_whose_fence_took_its_place_tells_that_it_is_not() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    let late = Gate::new();
    a.fault(Step::Advance, cut(Fault::Late(late.clone())));
    let asked = a.ask("a", 7);
    settle().await;
    b.elect();
    settle().await;
    commit_elsewhere(&cluster, 77);
    a.read_well();
    let error = a.until(asked).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    late.open();
    settle().await;
    assert_eq!(cluster.next("a"), 0);
}

#[tokio::test]
async fn what_the_state_does_not_tell_any_more_stays_uncertain_and_its_id_tells() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    a.fault(Step::Advance, cut(Fault::LoseReply(ErrorKind::Uncertain)));
    let asked = a.send(request(1));
    settle().await;
    // Two fences later, nothing tells of the base of the first.
    b.elect();
    settle().await;
    b.elect();
    settle().await;
    assert_eq!(cluster.count(Step::Fence), 3);
    a.read_well();
    let error = a.until(asked).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    a.follow();
    b.clock.advance(LEASE * 2);
    b.serving().await;
    assert_eq!(b.send(request(1)).await.unwrap().unwrap(), 0, "the same block");
    assert_eq!(cluster.next("a"), 7);
}

#[tokio::test]
async fn what_cannot_be_found_out_in_a_lease_stays_uncertain() {
    let (cluster, node) = Cluster::serving().await;
    node.fault(Step::Advance, cut(Fault::LoseReply(ErrorKind::Uncertain)));
    let began = node.oracle.status();
    let error = node.until(node.ask("a", 7)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    assert!(began.lease_left > Duration::ZERO);
    node.read_well();
    assert_eq!(node.until(node.ask("a", 1)).await.unwrap(), 7, "it was stored");
    assert_eq!(cluster.count(Step::Fence), 1, "the same reign goes on");
}

#[tokio::test]
async fn a_commit_of_this_reign_that_is_stored_late_is_no_end_of_it() {
    let (cluster, node) = Cluster::serving().await;
    let late = node.delay(Step::Advance);
    (0..100).for_each(|_| node.fault(Step::Settle, Fault::Refuse(ErrorKind::Unavailable)));
    let error = node.until(node.send(request(1))).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    // It is stored when the next one is on its way already, on the same base.
    let next = node.hold(Step::Advance);
    let asked = node.ask("a", 1);
    node.pass_until(&next).await;
    late.open();
    settle().await;
    next.open();
    let error = node.until(asked).await.unwrap_err();
    assert!(
        matches!(error.kind(), ErrorKind::NotLeader(None) | ErrorKind::Unavailable),
        "not committed, and may be asked for again: {error}"
    );
    assert_eq!(cluster.next("a"), 7);
    assert_eq!(node.until(node.send(request(1))).await.unwrap(), 0);
    assert_eq!(node.until(node.ask("a", 1)).await.unwrap(), 7);
    assert_eq!(cluster.count(Step::Fence), 1, "the reign goes on");
}

/// A node whose fence or open meets a fault.
async fn taking_over(step: Step, fault: Fault) -> (Cluster, Node) {
    let cluster = Cluster::default();
    let node = cluster.node(1, &tsoracle_core::ManualClock::new(NOON_MS));
    node.fault(step, fault);
    node.elect();
    node.troubled().await;
    (cluster, node)
}

#[tokio::test]
async fn a_fence_or_open_whose_answer_is_lost_is_found() {
    for step in [Step::Fence, Step::Open] {
        let (cluster, node) = taking_over(step, Fault::LoseReply(ErrorKind::Uncertain)).await;
        node.clock.advance(Duration::from_millis(20));
        assert_eq!(node.serving().await, Epoch(1));
        assert_eq!(cluster.log(), [[Step::Fence], [Step::Open]], "neither is made twice");
        // The deadline counts from before the one that is stored was begun.
        assert_eq!(
            node.oracle.status().lease_left,
            if step == Step::Open { LEASE - Duration::from_millis(20) } else { LEASE }
        );
    }
}

#[tokio::test]
async fn a_fence_or_open_that_arrives_late_is_found_and_one_that_never_does_is_made_again() {
    for step in [Step::Fence, Step::Open] {
        for arrives in [true, false] {
            let late = Gate::new();
            let (cluster, node) = taking_over(step, Fault::Late(late.clone())).await;
            if arrives {
                late.open();
                settle().await;
            }
            node.clock.advance(Duration::from_millis(20));
            assert_eq!(node.serving().await, Epoch(1));
            late.open();
            settle().await;
            node.busy_for(LEASE * 2).await;
            node.grant();
            assert_eq!((cluster.count(Step::Fence), cluster.count(Step::Open)), (1, 1));
        }
    }
}

#[tokio::test]
async fn a_fence_that_arrives_between_two_attempts_conflicts_with_the_second_and_is_found() {
    for step in [Step::Fence, Step::Open] {
        let late = Gate::new();
        let (cluster, node) = taking_over(step, Fault::Late(late.clone())).await;
        let second = node.hold(step);
        node.clock.advance(Duration::from_millis(20));
        second.reached().await;
        late.open();
        settle().await;
        second.open();
        settle().await;
        node.clock.advance(Duration::from_millis(100));
        assert_eq!(node.serving().await, Epoch(1), "a conflict with one's own commit is none");
        assert_eq!(cluster.log(), [[Step::Fence], [Step::Open]]);
    }
}

#[tokio::test]
async fn a_renewal_that_arrives_late_renews_nothing_that_was_not_known() {
    let (cluster, node) = Cluster::serving().await;
    let late = node.delay(Step::Extend);
    let deciding = node.hold(Step::Settle);
    node.clock.advance(Duration::from_millis(300));
    deciding.reached().await;
    node.clock.advance(Duration::from_millis(700));
    assert!(node.refuses(), "the lease is over while it is looked for");
    late.open();
    settle().await;
    deciding.open();
    settle().await;
    node.clock.advance(Duration::from_millis(20));
    settle().await;
    // It counts from before it was begun, and another one follows.
    node.grant();
    assert_eq!(cluster.count(Step::Settle), 0);
    assert!(node.oracle.status().lease_left <= LEASE);
}

#[tokio::test]
async fn outside_of_a_reign_nothing_is_committed_to_find_out() {
    let (cluster, node) = Cluster::serving().await;
    node.fault(Step::Advance, cut(Fault::Refuse(ErrorKind::Uncertain)));
    let asked = node.ask("a", 7);
    settle().await;
    node.follow();
    settle().await;
    node.read_well();
    let error = node.until(asked).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    assert_eq!(cluster.log(), [[Step::Fence], [Step::Open]]);
}

#[tokio::test]
async fn a_driver_that_fails_while_it_is_asked_leaves_the_outcome_uncertain() {
    let (_, node) = Cluster::serving().await;
    let lost = Box::new(Fault::LoseReply(ErrorKind::Uncertain));
    node.fault(Step::Advance, Fault::Cut(lost, ErrorKind::Fatal));
    let error = node.seq("a", 7).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    node.failed().await;
}
