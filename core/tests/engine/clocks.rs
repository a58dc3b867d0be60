//! Wall clocks are advisory: whatever they show, timestamps rise and time does not run away.

use std::{net::Ipv4Addr, time::Duration};

use tsoracle_core::{CallerId, ErrorKind, Floor, ManualClock, Oracle, WallClock, initialize};

use crate::rig::{Cluster, LEASE, NOON_MS, Node, settle};

const HOUR_MS: u64 = 3_600_000;
const DAY_MS: u64 = 24 * HOUR_MS;
const YEAR_MS: u64 = 365 * DAY_MS;

/// A cluster whose one node has served until noon and a second, and is gone.
async fn served() -> Cluster {
    let (cluster, node) = Cluster::serving().await;
    node.busy_for(Duration::from_secs(1)).await;
    node.oracle.shutdown().await.unwrap();
    cluster
}

/// That node comes again, and its clock shows this.
async fn starts_at(cluster: &Cluster, wall_ms: u64) -> Node {
    let node = cluster.node(1, &ManualClock::new(wall_ms));
    node.elect();
    node.serving().await;
    node
}

/// What a node serves at the moment, in milliseconds after noon.
fn serves(node: &Node) -> u64 {
    node.grant().range.first().physical_ms() - NOON_MS
}

fn clock(node: &Node) -> WallClock {
    node.oracle.status().wall_clock.expect("it leads")
}

#[tokio::test]
async fn an_hour_ahead_for_a_moment_leaves_no_trace() {
    let (cluster, node) = Cluster::serving().await;
    node.clock.set_wall(NOON_MS + HOUR_MS);
    node.busy_for(Duration::from_secs(2)).await;
    let meanwhile = node.grant().range.last();
    assert!(meanwhile.physical_ms() < NOON_MS + 10_000, "the leap is not followed");
    node.clock.set_wall(NOON_MS + 2_000);
    node.busy_for(Duration::from_secs(2)).await;
    assert!(node.grant().range.first() > meanwhile);
    assert!(cluster.record().high_water_ms < NOON_MS + 20_000, "nor is it stored");
}

#[tokio::test]
async fn an_hour_back_is_absorbed_without_a_wait() {
    let (cluster, node) = Cluster::serving().await;
    let before = node.grant().range.last();
    node.clock.set_wall(NOON_MS - HOUR_MS);
    for _ in 0..100 {
        node.busy_for(Duration::from_millis(100)).await;
        node.grant();
    }
    let after = node.grant().range.first();
    assert!(after > before);
    assert_eq!(after.physical_ms(), NOON_MS, "time stands still until the clock catches up");
    assert!(cluster.record().high_water_ms < NOON_MS + 20_000);
}

#[tokio::test]
async fn a_successor_whose_clock_is_behind_still_starts_above() {
    let (cluster, a) = Cluster::serving().await;
    let before = a.grant().range.last();
    a.oracle.shutdown().await.unwrap();
    let stored_ms = cluster.record().high_water_ms;
    let b = cluster.node(2, &ManualClock::new(NOON_MS - HOUR_MS));
    b.elect();
    b.serving().await;
    assert!(b.grant().range.first() > before);
    // Ahead of its clock it reserves only what it needs.
    assert_eq!(cluster.record().high_water_ms, stored_ms + 1 + 90);
}

#[tokio::test]
async fn large_counts_cannot_run_time_away() {
    let (_, node) = Cluster::serving().await;
    // Three quarters of how far timestamps may be ahead.
    for _ in 0..=2_250 {
        let grant = node.oracle.get_ts(262_144).await.unwrap();
        assert!(grant.range.last().physical_ms() <= NOON_MS + 2_250);
    }
    let ask = || {
        let oracle = node.oracle.clone();
        tokio::spawn(async move { oracle.get_ts(262_144).await })
    };
    let (first, second) = (ask(), ask());
    settle().await;
    assert!(!first.is_finished(), "beyond that, requests wait for the clock");
    // The last quarter is for small ones.
    for count in [1, 256, 1] {
        let grant = node.oracle.try_get_ts(count).unwrap().expect("it need not wait");
        assert_eq!(grant.range.last().physical_ms(), NOON_MS + 2_251);
    }
    assert_eq!(node.oracle.try_get_ts(257).unwrap(), None);
    node.clock.advance(Duration::from_millis(5));
    settle().await;
    assert!(first.await.unwrap().is_ok() && second.await.unwrap().is_ok());
}

