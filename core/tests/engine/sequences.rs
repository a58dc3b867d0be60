//! Group commit, and what becomes of callers who give up, lose their leader or come too many.

use std::time::Duration;

use futures::future::join_all;
use tsoracle_core::{
    CommitLimits, ErrorKind, LeaseHolder, ManualClock, RequestId, SeqKey, SeqRequest, Session,
};

use crate::rig::{Cluster, Fault, Gate, LEASE, NOON_MS, Step, settle};

#[tokio::test]
async fn requests_that_arrive_during_a_commit_go_together_into_the_next() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let first = node.ask("a", 1);
    gate.reached().await;
    let rest: Vec<_> = (0..100).map(|n| node.ask(["a", "b"][n % 2], 2)).collect();
    settle().await;
    let before = cluster.log().len();
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), 0);
    for asked in rest {
        asked.await.unwrap().unwrap();
    }
    assert_eq!(cluster.log().len(), before + 2, "the one in flight, and all the others");
    assert_eq!((cluster.next("a"), cluster.next("b")), (101, 100));
}

#[tokio::test]
async fn requests_of_one_call_are_split_over_commits_where_a_driver_needs_it() {
    let (cluster, node) = Cluster::serving().await;
    // A thousand sequences, the counts and the version.
    node.driver.limits.lock().unwrap().writes = 1_002;
    let request =
        |n: usize| Ok(SeqRequest::single(SeqKey::new(format!("{}", n % 2_500)).unwrap(), 1)?);
    let before = cluster.log().len();
    let granted = node.oracle.get_seqs((0..2_500).map(request)).await;
    assert_eq!(cluster.log().len(), before + 3);
    assert!(granted.into_iter().all(|granted| granted.unwrap().blocks[0].start == 0));
    assert_eq!(cluster.entries(b's').len(), 2_500);
    // Of a part that failed nothing is committed, and all of the other one.
    node.fault(Step::Advance, Fault::Refuse(ErrorKind::Unavailable));
    let asked = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.get_seqs((0..1_500).map(request)).await }
    });
    for (n, outcome) in node.until(asked).await.into_iter().enumerate() {
        match outcome {
            Ok(granted) => assert_eq!((n >= 1_001, granted.blocks[0].start), (true, 1)),
            Err(error) => assert_eq!((n < 1_001, error.kind()), (true, &ErrorKind::Unavailable)),
        }
    }
    assert_eq!((cluster.next("1000"), cluster.next("1001")), (1, 2));
}

#[tokio::test]
async fn a_commit_has_a_bounded_number_of_requests_however_little_they_write() {
    let (cluster, node) = Cluster::serving().await;
    let request = |_| Ok(SeqRequest::single(SeqKey::new("a").unwrap(), 1)?);
    let before = cluster.log().len();
    let granted = node.oracle.get_seqs((0..5_000).map(request)).await;
    assert_eq!(cluster.log().len(), before + 2);
    for (start, granted) in (0..).zip(granted) {
        assert_eq!(granted.unwrap().blocks[0].start, start);
    }
}

#[tokio::test]
async fn places_in_the_queue_are_counted_by_request() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node_with(1, &clock, |options| options.max_waiting = 10);
    node.elect();
    node.serving().await;
    let gate = node.hold(Step::Advance);
    let ask = |requests: usize| {
        let oracle = node.oracle.clone();
        let request = |_| Ok(SeqRequest::single(SeqKey::new("a").unwrap(), 1)?);
        tokio::spawn(async move { oracle.get_seqs((0..requests).map(request)).await })
    };
    let first = ask(4);
    gate.reached().await;
    let second = ask(6);
    settle().await;
    for outcome in ask(1).await.unwrap() {
        assert_eq!(*outcome.unwrap_err().kind(), ErrorKind::Overloaded);
    }
    second.abort();
    settle().await;
    // What was given up keeps its places until it is looked at, however many callers have gone.
    let third = ask(6);
    settle().await;
    assert!(third.is_finished());
    gate.open();
    assert!(first.await.unwrap().iter().all(Result::is_ok));
    assert!(third.await.unwrap().iter().all(Result::is_err));
    assert_eq!(cluster.next("a"), 4);
}

#[tokio::test]
async fn a_caller_that_gives_up_while_queued_spends_nothing() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let first = node.ask("a", 1);
    gate.reached().await;
    let impatient: Vec<_> = (0..50).map(|_| node.ask("a", 1)).collect();
    let patient = node.ask("a", 1);
    settle().await;
    impatient.iter().for_each(|asked| asked.abort());
    settle().await;
    gate.open();
    assert_eq!(first.await.unwrap().unwrap(), 0);
    assert_eq!(patient.await.unwrap().unwrap(), 1);
    assert_eq!(cluster.next("a"), 2);
    assert_eq!(node.oracle.status().waiting, 0);
}

