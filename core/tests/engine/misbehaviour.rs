//! Drivers that panic, hang, or answer what the contract does not allow. Whatever they do, the node
//! serves no more, and says what the driver did.

use std::{
    pin::pin,
    sync::{Arc, Barrier},
    time::Duration,
};

use tsoracle_core::{
    Effect, Error, ErrorKind, LeaseHolder, LeaseId, ManualClock, Outcome, Phase, SeqKey, SeqList,
    SeqStore, Snapshot, Version, state::REIGN,
};

use crate::rig::{BadRead, Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

type Lie = fn(Version, Version) -> Outcome;
type Misreading = fn(Snapshot) -> Snapshot;

/// A cluster whose one node is elected, and meets this fault in taking over.
fn elected(step: Step, fault: Fault) -> Node {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    node.fault(step, fault);
    node.elect();
    node
}

/// Waits until the node serves no more, and has said why in words that contain these.
async fn stops(node: &Node, words: &[&str]) {
    let reason = node.failed().await;
    for word in words {
        assert!(reason.contains(word), "{reason}");
    }
    assert!(node.refuses());
    let error = node.oracle.get_ts(1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
    assert!(error.to_string().contains(words[0]), "{error}");
    settle().await;
    assert!(!node.driver.leads(), "and is stopped, so that others may lead");
}

/// Every question a caller can ask, once each.
async fn ask(node: &Node, which: usize) -> Result<(), Error> {
    let list = SeqList { limit: 10, ..SeqList::default() };
    match which {
        0 => node.oracle.read_seq(SeqKey::new("a").unwrap()).await.map(drop),
        1 => node.oracle.list_seqs(list).await.map(drop),
        _ => node.oracle.safe_frontier().await.map(drop),
    }
}

#[tokio::test]
async fn conflicts_that_make_no_sense() {
    let its_base: Lie = |found, _| Outcome::Conflict { found };
    let itself: Lie = |_, found| Outcome::Conflict { found };
    let older: Lie = |base, _| Outcome::Conflict { found: Version { number: 0, ..base } };
    let earlier: Lie = |base, _| {
        let found = Version { number: base.number.saturating_sub(1), name: 7, ..base };
        Outcome::Conflict { found }
    };
    for (which, lie) in [its_base, itself, older, earlier].into_iter().enumerate() {
        for step in [Step::Fence, Step::Open] {
            if which >= 2 && step == Step::Fence {
                // A fresh state has no older version.
                continue;
            }
            stops(&elected(step, Fault::Lie(lie)), &["the driver answered", "a conflict with"])
                .await;
        }
        let (_, node) = Cluster::serving().await;
        node.fault(Step::Advance, Fault::Lie(lie));
        let error = node.seq("a", 1).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
        stops(&node, &["the driver answered", "a conflict with"]).await;
    }
}

#[tokio::test]
async fn a_conflict_with_a_state_that_is_not_there_costs_a_reign_and_no_more() {
    let further: Lie = |base, _| Outcome::Conflict { found: base.next(7).unwrap() };
    let (cluster, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Lie(further));
    let error = node.seq("a", 1).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None), "{error}");
    assert_eq!(node.until(node.ask("a", 1)).await.unwrap(), 0);
    assert_eq!(cluster.next("a"), 1);
}

#[tokio::test]
async fn what_is_said_to_be_stored_and_is_not() {
    let stored: Lie = |_, _| Outcome::Stored;
    // A fence that is not there is found at the next read of the state.
    let node = elected(Step::Fence, Fault::Lie(stored));
    node.troubled().await;
    node.clock.advance(Duration::from_millis(20));
    stops(&node, &["the state went back"]).await;

    let (_, node) = Cluster::serving().await;
    node.fault(Step::Advance, Fault::Lie(stored));
    assert_eq!(node.seq("a", 1).await.unwrap(), 0);
    ask(&node, 0).await.unwrap_err();
    stops(&node, &["the state went back"]).await;
}

#[tokio::test]
async fn answers_of_another_shape() {
    let no_value: Misreading = |mut snapshot| {
        snapshot.values.pop();
        snapshot
    };
    let values: Misreading = |mut snapshot| {
        snapshot.values.push(None);
        snapshot
    };
    let ranges: Misreading = |mut snapshot| {
        snapshot.ranges.push(vec![]);
        snapshot
    };
    for lie in [no_value, values, ranges] {
        let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
        node.read_badly(BadRead::Lie(lie));
        node.elect();
        stops(&node, &["the driver answered reads of 2 keys and 0 ranges"]).await;
        for which in 0..3 {
            let (_, node) = Cluster::serving().await;
            node.read_badly(BadRead::Lie(lie));
            let error = ask(&node, which).await.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
            stops(&node, &["the driver answered reads"]).await;
        }
        // A request that has to read something first is not committed.
        let (cluster, node) = Cluster::serving().await;
        node.read_badly(BadRead::Lie(lie));
        node.seq("a", 1).await.unwrap_err();
        assert_eq!(cluster.next("a"), 0);
        stops(&node, &["the driver answered reads"]).await;
    }
}

