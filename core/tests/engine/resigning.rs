//! A leader that cannot renew its lease asks for another one: again and again, and not too often.

use std::time::Duration;

use tsoracle_core::{Effect, Epoch, ErrorKind, ManualClock, Phase};

use crate::rig::{BadRead, Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

fn refused(node: &Node, step: Step) {
    (0..10_000).for_each(|_| node.fault(step, Fault::Refuse(ErrorKind::Unavailable)));
}

#[tokio::test]
async fn renewals_that_fail_until_the_lease_has_run_out() {
    let (_, node) = Cluster::serving().await;
    refused(&node, Step::Extend);
    // Commits take no time here, so that none is waited for beyond the lease.
    node.busy_for(LEASE * 19 / 20).await;
    assert_eq!(node.resigned(), []);
    node.busy_for(LEASE / 10).await;
    assert_eq!(node.resigned(), [1]);
    // Again under the same claim, since no other node may have been able to lead: after pauses of 2, 4, 8
    // and then always 8 leases.
    node.busy_for(LEASE * 100).await;
    assert_eq!(node.resigned(), [1; 14]);
}

#[tokio::test]
async fn a_renewal_that_takes_no_longer_than_usual_is_waited_for_beyond_the_lease() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    let gates = [Step::Fence, Step::Open].map(|step| node.hold(step));
    node.elect();
    for gate in gates {
        gate.reached().await;
        node.busy_for(LEASE * 3 / 10).await;
        gate.open();
        settle().await;
    }
    node.grant();
    let gate = node.hold(Step::Extend);
    node.pass_until(&gate).await;
    // Its deadline counts from before the Open, so that its lease is over after so long.
    node.busy_for(LEASE * 8 / 10).await;
    assert!(node.refuses());
    assert_eq!(node.resigned(), []);
    gate.open();
    settle().await;
    assert_eq!(node.resigned(), []);
}

#[tokio::test]
async fn a_lease_that_cannot_be_renewed_shows_when_it_runs_out() {
    let (_, node) = Cluster::serving().await;
    let epoch = Epoch(1);
    refused(&node, Step::Extend);
    node.busy_for(LEASE * 19 / 20).await;
    assert_eq!(node.oracle.status().phase, Phase::Serving { epoch });
    node.busy_for(LEASE / 10).await;
    let status = node.oracle.status();
    assert_eq!((status.phase, status.epoch), (Phase::Lapsed { epoch }, None));
    node.driver.faults.lock().unwrap().clear();
    node.busy_for(LEASE).await;
    assert_eq!(node.oracle.status().phase, Phase::Serving { epoch });
    node.grant();
}

#[tokio::test]
async fn the_lease_of_an_idle_leader_shows_only_when_it_is_wanted_and_cannot_be_renewed() {
    let (_, node) = Cluster::serving().await;
    let epoch = Epoch(1);
    for _ in 0..100 {
        node.clock.advance(LEASE);
        settle().await;
    }
    assert_eq!(node.oracle.status().phase, Phase::Serving { epoch });
    let gate = node.hold(Step::Extend);
    node.busy_for(LEASE * 9 / 20).await;
    gate.reached().await;
    assert_eq!(node.oracle.status().phase, Phase::Serving { epoch });
    node.busy_for(LEASE / 10).await;
    assert_eq!(node.oracle.status().phase, Phase::Lapsed { epoch });
    assert_eq!(node.resigned(), [1]);
}

#[tokio::test]
async fn a_renewal_that_succeeds_in_between_begins_the_count_again() {
    let (_, node) = Cluster::serving().await;
    for _ in 0..10 {
        (0..3).for_each(|_| node.fault(Step::Extend, Fault::Refuse(ErrorKind::Unavailable)));
        node.busy_for(LEASE * 6 / 5).await;
    }
    assert_eq!(node.resigned(), []);
}

#[tokio::test]
async fn a_renewal_that_succeeds_makes_the_next_pauses_short_again() {
    let (_, node) = Cluster::serving().await;
    refused(&node, Step::Extend);
    // After pauses of 2, 4, 8 and 8 leases.
    node.busy_for(LEASE * 30).await;
    let resigned = node.resigned().len();
    node.driver.faults.lock().unwrap().clear();
    node.busy_for(LEASE * 10).await;
    node.grant();
    refused(&node, Step::Extend);
    node.busy_for(LEASE * 9).await;
    assert_eq!(node.resigned().len(), resigned + 3, "after 2, 4 and 8, and not 8 and 8");
}