#[tokio::test]
async fn a_caller_that_gives_up_in_flight_does_not_disturb_the_next() {
    let (cluster, node) = Cluster::serving().await;
    for hold in [Fault::HoldBefore, Fault::HoldAfter] {
        let gate = Gate::new();
        node.fault(Step::Advance, hold(gate.clone()));
        let spent = cluster.next("a");
        let gone = node.ask("a", 5);
        gate.reached().await;
        gone.abort();
        settle().await;
        gate.open();
        assert_eq!(node.seq("a", 1).await.unwrap(), spent + 5);
    }
}

#[tokio::test]
async fn a_failure_that_is_certain_is_told_as_such() {
    let (cluster, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Refuse(ErrorKind::Unavailable));
    let error = node.seq("a", 1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert_eq!(cluster.next("a"), 0);
}

#[tokio::test]
async fn a_commit_that_meets_a_newer_epoch_is_refused_and_ends_the_reign() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    let gate = a.hold(Step::Advance);
    let asked = a.ask("a", 1);
    gate.reached().await;
    b.elect();
    settle().await;
    gate.open();
    let error = asked.await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
    settle().await;
    assert!(a.refuses(), "the lease of a fenced reign is not used up");
    assert_eq!(cluster.next("a"), 0);
}

#[tokio::test]
async fn a_lost_leadership_refuses_what_is_queued_and_answers_what_is_in_flight() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let in_flight = node.ask("a", 1);
    gate.reached().await;
    let queued = node.ask("a", 1);
    settle().await;
    node.follow();
    let error = queued.await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
    assert!(!in_flight.is_finished());
    gate.open();
    assert_eq!(in_flight.await.unwrap().unwrap(), 0, "it was committed, and its caller learns so");
    assert_eq!(cluster.next("a"), 1);
}

#[tokio::test]
async fn a_panic_in_the_driver_leaves_what_was_submitted_uncertain() {
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Panic);
    let error = node.seq("a", 1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain);
    node.failed().await;
}

#[tokio::test]
async fn too_many_waiters_are_refused() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node_with(1, &clock, |options| options.max_waiting = 10);
    node.elect();
    node.serving().await;
    let gate = node.hold(Step::Advance);
    let asked: Vec<_> = (0..15).map(|_| node.ask("a", 1)).collect();
    gate.reached().await;
    settle().await;
    assert!(node.oracle.try_get_ts(1).unwrap().is_some(), "timestamps do not wait with them");
    gate.open();
    let outcomes = join_all(asked).await;
    let refused = outcomes.iter().filter(|outcome| {
        let error = outcome.as_ref().unwrap().as_ref().err();
        error.is_some_and(|error| *error.kind() == ErrorKind::Overloaded)
    });
    assert_eq!(refused.count(), 5);
    assert_eq!(cluster.next("a"), 10);
}

#[tokio::test]
async fn stopping_commits_what_was_accepted_and_releases_last() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let in_flight = node.ask("a", 1);
    gate.reached().await;
    let accepted: Vec<_> = (0..10).map(|_| node.ask("a", 1)).collect();
    settle().await;
    let stopping = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.shutdown().await }
    });
    settle().await;
    gate.open();
    assert!(in_flight.await.unwrap().is_ok());
    for asked in accepted {
        asked.await.unwrap().unwrap();
    }
    stopping.await.unwrap().unwrap();
    assert_eq!(cluster.log().last().unwrap(), &[Step::Release]);
    assert_eq!(cluster.next("a"), 11);
}

#[tokio::test]
async fn sequences_survive_a_change_of_leader_without_a_gap() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    for expected in 0..3 {
        assert_eq!(a.seq("a", 10).await.unwrap(), expected * 10);
    }
    b.elect();
    settle().await;
    a.clock.advance(LEASE * 2);
    b.serving().await;
    assert_eq!(b.seq("a", 10).await.unwrap(), 30);
    let refused = a.ask("a", 10);
    settle().await;
    // Or it would fence the other one again, which may or may not renew its lease before.
    a.follow();
    a.clock.advance(LEASE);
    assert!(refused.await.unwrap().is_err());
    let key = SeqKey::new("a").unwrap();
    assert_eq!(b.oracle.read_seq(key).await.unwrap(), Some(40));
}