#[tokio::test]
async fn a_caller_that_waits_too_long_for_the_clock_is_told_so() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let node = cluster.node_with(1, &clock, |options| options.hold = Duration::from_millis(50));
    node.elect();
    node.serving().await;
    for _ in 0..=2_250 {
        node.oracle.get_ts(262_144).await.unwrap();
    }
    let waiting: Vec<_> = (0..100)
        .map(|_| {
            let oracle = node.oracle.clone();
            tokio::spawn(async move { oracle.get_ts(262_144).await })
        })
        .collect();
    settle().await;
    for _ in 0..50 {
        clock.advance(Duration::from_millis(1));
        settle().await;
    }
    let mut served = 0;
    for outcome in waiting {
        match outcome.await.unwrap() {
            Ok(_) => served += 1,
            Err(error) => assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}"),
        }
    }
    assert_eq!(served, 50, "one per millisecond");
}

#[tokio::test]
async fn a_clock_that_starts_far_ahead_is_not_followed_until_it_is_set_right() {
    let cluster = served().await;
    let stored_ms = cluster.record().high_water_ms;
    let node = starts_at(&cluster, NOON_MS + 174 * YEAR_MS).await;
    let first = serves(&node);
    assert_eq!(first, stored_ms + 1 - NOON_MS);
    assert_eq!(
        clock(&node),
        WallClock::Ahead(Duration::from_millis(NOON_MS + 174 * YEAR_MS - stored_ms))
    );
    node.busy_for(Duration::from_secs(20)).await;
    let later = serves(&node);
    assert!(
        (first + 19_900..first + 20_100).contains(&later),
        "{first} {later}: at the pace of the boot clock"
    );
    assert!(cluster.record().high_water_ms < NOON_MS + 30_000);
    // The machine was off for three days.
    node.clock.set_wall(NOON_MS + 3 * DAY_MS);
    node.busy_for(Duration::from_secs(1)).await;
    assert_eq!(serves(&node), 3 * DAY_MS + 1_000);
    assert_eq!(clock(&node), WallClock::Followed);
    assert_eq!(node.oracle.status().ahead_of_clock, Duration::ZERO);
}

#[tokio::test]
async fn an_idle_leader_notices_that_the_clock_is_set_right() {
    let cluster = served().await;
    let node = starts_at(&cluster, NOON_MS + YEAR_MS).await;
    for _ in 0..100 {
        node.clock.advance(Duration::from_secs(10));
        settle().await;
    }
    node.clock.set_wall(NOON_MS + 1_001_000);
    node.clock.advance(Duration::from_secs(10));
    settle().await;
    let granted = node.oracle.get_ts(1).await.unwrap().range.first();
    assert_eq!(granted.physical_ms(), NOON_MS + 1_011_000);
}

#[tokio::test]
async fn the_stored_time_goes_on_while_another_node_leads() {
    let (cluster, a) = Cluster::serving().await;
    // Its successor is a year ahead, and has heard of the last renewal ten seconds ago.
    let b = cluster.node(2, &ManualClock::new(NOON_MS + YEAR_MS));
    b.observe();
    let stored_ms = cluster.record().high_water_ms;
    a.oracle.shutdown().await.unwrap();
    cluster.restore(cluster.store());
    b.observe();
    b.clock.advance(Duration::from_secs(10));
    b.elect();
    b.serving().await;
    let window_ms = 3_000;
    assert_eq!(b.grant().range.first().physical_ms(), stored_ms - window_ms + 10_000);
    assert!(matches!(clock(&b), WallClock::Ahead(_)));
}

#[tokio::test]
async fn a_successor_ahead_of_its_peers_goes_on_at_the_stored_time() {
    let cluster = served().await;
    let stored_ms = cluster.record().high_water_ms;
    let peers = [ManualClock::new(NOON_MS + 2_000), ManualClock::new(NOON_MS + 2_500)];
    let b = cluster.node(2, &ManualClock::new(NOON_MS + DAY_MS));
    *b.driver.peers.lock().unwrap() = peers.to_vec();
    b.elect();
    b.serving().await;
    assert_eq!(b.grant().range.first().physical_ms(), stored_ms + 1);
    b.busy_for(Duration::from_secs(2)).await;
    assert!(cluster.record().high_water_ms < NOON_MS + 20_000);
    // It was right: the others are set as well.
    peers.iter().for_each(|peer| peer.set_wall(NOON_MS + DAY_MS));
    b.busy_for(Duration::from_secs(1)).await;
    assert_eq!(serves(&b), DAY_MS + 3_000);
}

#[tokio::test]
async fn a_machine_that_boots_in_1970_is_followed_once_its_clock_is_set() {
    let cluster = served().await;
    let stored_ms = cluster.record().high_water_ms;
    let node = starts_at(&cluster, 0).await;
    assert_eq!(node.grant().range.first().physical_ms(), stored_ms + 1, "it serves at once");
    assert!(matches!(clock(&node), WallClock::Behind(_)));
    node.busy_for(Duration::from_secs(60)).await;
    assert_eq!(node.grant().range.first().physical_ms(), stored_ms + 1);
    node.clock.set_wall(NOON_MS + 3 * DAY_MS);
    node.busy_for(Duration::from_secs(1)).await;
    assert_eq!(serves(&node), 3 * DAY_MS + 1_000);
}