#[tokio::test]
async fn ranges_of_what_was_not_asked_for() {
    fn entries(names: &[&str]) -> Vec<(Vec<u8>, Vec<u8>)> {
        names.iter().map(|name| ([b"s", name.as_bytes()].concat(), vec![1, 1])).collect()
    }
    fn with(mut snapshot: Snapshot, names: &[&str]) -> Snapshot {
        snapshot.ranges = vec![entries(names)];
        snapshot
    }
    let unsorted: Misreading = |snapshot| with(snapshot, &["ac", "ab"]);
    let doubled: Misreading = |snapshot| with(snapshot, &["ab", "ab"]);
    let before: Misreading = |snapshot| with(snapshot, &["a"]);
    let outside: Misreading = |snapshot| with(snapshot, &["b"]);
    let too_long: Misreading = |snapshot| with(snapshot, &["ab", "ac", "ad", "ae"]);
    for lie in [unsorted, doubled, before, outside, too_long] {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Lie(lie));
        let list = SeqList { prefix: "a".into(), after: "a".into(), limit: 2 };
        node.oracle.list_seqs(list).await.unwrap_err();
        stops(&node, &["the driver answered", "ranges"]).await;
    }
}

#[tokio::test]
async fn records_that_cannot_be_read() {
    let damaged: Misreading = |mut snapshot| {
        snapshot.values.fill(Some(vec![9]));
        snapshot
    };
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    node.read_badly(BadRead::Lie(damaged));
    node.elect();
    stops(&node, &["has format 9", "made by a newer release"]).await;
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Lie(damaged));
    for which in 0..3 {
        let error = ask(&node, which).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    }
    node.seq("a", 1).await.unwrap_err();
    stops(&node, &["has format 9", "made by a newer release"]).await;
}

#[tokio::test]
async fn a_state_that_went_back() {
    // To an older version, and to another one of the same number.
    for renamed in [false, true] {
        let (cluster, node) = Cluster::serving().await;
        let older = cluster.store();
        node.seq("a", 1).await.unwrap();
        let at = cluster.version();
        cluster.restore(older);
        if renamed {
            let mut effect = Effect::default();
            effect.set_version(Version { name: 7, ..at });
            cluster.commit(cluster.version(), effect).unwrap();
        }
        let error = ask(&node, 0).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
        stops(&node, &["the state went back"]).await;
    }
}

#[tokio::test]
async fn a_state_that_went_back_while_another_node_led() {
    let (cluster, a) = Cluster::serving().await;
    let older = cluster.store();
    a.seq("a", 1).await.unwrap();
    a.follow();
    cluster.restore(older);
    a.elect();
    stops(&a, &["the state went back"]).await;
}

#[tokio::test]
async fn a_state_that_was_forgotten_between_two_reigns_of_one_node() {
    // What a fence has reserved, what the open has added to it, a renewal, and a stamping lease.
    for reserves in [Step::Fence, Step::Open, Step::Extend, Step::Lease] {
        let cluster = Cluster::default();
        let node = cluster.node(1, &ManualClock::new(NOON_MS));
        let unused = cluster.store();
        let gate = node.hold(Step::Open);
        node.elect();
        gate.reached().await;
        let fenced = cluster.store();
        if reserves != Step::Fence {
            gate.open();
            node.serving().await;
        }
        let opened = cluster.store();
        let forgotten = match reserves {
            Step::Fence => unused,
            Step::Open => fenced,
            Step::Extend => {
                node.busy_for(LEASE).await;
                opened
            }
            _ => {
                let holder = LeaseHolder::new("h").unwrap();
                let ttl = Duration::from_secs(10);
                node.oracle.acquire_lease(holder, 1, ttl).await.unwrap();
                opened
            }
        };
        // The version goes on as it should, and the record is an older one.
        let mut effect = Effect::default();
        match forgotten.get(REIGN).unwrap() {
            Some(record) => effect.put(REIGN, record),
            None => effect.delete(REIGN),
        }
        effect.set_version(cluster.version().next(7).unwrap());
        cluster.commit(cluster.version(), effect).unwrap();
        node.clock.set_wall(NOON_MS);
        node.elect();
        stops(&node, &["it has lost commits", "were reserved up to"]).await;
    }
}

