//! Fence, wait, open, release: every step, and a failure at each.

use std::time::Duration;

use tokio::task::JoinHandle;
use tsoracle_core::{
    Clock, Effect, Epoch, ErrorKind, LeaderHint, Leadership, ManualClock, NodeId, Phase, Result,
    Version, state::REIGN,
};

use crate::rig::{BadRead, Cluster, Fault, Gate, LEASE, NOON_MS, Node, Step, settle};

/// Two nodes, of which the first serves.
async fn two() -> (Cluster, Node, Node) {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    (cluster, a, b)
}

#[tokio::test]
async fn a_lone_node_fences_opens_and_serves() {
    let (cluster, node) = Cluster::serving().await;
    assert_eq!(cluster.log(), [[Step::Fence], [Step::Open]]);
    let granted = node.grant();
    assert_eq!((granted.range.first().physical_ms(), granted.epoch), (NOON_MS, Epoch(1)));
    assert!(cluster.record().high_water_ms >= NOON_MS);
}

#[tokio::test]
async fn any_step_that_fails_for_a_while_is_tried_again() {
    for step in [Step::Fence, Step::Open] {
        for fault in [
            Fault::Refuse(ErrorKind::Unavailable),
            Fault::Refuse(ErrorKind::Uncertain),
            Fault::LoseReply(ErrorKind::Uncertain),
        ] {
            let cluster = Cluster::default();
            let node = cluster.node(1, &ManualClock::new(NOON_MS));
            (0..3).for_each(|_| node.fault(step, fault.clone()));
            node.elect();
            node.troubled().await;
            assert!(node.refuses());
            node.busy_for(Duration::from_secs(1)).await;
            node.serving().await;
            let high_water_ms = cluster.record().high_water_ms;
            assert!(node.grant().range.last().physical_ms() <= high_water_ms);
        }
    }
}

#[tokio::test]
async fn a_driver_that_is_done_for_is_given_up_at_every_step() {
    for step in [Step::Fence, Step::Open, Step::Extend, Step::Advance] {
        for fault in [Fault::Refuse(ErrorKind::Fatal), Fault::Panic] {
            let cluster = Cluster::default();
            let node = cluster.node(1, &ManualClock::new(NOON_MS));
            if matches!(step, Step::Fence | Step::Open) {
                node.fault(step, fault);
                node.elect();
            } else {
                node.elect();
                node.serving().await;
                node.fault(step, fault);
                drop(node.ask("a", 1));
                node.ask("a", 1);
                node.busy_for(LEASE).await;
            }
            node.failed().await;
            assert!(node.refuses());
            let error = node.oracle.get_ts(1).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        }
    }
}

#[tokio::test]
async fn a_successor_waits_out_the_lease_and_a_tenth_more() {
    let (cluster, a, b) = two().await;
    let before = a.grant().range.last();
    b.elect();
    settle().await;
    assert_eq!(cluster.count(Step::Fence), 2, "fencing does not wait");
    a.clock.advance(Duration::from_millis(1_100));
    settle().await;
    assert!(b.refuses());
    a.clock.advance(Duration::from_millis(1));
    b.serving().await;
    assert!(b.grant().range.first() > before);
}

#[tokio::test]
async fn time_since_the_replaced_write_was_seen_counts_towards_the_wait() {
    let (_, a, b) = two().await;
    let _renewal = a.hold(Step::Extend);
    b.observe();
    a.clock.advance(Duration::from_millis(900));
    b.elect();
    settle().await;
    assert!(b.refuses());
    a.clock.advance(Duration::from_millis(201));
    b.serving().await;
}

#[tokio::test]
async fn another_version_than_the_one_that_wrote_the_record_is_no_evidence() {
    let (cluster, a, b) = two().await;
    // A request after the last renewal, seen at once, and a renewal that no node has seen.
    b.observe();
    a.busy_for(Duration::from_millis(400)).await;
    assert_eq!(cluster.count(Step::Extend), 1);
    a.seq("a", 1).await.unwrap();
    b.observe();
    let _renewal = a.hold(Step::Extend);
    a.clock.advance(Duration::from_millis(500));
    b.elect();
    settle().await;
    a.clock.advance(Duration::from_millis(1_100));
    settle().await;
    assert!(b.refuses(), "the whole lease is waited for, from the fence on");
    a.clock.advance(Duration::from_millis(1));
    b.serving().await;
}

