//! The leader lease: renewed in the background, checked on every grant, never outlived.

use std::time::Duration;

use futures::poll;
use tsoracle_core::{Epoch, ErrorKind, ManualClock};

use crate::rig::{BadRead, Cluster, Fault, Gate, LEASE, NOON_MS, Step, settle};

#[tokio::test]
async fn a_lease_that_runs_out_between_two_grants_stops_the_second() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Extend);
    node.clock.advance(LEASE - Duration::from_nanos(1));
    let first = node.grant();
    node.clock.advance(Duration::from_nanos(1));
    assert!(node.refuses());
    let waiting = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.get_ts(1).await }
    });
    gate.reached().await;
    assert!(!waiting.is_finished());
    gate.open();
    assert!(waiting.await.unwrap().unwrap().range.first() > first.range.last());
}

#[tokio::test]
async fn a_lease_counts_from_before_its_renewal_was_begun() {
    let (_, node) = Cluster::serving().await;
    let gate = Gate::new();
    node.fault(Step::Extend, Fault::HoldAfter(gate.clone()));
    node.busy_for(Duration::from_millis(300)).await;
    gate.reached().await;
    let next = node.hold(Step::Extend);
    node.clock.advance(Duration::from_millis(600));
    gate.open();
    next.reached().await;
    assert_eq!(node.oracle.status().lease_left, Duration::from_millis(400));
}

#[tokio::test]
async fn the_first_lease_counts_from_before_the_open_was_begun() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(NOON_MS));
    let gate = Gate::new();
    node.fault(Step::Open, Fault::HoldAfter(gate.clone()));
    node.elect();
    gate.reached().await;
    let renewal = node.hold(Step::Extend);
    node.clock.advance(Duration::from_millis(600));
    gate.open();
    renewal.reached().await;
    assert_eq!(node.oracle.status().lease_left, Duration::from_millis(400));
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_is_not_served_under() {
    for fault in [Fault::Refuse(ErrorKind::Unavailable), Fault::Refuse(ErrorKind::Uncertain)] {
        let (_, node) = Cluster::serving().await;
        (0..100).for_each(|_| node.fault(Step::Extend, fault.clone()));
        node.busy_for(LEASE).await;
        assert!(node.refuses());
        let waiting = tokio::spawn({
            let oracle = node.oracle.clone();
            async move { oracle.get_ts(1).await.unwrap_err() }
        });
        settle().await;
        node.busy_for(Duration::from_secs(1)).await;
        let error = waiting.await.unwrap();
        assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
        assert!(error.to_string().contains("lease"), "{error}");
        // It heals by itself.
        node.busy_for(Duration::from_secs(60)).await;
        node.grant();
    }
}

#[tokio::test]
async fn renewals_whose_answers_are_lost_are_found_and_served_under() {
    let (cluster, node) = Cluster::serving().await;
    (0..100).for_each(|_| node.fault(Step::Extend, Fault::LoseReply(ErrorKind::Uncertain)));
    for _ in 0..100 {
        node.busy_for(Duration::from_millis(100)).await;
        node.grant();
    }
    assert_eq!(cluster.count(Step::Settle), 0, "the state tells that they are stored");
}

#[tokio::test]
async fn an_extension_of_an_old_reign_that_ends_late_does_nothing_for_the_new_one() {
    let (cluster, node) = Cluster::serving().await;
    let late = Gate::new();
    node.fault(Step::Extend, Fault::HoldAfter(late.clone()));
    node.busy_for(Duration::from_millis(300)).await;
    late.reached().await;
    node.elect();
    node.serving_after(Epoch(1)).await;
    let stuck = node.hold(Step::Extend);
    let high_water_ms = node.oracle.status().high_water_ms;
    node.clock.advance(LEASE);
    late.open();
    stuck.reached().await;
    settle().await;
    assert!(node.refuses(), "the new reign's own lease is over");
    assert!(cluster.record().high_water_ms >= high_water_ms);
    stuck.open();
    settle().await;
    node.grant();
}

#[tokio::test]
async fn an_extension_that_fails_late_leaves_the_new_reign_alone() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Extend);
    node.busy_for(Duration::from_millis(300)).await;
    gate.reached().await;
    node.elect();
    let epoch = node.serving_after(Epoch(1)).await;
    // The old extension now meets the new fence, and is refused.
    gate.open();
    settle().await;
    assert_eq!(node.grant().epoch, epoch);
    node.busy_for(LEASE * 3).await;
    assert_eq!(node.grant().epoch, epoch);
}

#[tokio::test]
async fn renewal_runs_ahead_of_need_while_there_are_requests() {
    let (cluster, node) = Cluster::serving().await;
    for _ in 0..100 {
        node.clock.advance(Duration::from_millis(50));
        settle().await;
        node.grant();
    }
    let renewals = cluster.count(Step::Extend);
    assert!((14..=20).contains(&renewals), "5 s take a renewal every 300 ms, not {renewals}");
}

#[tokio::test]
async fn an_idle_leader_lets_its_lease_lapse_and_writes_nothing() {
    let (cluster, node) = Cluster::serving().await;
    let idle_for = async |seconds| {
        for _ in 0..seconds * 10 {
            node.clock.advance(Duration::from_millis(100));
            settle().await;
        }
    };
    idle_for(31).await;
    let commits = cluster.log().len();
    idle_for(120).await;
    assert_eq!(cluster.log().len(), commits);
    assert!(node.refuses(), "the first request after that finds the lease lapsed");
    node.oracle.get_ts(1).await.unwrap();
    assert_eq!(cluster.log().len(), commits + 1, "and has it renewed");
}

#[tokio::test]
async fn every_timestamp_lies_within_what_was_made_durable_before() {
    let (cluster, node) = Cluster::serving().await;
    let mut granted = 0;
    for turn in 0..2_000u32 {
        if let Some(grant) = node.oracle.try_get_ts(1 + turn * 977 % 262_144).unwrap() {
            assert!(grant.range.last().physical_ms() <= cluster.record().high_water_ms);
            granted += 1;
        }
        if turn % 7 == 0 {
            node.clock.advance(Duration::from_millis(u64::from(turn % 5) * 40));
        }
        tokio::task::yield_now().await;
    }
    assert!(granted > 1_000, "{granted}");
}

#[tokio::test]
async fn an_extension_that_is_wanted_early_and_fails_is_tried_again_after_a_short_pause() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node_with(1, &clock, |options| {
        options.lease = Duration::from_secs(60);
        options.window_ahead = Duration::from_secs(60);
        options.max_ahead = Duration::from_secs(120);
    });
    node.elect();
    node.serving().await;
    node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable));
    while node.oracle.try_get_ts(262_144).unwrap().is_some() {}
    let mut waiting = Box::pin(node.oracle.get_ts(262_144));
    assert!(poll!(&mut waiting).is_pending());
    settle().await;
    node.clock.advance(Duration::from_millis(20));
    settle().await;
    assert!(poll!(&mut waiting).is_ready(), "the next renewal is due in 18 s only");
}

#[tokio::test]
async fn the_lease_on_record_is_never_shorter_than_the_one_served_under() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node_with(1, &clock, |options| {
        options.lease = Duration::from_micros(100_999);
    });
    node.elect();
    node.serving().await;
    assert_eq!(cluster.record().lease_ms, 101);
}

#[tokio::test]
async fn a_driver_that_answers_no_reads_does_not_keep_the_lease_from_being_renewed() {
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Hang);
    // Expired sessions are looked for every 10 s.
    for _ in 0..300 {
        node.busy_for(Duration::from_millis(100)).await;
        node.grant();
    }
}