#[tokio::test]
async fn stopping_commits_nothing_for_those_who_gave_up() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let in_flight = node.ask("a", 1);
    gate.reached().await;
    let gone = node.ask("a", 1);
    settle().await;
    gone.abort();
    let stopping = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.shutdown().await }
    });
    settle().await;
    gate.open();
    in_flight.await.unwrap().unwrap();
    stopping.await.unwrap().unwrap();
    assert_eq!(cluster.next("a"), 1);
    assert_eq!(cluster.count(Step::Settle), 0);
}

#[tokio::test]
async fn sessions_of_an_earlier_reign_expire_without_holding_up_a_request() {
    let (cluster, node) = Cluster::serving().await;
    for session in 0..40 {
        let id = RequestId::new(Session([session; 16]), 1, 1).unwrap();
        let entries = vec![(SeqKey::new("a").unwrap(), 1)];
        node.send(SeqRequest::new(entries, Some(id)).unwrap()).await.unwrap().unwrap();
    }
    assert_eq!(cluster.entries(b'u').len(), 40);
    // The next reign has read none of them.
    let before = node.serving().await;
    node.elect();
    node.serving_after(before).await;
    node.clock.advance(Duration::from_secs(900));
    for turn in 0..20 {
        assert_eq!(node.until(node.ask("b", 1)).await.unwrap(), turn);
        node.busy_for(LEASE).await;
    }
    assert_eq!(cluster.entries(b'u'), []);
}

#[tokio::test]
async fn what_does_not_fit_of_the_engines_own_costs_no_caller_an_answer() {
    let (cluster, node) = Cluster::serving().await;
    node.seq("a", 10).await.unwrap();
    node.seq("b", 20).await.unwrap();
    for session in 0..64 {
        let id = RequestId::new(Session([session; 16]), 1, 1).unwrap();
        let entries = vec![(SeqKey::new("c").unwrap(), 1)];
        node.send(SeqRequest::new(entries, Some(id)).unwrap()).await.unwrap().unwrap();
    }
    node.clock.advance(Duration::from_secs(900));
    node.oracle.get_ts(1).await.unwrap();
    settle().await;
    // The first commit has expired sessions to forget, and so has the next, with a renewal before them
    // that leaves no room.
    let gate = node.hold(Step::Advance);
    let first = node.ask("c", 1);
    gate.reached().await;
    node.clock.advance(LEASE * 2 / 5);
    node.driver.limits.lock().unwrap().writes = 8;
    let asked = [node.ask("a", 1), node.ask("b", 1)];
    settle().await;
    let before = cluster.entries(b'u').len();
    let commits = cluster.log().len();
    gate.open();
    first.await.unwrap().unwrap();
    for (expected, asked) in [10, 20].into_iter().zip(asked) {
        assert_eq!(asked.await.unwrap().unwrap(), expected);
    }
    // What there was to forget did go along with the first, and not with the second.
    assert_eq!(cluster.log()[commits..], [vec![Step::Advance], vec![Step::Extend, Step::Advance]]);
    assert_eq!((before, cluster.entries(b'u').len()), (64, 48));
}

#[tokio::test]
async fn more_leases_than_one_commit_ends_expire_at_once() {
    let (cluster, node) = Cluster::serving().await;
    let lease = |holder: String, ttl: u64| {
        let (oracle, holder) = (node.oracle.clone(), LeaseHolder::new(holder).unwrap());
        let ttl = Duration::from_secs(ttl);
        tokio::spawn(async move { oracle.acquire_lease(holder, 1, ttl).await })
    };
    // So many that one look at the state does not read all that a group of requests goes over, nor do
    // as many looks as a group waits for; and no commit is too small for them.
    *node.driver.limits.lock().unwrap() = CommitLimits { writes: 1 << 20, bytes: 1 << 26 };
    let acquired: Vec<_> = (0..8_000).map(|holder| lease(format!("short {holder}"), 5)).collect();
    for acquired in acquired {
        node.until(acquired).await.unwrap();
    }
    // The next reign has read none of them, and is asked for many more while the first commit is held up.
    let before = node.serving().await;
    node.elect();
    node.serving_after(before).await;
    node.clock.advance(Duration::from_secs(60));
    node.busy_for(LEASE / 10).await;
    let gate = node.hold(Step::Lease);
    let first = lease("first".into(), 300);
    node.pass_until(&gate).await;
    let mut asked = vec![];
    for holder in 0..150 {
        asked.push(lease(format!("long {holder}"), 300));
    }
    settle().await;
    gate.open();
    node.until(first).await.unwrap();
    for acquired in asked {
        node.until(acquired).await.unwrap();
    }
    assert_eq!(cluster.entries(b'l').len(), 151);
}