#[tokio::test]
async fn a_new_state_is_not_begun_in_1970() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(5_000));
    let claim = node.elect();
    let trouble = node.troubled().await;
    assert!(trouble.contains("was never set"), "{trouble}");
    node.clock.advance(LEASE * 2);
    settle().await;
    assert_eq!(node.resigned(), [claim], "another node may have a clock");
    node.clock.set_wall(NOON_MS);
    node.clock.advance(LEASE);
    node.serving().await;
    assert_eq!(serves(&node), 1_000);
}

#[tokio::test]
async fn an_operator_can_say_that_the_clock_is_right() {
    let cluster = served().await;
    let clock = ManualClock::new(NOON_MS + YEAR_MS);
    let node = cluster.node_with(1, &clock, |options| {
        options.trust_clock_until_ms = Some(NOON_MS + YEAR_MS + HOUR_MS);
    });
    node.elect();
    node.serving().await;
    assert_eq!(serves(&node), YEAR_MS);
}

#[tokio::test]
async fn an_initialized_state_says_nothing_of_the_time() {
    let cluster = Cluster::default();
    let node = cluster.node(1, &ManualClock::new(NOON_MS));
    let driver: std::sync::Arc<dyn tsoracle_core::ConsensusDriver> = node.driver.clone();
    initialize(&driver, Floor::forced(NOON_MS - YEAR_MS)).await.unwrap();
    node.elect();
    node.serving().await;
    assert_eq!(serves(&node), 0);
}

#[tokio::test]
async fn restarts_do_not_drive_time_away_whatever_the_clock_shows() {
    for wall_ms in [NOON_MS, NOON_MS + YEAR_MS, 0] {
        let cluster = served().await;
        let before_ms = cluster.record().high_water_ms;
        for _ in 0..20 {
            let node = starts_at(&cluster, wall_ms).await;
            node.grant();
            // It is killed.
            node.close_leadership();
            settle().await;
        }
        let after_ms = cluster.record().high_water_ms;
        let most_ms = before_ms.max(NOON_MS + 3_000) + 20 * 100;
        assert!(after_ms <= most_ms, "clock {wall_ms}: {before_ms} {after_ms}");
    }
}

#[tokio::test]
async fn a_leader_that_was_idle_for_months_does_not_make_the_clock_of_the_next_one_seem_wrong() {
    let (cluster, a) = Cluster::serving().await;
    for _ in 0..90 {
        a.clock.advance(Duration::from_secs(24 * 3_600));
        settle().await;
    }
    // It is gone, and the next one has seen nothing of it.
    a.close_leadership();
    let b = cluster.node(2, &ManualClock::new(NOON_MS + 90 * DAY_MS));
    b.elect();
    settle().await;
    b.clock.advance(LEASE * 2);
    b.serving().await;
    assert_eq!(serves(&b), 90 * DAY_MS + 2_000);
    assert_eq!(clock(&b), WallClock::Followed);
}

#[tokio::test]
async fn callers_who_wait_for_the_clock_take_turns() {
    let (_, node) = Cluster::serving().await;
    for _ in 0..=2_250 {
        node.oracle.get_ts(262_144).await.unwrap();
    }
    let caller = |number| {
        let id = CallerId::of_address(Ipv4Addr::new(10, 0, 0, number).into());
        node.oracle.clone().with_caller(node.oracle.caller(id))
    };
    let ask = |oracle: &Oracle, count| {
        let oracle = oracle.clone();
        tokio::spawn(async move { oracle.get_ts(count).await })
    };
    let (greedy, modest) = (caller(1), caller(2));
    let flood: Vec<_> = (0..200).map(|_| ask(&greedy, 262_144)).collect();
    settle().await;
    for _ in 0..10 {
        let asked = ask(&modest, 1_000);
        settle().await;
        // Whoever comes now does not overtake those who wait.
        assert_eq!(greedy.try_get_ts(262_144).unwrap(), None);
        for _ in 0..2 {
            node.clock.advance(Duration::from_millis(1));
            settle().await;
        }
        assert!(asked.is_finished(), "it waits for one of the other caller's at most");
        asked.await.unwrap().unwrap();
    }
    node.clock.advance(Duration::from_millis(300));
    for granted in flood {
        granted.await.unwrap().unwrap();
    }
    // All is as before, once no request waits: more than half of what may be is free again.
    for _ in 0..20 {
        node.oracle.try_get_ts(262_144).unwrap().expect("it need not wait");
    }
}
