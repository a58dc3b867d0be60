//! Wall clocks are advisory: whatever they show, timestamps rise and time does not run away.

use std::{net::Ipv4Addr, time::Duration};

use tsoracle_core::{CallerId, ErrorKind, ManualClock, Oracle};

use crate::rig::{Cluster, NOON_MS, settle};

const HOUR_MS: u64 = 3_600_000;

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