#[tokio::test]
async fn a_record_that_notes_no_version_is_waited_for_from_the_fence_on() {
    let cluster = Cluster::default();
    // As an earlier release wrote it: open under epoch 7, by node 1, with a lease of a second.
    let mut effect = Effect::default();
    effect.put(REIGN, [1, 7, 1, 128, 228, 227, 163, 177, 52, 232, 7, 1, 1, 0, 5, 2]);
    effect.set_version(Version::EMPTY.next(1).unwrap());
    cluster.commit(Version::EMPTY, effect).unwrap();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node(2, &clock);
    // That the state was once empty is no evidence of a commit without a name.
    node.driver.seen.lock().unwrap().insert(Version::EMPTY, clock.now().boot);
    clock.advance(LEASE * 2);
    node.elect();
    settle().await;
    clock.advance(LEASE * 11 / 10);
    settle().await;
    assert!(node.refuses());
    clock.advance(Duration::from_millis(1));
    assert_eq!(node.serving().await, Epoch(8));
}

#[tokio::test]
async fn an_observation_that_lies_ahead_gains_nothing() {
    let (cluster, a, b) = two().await;
    let ahead = a.clock.now().boot + LEASE * 10;
    b.driver.seen.lock().unwrap().insert(cluster.version(), ahead);
    let _renewal = a.hold(Step::Extend);
    b.elect();
    settle().await;
    a.clock.advance(Duration::from_millis(1_101));
    b.serving().await;
}

#[tokio::test]
async fn a_lease_that_was_released_is_not_waited_for() {
    let (cluster, a, b) = two().await;
    let before = a.grant().range.last();
    a.oracle.shutdown().await.unwrap();
    assert!(cluster.record().released);
    b.elect();
    b.serving().await;
    assert!(b.grant().range.first() > before);
}

#[tokio::test]
async fn a_node_does_not_wait_for_its_own_dead_process() {
    let (cluster, a) = Cluster::serving().await;
    let before = a.grant().range.last();
    a.follow();
    let reborn = cluster.node(1, &a.clock);
    reborn.elect();
    reborn.serving().await;
    assert!(reborn.grant().range.first() > before);
}

#[tokio::test]
async fn a_crash_between_fence_and_open_leaves_the_older_lease_in_force() {
    let (cluster, a, b) = two().await;
    let c = cluster.node(3, &a.clock);
    b.elect();
    settle().await;
    b.oracle.shutdown().await.unwrap();
    assert_eq!(cluster.count(Step::Release), 0, "a reign that never opened releases nothing");
    c.elect();
    settle().await;
    let served_by_a = a.grant().range.last();
    assert!(c.refuses(), "a may still be serving");
    a.clock.advance(Duration::from_millis(1_101));
    c.serving().await;
    assert!(a.refuses());
    assert!(c.grant().range.first() > served_by_a);
}

#[tokio::test]
async fn a_leader_that_is_cut_off_stops_by_itself_before_its_successor_starts() {
    let (_, a, b) = two().await;
    let gate = a.hold(Step::Extend);
    let before = a.grant().range.last();
    b.elect();
    settle().await;
    a.clock.advance(LEASE);
    gate.reached().await;
    assert!(a.refuses(), "it was told nothing, yet its lease is over");
    a.clock.advance(Duration::from_millis(101));
    b.serving().await;
    let served_by_b = b.grant().range.last();
    assert!(served_by_b > before);
    gate.open();
    settle().await;
    assert!(a.refuses(), "its late extension was fenced");
}