#[tokio::test]
async fn a_commit_that_hangs() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let _asked = node.ask("a", 1);
    gate.reached().await;
    node.busy_for(LEASE * 19 / 20).await;
    assert_eq!(node.resigned(), []);
    node.busy_for(LEASE / 10).await;
    assert_eq!(node.resigned(), [1]);
}

#[tokio::test]
async fn a_fence_or_an_open_that_cannot_be_stored() {
    for step in [Step::Fence, Step::Open] {
        let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
        refused(&node, step);
        node.elect();
        settle().await;
        node.busy_for(LEASE * 29 / 20).await;
        assert_eq!(node.resigned(), []);
        node.busy_for(LEASE / 10).await;
        assert_eq!(node.resigned(), [1]);
    }
}

#[tokio::test]
async fn reads_that_cannot_be_made_in_a_take_over() {
    for bad in [BadRead::Hang, BadRead::Fail(ErrorKind::Unavailable)] {
        let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
        node.read_badly(bad);
        node.elect();
        settle().await;
        node.busy_for(LEASE * 29 / 20).await;
        assert_eq!(node.resigned(), []);
        node.busy_for(LEASE / 10).await;
        assert_eq!(node.resigned(), [1]);
    }
}

#[tokio::test]
async fn the_wait_for_an_older_lease_is_no_trouble() {
    let cluster = Cluster::default();
    let clock = ManualClock::new(NOON_MS);
    let a = cluster.node_with(1, &clock, |options| {
        options.lease = Duration::from_secs(10);
        options.window_ahead = Duration::from_secs(10);
    });
    a.elect();
    a.serving().await;
    a.follow();
    let b = cluster.node(2, &clock);
    b.elect();
    settle().await;
    b.busy_for(Duration::from_millis(10_900)).await;
    assert!(b.refuses());
    b.busy_for(Duration::from_millis(200)).await;
    b.grant();
    assert_eq!(b.resigned(), []);
}

#[tokio::test]
async fn an_idle_leader_has_nothing_to_resign_from() {
    let (_, node) = Cluster::serving().await;
    for _ in 0..100 {
        node.clock.advance(LEASE);
        settle().await;
    }
    assert!(node.refuses());
    settle().await;
    node.grant();
    assert_eq!(node.resigned(), []);
}

#[tokio::test]
async fn claims_in_a_row_are_resigned_after_pauses_that_double() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    refused(&node, Step::Fence);
    let mut at = vec![];
    node.elect();
    for turn in 0..600 {
        node.busy_for(LEASE / 10).await;
        if node.resigned().len() > at.len() {
            at.push(turn);
            // The driver wants it to try again.
            node.elect();
        }
    }
    // After 1.5 leases, then after pauses of 2, 4, 8 leases, and no longer ones.
    let pauses: Vec<_> = at.windows(2).map(|pair| (pair[1] - pair[0] + 5) / 10).collect();
    assert_eq!(pauses[..4], [2, 4, 8, 8], "{at:?}");
}

#[tokio::test]
async fn a_state_under_newer_rules_is_resigned_from_at_once() {
    let (cluster, a) = Cluster::serving().await;
    a.oracle.shutdown().await.unwrap();
    let mut effect = Effect::default();
    effect.put(b"m", [1, 99, 0, 0]);
    effect.set_version(cluster.version().next(99).unwrap());
    cluster.commit(cluster.version(), effect).unwrap();
    let b = cluster.node(2, &a.clock);
    let claim = b.elect();
    let trouble = b.troubled().await;
    assert!(trouble.contains("rules version 99"), "{trouble}");
    settle().await;
    assert_eq!(b.resigned(), [claim]);
    b.busy_for(LEASE).await;
    assert_eq!((b.resigned().len(), cluster.count(Step::Fence)), (1, 1), "nor is it fenced");
    assert_eq!(cluster.record().epoch, Epoch(1));
}