#[tokio::test]
async fn limits_below_the_least_that_a_driver_takes_cost_nothing_but_commits() {
    let (_, node) = Cluster::serving().await;
    {
        let mut limits = node.driver.limits.lock().unwrap();
        (limits.writes, limits.bytes) = (0, 0);
    }
    let asked = [node.ask("a", 1), node.ask("a", 1)];
    for (expected, asked) in (0..).zip(asked) {
        assert_eq!(asked.await.unwrap().unwrap(), expected);
    }
}

#[tokio::test]
async fn a_panic_in_a_commit() {
    for step in [Step::Fence, Step::Open] {
        stops(&elected(step, Fault::Panic), &["the driver panicked in a commit"]).await;
    }
    let (_, node) = Cluster::serving().await;
    node.fault(Step::Lease, Fault::Panic);
    let holder = LeaseHolder::new("h").unwrap();
    let error = node.oracle.acquire_lease(holder, 1, Duration::from_secs(10)).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain, "{error}");
    stops(&node, &["the driver panicked in a commit"]).await;
}

#[tokio::test]
async fn a_panic_in_a_read() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    node.read_badly(BadRead::Panic);
    node.elect();
    stops(&node, &["the driver panicked in a read"]).await;
    for which in 0..3 {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Panic);
        let error = ask(&node, which).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal, "{error}");
        stops(&node, &["the driver panicked in a read"]).await;
    }
    // The engine's own question, for sessions that are over.
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Panic);
    node.busy_for(Duration::from_secs(20)).await;
    stops(&node, &["the driver panicked in a read"]).await;
}

#[tokio::test]
async fn a_read_that_fails_for_good() {
    let (_, node) = Cluster::serving().await;
    node.read_badly(BadRead::Fail(ErrorKind::Fatal));
    ask(&node, 0).await.unwrap_err();
    stops(&node, &["injected"]).await;
}

#[tokio::test]
async fn a_read_that_hangs_is_given_up() {
    for which in 0..3 {
        let (_, node) = Cluster::serving().await;
        node.read_badly(BadRead::Hang);
        let asked = tokio::spawn({
            let node = node.clone();
            async move { ask(&node, which).await }
        });
        let error = node.until(asked).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("the driver did not answer"), "{error}");
        assert!(matches!(node.oracle.status().phase, Phase::Serving { .. }));
    }
}

#[tokio::test]
async fn a_commit_that_hangs_ends_serving_with_the_lease() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Lease);
    let holder = LeaseHolder::new("h").unwrap();
    let asked = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.acquire_lease(holder, 1, Duration::from_secs(10)).await }
    });
    gate.reached().await;
    node.clock.advance(LEASE);
    assert!(node.refuses());
    let waiting = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.get_ts(1).await }
    });
    let error = node.until(waiting).await.unwrap_err();
    assert!(error.to_string().contains("cannot be renewed"), "{error}");
    assert!(!asked.is_finished());
    gate.open();
    assert!(asked.await.unwrap().is_ok(), "and goes on when the driver does");
}

#[tokio::test]
async fn a_lease_that_was_never_granted_is_unknown_whatever_is_asked() {
    let (cluster, node) = Cluster::serving().await;
    let commits = cluster.log().len();
    let error = node.oracle.renew_lease(LeaseId(1)).await.unwrap_err();
    assert!(matches!(error.kind(), ErrorKind::Rejected(_)), "{error}");
    assert_eq!(cluster.log().len(), commits, "a refusal writes nothing");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_driver_that_blocks_the_engine_shows_in_its_signs_of_life() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    assert!(node.oracle.is_responsive().await);
    let barrier = Arc::new(Barrier::new(2));
    node.read_badly(BadRead::Block(barrier.clone()));
    node.elect();
    tokio::task::block_in_place(|| barrier.wait());
    node.read_well();
    let mut asked = pin!(node.oracle.is_responsive());
    let waited = tokio::time::timeout(Duration::from_millis(200), asked.as_mut()).await;
    assert!(waited.is_err(), "another task has answered");
    tokio::task::block_in_place(|| barrier.wait());
    assert!(asked.await);
    node.serving().await;
    node.oracle.shutdown().await.unwrap();
    assert!(!node.oracle.is_responsive().await, "it has ended");
}