#[tokio::test]
async fn leading_again_after_another_never_goes_back() {
    let (_, a, b) = two().await;
    let first = a.grant().range.last();
    a.follow();
    b.elect();
    a.busy_for(LEASE * 2).await;
    b.serving().await;
    let second = b.oracle.get_ts(200_000).await.unwrap().range.last();
    b.follow();
    a.elect();
    b.busy_for(LEASE * 2).await;
    a.serving_after(Epoch(2)).await;
    let third = a.grant();
    assert!(first < second && second < third.range.first());
    assert_eq!(third.epoch, Epoch(3));
    assert!(b.refuses());
}

#[tokio::test]
async fn a_new_claim_of_the_same_node_is_fenced_again() {
    let (cluster, node) = Cluster::serving().await;
    let before = node.grant();
    node.elect();
    let epoch = node.serving_after(before.epoch).await;
    assert_eq!(cluster.count(Step::Fence), 2);
    let after = node.grant();
    assert_eq!(after.epoch, epoch);
    assert!(after.range.first() > before.range.last());
}

#[tokio::test]
async fn a_leadership_that_ends_for_good_ends_the_service() {
    let (_, node) = Cluster::serving().await;
    node.close_leadership();
    assert!(node.failed().await.contains("leadership"));
    assert!(node.refuses());
}

#[tokio::test]
async fn a_follower_names_the_leader_at_once() {
    let (_, _, b) = two().await;
    let leader = LeaderHint { endpoint: "10.0.0.7:50551".into(), epoch: Some(Epoch(42)) };
    b.set(Leadership::Follower { leader: Some(leader.clone()) });
    b.phase(|phase| matches!(phase, Phase::Following(_))).await;
    let error = b.oracle.get_ts(1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(Some(leader)));
}

#[tokio::test]
async fn a_follower_adds_the_epoch_of_the_last_fence_to_its_hint() {
    let (_, _a, b) = two().await;
    let hint = LeaderHint { endpoint: "a:1".into(), epoch: None };
    b.set(Leadership::Follower { leader: Some(hint.clone()) });
    settle().await;
    let named = LeaderHint { epoch: Some(Epoch(1)), ..hint };
    assert_eq!(b.oracle.status().phase, Phase::Following(Some(named)));
}

#[tokio::test]
async fn without_a_leader_a_request_is_held_and_served_if_one_is_found_in_time() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(NOON_MS));
    let ask = || {
        let oracle = node.oracle.clone();
        tokio::spawn(async move { oracle.get_ts(1).await })
    };
    let in_vain = ask();
    settle().await;
    node.clock.advance(Duration::from_secs(1));
    let error = in_vain.await.unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
    let in_time = ask();
    settle().await;
    node.elect();
    assert!(in_time.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_wall_clock_beyond_the_timestamp_space_is_reported_and_poisons_nothing() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(NOON_MS));
    node.clock.set_wall(u64::MAX / 2);
    node.elect();
    let trouble = node.troubled().await;
    assert!(trouble.contains("wall clock"), "{trouble}");
    node.clock.set_wall(NOON_MS);
    node.clock.advance(LEASE);
    node.serving().await;
    assert!(node.grant().range.first().physical_ms() < NOON_MS + 10_000);
}

#[tokio::test]
async fn a_release_race_is_lost_by_the_node_that_was_fenced() {
    let (cluster, a, b) = two().await;
    let gate = a.hold(Step::Release);
    let stopping = tokio::spawn({
        let oracle = a.oracle.clone();
        async move { oracle.shutdown().await }
    });
    gate.reached().await;
    assert!(a.refuses(), "it is closed in memory before the release is committed");
    b.elect();
    settle().await;
    gate.open();
    stopping.await.unwrap().unwrap();
    let record = cluster.record();
    assert_eq!((record.epoch, record.released), (Epoch(2), false), "too late to be a release");
    assert_eq!(record.opened_by, Some(NodeId(1)));
    assert!(b.refuses(), "so its lease is waited out");
    a.clock.advance(Duration::from_millis(1_101));
    b.serving().await;
}

/// A stop in the midst of a take-over, with the open held up.
async fn stopped_while_it_opens() -> (Cluster, Node, Gate, JoinHandle<Result<()>>) {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(NOON_MS));
    let gate = node.hold(Step::Open);
    node.elect();
    gate.reached().await;
    let oracle = node.oracle.clone();
    let stopping = tokio::spawn(async move { oracle.shutdown().await });
    settle().await;
    (cluster, node, gate, stopping)
}

#[tokio::test]
async fn an_open_that_is_under_way_when_the_node_stops_is_released() {
    let (cluster, a, gate, stopping) = stopped_while_it_opens().await;
    gate.open();
    stopping.await.unwrap().unwrap();
    settle().await;
    assert!(cluster.record().released);
    let b = cluster.node(2, &a.clock);
    b.elect();
    b.serving().await;
}

#[tokio::test]
async fn a_node_that_stops_waits_for_an_open_no_longer_than_a_successor_would() {
    let (cluster, a, gate, stopping) = stopped_while_it_opens().await;
    assert!(!stopping.is_finished());
    a.clock.advance(LEASE);
    stopping.await.unwrap().unwrap();
    gate.open();
    settle().await;
    assert_eq!(cluster.count(Step::Open), 1);
    assert!(a.refuses());
}

#[tokio::test]
async fn requests_are_refused_once_the_node_stops() {
    let (_, node) = Cluster::serving().await;
    node.oracle.shutdown().await.unwrap();
    for error in [node.oracle.get_ts(1).await.unwrap_err(), node.seq("a", 1).await.unwrap_err()] {
        assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
    }
    node.oracle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_rejected_count_is_told_before_leadership_is_looked_at() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(NOON_MS));
    for count in [0, 262_145, u32::MAX] {
        let error = node.oracle.get_ts(count).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Invalid);
    }
    let error = node.seq("a", 65_537).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Invalid);
}

#[tokio::test]
async fn stopping_goes_on_where_a_caller_gave_it_up() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Release);
    let impatient = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.shutdown().await }
    });
    gate.reached().await;
    impatient.abort();
    impatient.await.unwrap_err();
    let stopping = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.shutdown().await }
    });
    settle().await;
    assert!(!stopping.is_finished(), "it has not stopped yet");
    gate.open();
    stopping.await.unwrap().unwrap();
    assert!(!node.driver.leads(), "the driver was stopped as well");
    node.oracle.shutdown().await.unwrap();
}

#[tokio::test]
async fn a_node_that_serves_no_more_does_not_keep_others_from_leading() {
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Panic);
    node.seq("a", 1).await.unwrap_err();
    node.failed().await;
    settle().await;
    assert!(!node.driver.leads(), "its driver has stopped");
    node.oracle.shutdown().await.unwrap();
}

#[tokio::test]
async fn an_oracle_that_is_dropped_releases_and_stops_its_driver() {
    let (cluster, Node { driver, oracle, .. }) = Cluster::serving().await;
    drop(oracle);
    settle().await;
    assert!(cluster.record().released);
    assert!(!driver.leads());
}

#[tokio::test]
async fn an_oracle_that_is_dropped_while_a_renewal_is_tried_again_ends_and_commits_no_more() {
    let (cluster, node) = Cluster::serving().await;
    let faults = 1_000;
    (0..faults).for_each(|_| node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable)));
    node.busy_for(LEASE).await;
    let Node { driver, oracle, clock } = node;
    let refused = || faults - driver.faults.lock().unwrap().len();
    assert!(refused() > 1, "it was tried again");
    drop(oracle);
    let later = async || {
        for _ in 0..100 {
            clock.advance(Duration::from_millis(100));
            settle().await;
        }
    };
    later().await;
    assert!(!driver.leads(), "its task has ended");
    assert!(cluster.record().released);
    let (tried, stored) = (refused(), cluster.log().len());
    later().await;
    assert_eq!((refused(), cluster.log().len()), (tried, stored));
}

#[tokio::test]
async fn a_leadership_that_ends_for_good_is_told_even_if_the_driver_does_not_say_why() {
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Hang);
    node.close_leadership();
    settle().await;
    node.clock.advance(LEASE);
    settle().await;
    assert!(matches!(node.oracle.status().phase, Phase::Failed(_)));
}
