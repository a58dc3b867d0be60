//! Stamping leases and the frontier, over clocks that step and leaders that change.

use std::time::Duration;

use tsoracle_core::{
    ErrorKind, LeaseHolder, LeaseId, ManualClock, Reject, Result, SeqKey, SeqList, StampingLease,
    state::Capped,
};

use crate::rig::{Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

const TTL: Duration = Duration::from_secs(10);
const TTL_MS: u64 = 10_000;
const HOUR_MS: u64 = 3_600_000;

async fn acquire(node: &Node, name: &str, epoch: u64) -> Result<StampingLease> {
    node.oracle.acquire_lease(LeaseHolder::new(name).unwrap(), epoch, TTL).await
}

async fn frontier(node: &Node) -> u64 {
    node.oracle.safe_frontier().await.unwrap().physical_ms
}

#[tokio::test]
async fn requests_about_leases_share_commits_with_sequences() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let first = node.ask("a", 1);
    gate.reached().await;
    let leases: Vec<_> = (0..50)
        .map(|n: u8| {
            let oracle = node.oracle.clone();
            let holder = LeaseHolder::new([n]).unwrap();
            tokio::spawn(async move { oracle.acquire_lease(holder, 1, TTL).await })
        })
        .collect();
    let second = node.ask("a", 1);
    settle().await;
    let before = cluster.log().len();
    gate.open();
    for lease in leases {
        assert_eq!(lease.await.unwrap().unwrap().bound_ms, NOON_MS + TTL_MS);
    }
    assert_eq!((first.await.unwrap().unwrap(), second.await.unwrap().unwrap()), (0, 1));
    assert_eq!(cluster.log().len(), before + 2);
}

#[tokio::test]
async fn a_thousand_grants_and_renewals_do_not_push_time_on() {
    let (cluster, node) = Cluster::serving().await;
    let lease = acquire(&node, "renewed", 1).await.unwrap();
    for epoch in 1..=1_000 {
        let other = acquire(&node, "acquired", epoch).await.unwrap();
        node.oracle.renew_lease(lease.id).await.unwrap();
        node.oracle.release_lease(other.id).await.unwrap();
    }
    assert_eq!(cluster.record().high_water_ms, NOON_MS + TTL_MS);
    assert_eq!(node.grant().range.first().physical_ms(), NOON_MS);
}

#[tokio::test]
async fn a_clock_that_leaps_moves_neither_bounds_nor_expiry() {
    let (_, node) = Cluster::serving().await;
    let lease = acquire(&node, "h", 1).await.unwrap();
    node.clock.set_wall(NOON_MS + HOUR_MS);
    let renewed = node.oracle.renew_lease(lease.id).await.unwrap();
    assert_eq!(renewed.bound_ms, NOON_MS + TTL_MS, "it is not believed");
    assert_eq!(frontier(&node).await, lease.bound_ms);
    node.clock.set_wall(NOON_MS - HOUR_MS);
    let renewed = node.oracle.renew_lease(lease.id).await.unwrap();
    assert_eq!((renewed.bound_ms, renewed.remaining), (NOON_MS + TTL_MS, TTL));
    assert_eq!(frontier(&node).await, lease.bound_ms);
}

#[tokio::test]
async fn a_lease_outlives_its_leader_whatever_the_next_ones_clock_shows() {
    let cluster = Cluster::default();
    let first = cluster.node(1, &ManualClock::new(NOON_MS));
    first.elect();
    first.serving().await;
    let lease = acquire(&first, "h", 1).await.unwrap();
    let before = frontier(&first).await;
    let clock = ManualClock::new(NOON_MS + HOUR_MS);
    let second = cluster.node(2, &clock);
    second.elect();
    settle().await;
    clock.advance(2 * LEASE);
    second.serving().await;
    assert_eq!(frontier(&second).await, lease.bound_ms.max(before));
    assert!(second.grant().range.first().physical_ms() > lease.bound_ms);
    assert_eq!(acquire(&second, "h", 1).await.unwrap().id, lease.id);
    clock.advance(TTL + TTL / 10 + Duration::from_millis(1));
    assert!(frontier(&second).await > lease.bound_ms, "it runs on under the next leader");
    let fenced = first.oracle.renew_lease(lease.id).await.unwrap_err();
    assert!(matches!(fenced.kind(), ErrorKind::NotLeader(_)), "{fenced}");
}

#[tokio::test]
async fn what_has_expired_is_ended_before_the_frontier_passes_it() {
    let (cluster, node) = Cluster::serving().await;
    let lease = acquire(&node, "h", 1).await.unwrap();
    node.busy_for(TTL + TTL / 10).await;
    assert_eq!(frontier(&node).await, lease.bound_ms);
    node.clock.advance(Duration::from_millis(1));
    let ended = cluster.count(Step::Lease);
    node.fault(Step::Lease, Fault::Refuse(ErrorKind::Unavailable));
    let asked = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.safe_frontier().await }
    });
    settle().await;
    node.clock.advance(Duration::from_millis(100));
    assert_eq!(*asked.await.unwrap().unwrap_err().kind(), ErrorKind::Unavailable);
    assert!(frontier(&node).await > lease.bound_ms);
    assert_eq!(cluster.count(Step::Lease), ended + 1);
}

#[tokio::test]
async fn bounds_are_durable_before_they_are_answered() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Lease);
    let oracle = node.oracle.clone();
    let holder = LeaseHolder::new("h").unwrap();
    let asked = tokio::spawn(async move { oracle.acquire_lease(holder, 1, TTL).await });
    gate.reached().await;
    settle().await;
    assert!(!asked.is_finished());
    gate.open();
    asked.await.unwrap().unwrap();
}

#[tokio::test]
async fn what_was_not_submitted_changes_nothing() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let first = node.ask("a", 1);
    gate.reached().await;
    let oracle = node.oracle.clone();
    let holder = LeaseHolder::new("h").unwrap();
    let asked = tokio::spawn(async move { oracle.acquire_lease(holder, 1, TTL).await });
    settle().await;
    asked.abort();
    settle().await;
    gate.open();
    first.await.unwrap().unwrap();
    node.oracle.release_lease(LeaseId(1)).await.unwrap();
    assert_eq!(cluster.count(Step::Lease), 0, "and the release of an unknown one writes nothing");
}

#[tokio::test]
async fn a_release_whose_answer_is_lost_is_found() {
    let (cluster, node) = Cluster::serving().await;
    let lease = acquire(&node, "h", 1).await.unwrap();
    node.fault(Step::Lease, Fault::LoseReply(ErrorKind::Uncertain));
    node.oracle.release_lease(lease.id).await.unwrap();
    assert_eq!(cluster.entries(b'l'), []);
}

#[tokio::test]
async fn stopping_commits_what_was_accepted_and_refuses_what_comes_later() {
    let (cluster, node) = Cluster::serving().await;
    let gate = node.hold(Step::Advance);
    let first = node.ask("a", 1);
    gate.reached().await;
    let oracle = node.oracle.clone();
    let holder = LeaseHolder::new("h").unwrap();
    let accepted = tokio::spawn(async move { oracle.acquire_lease(holder, 1, TTL).await });
    settle().await;
    let stopping = tokio::spawn({
        let oracle = node.oracle.clone();
        async move { oracle.shutdown().await }
    });
    settle().await;
    gate.open();
    assert!(first.await.unwrap().is_ok() && accepted.await.unwrap().is_ok());
    stopping.await.unwrap().unwrap();
    let late = acquire(&node, "h", 1).await.unwrap_err();
    assert!(matches!(late.kind(), ErrorKind::NotLeader(None)), "{late}");
    assert_eq!(cluster.log().last().unwrap(), &[Step::Release]);
}

#[tokio::test]
async fn how_long_a_lease_may_run_and_how_many_there_may_be_is_configured() {
    let clock = ManualClock::new(NOON_MS);
    let node = Cluster::default().node_with(1, &clock, |options| {
        options.lease_ttl = (TTL, TTL);
        options.limits.leases = 1;
        options.limits.keys = 1;
    });
    node.elect();
    node.serving().await;
    for ttl in [TTL - Duration::from_millis(1), TTL + Duration::from_millis(1)] {
        let holder = LeaseHolder::new("h").unwrap();
        let refused = node.oracle.acquire_lease(holder, 1, ttl).await.unwrap_err();
        assert_eq!(*refused.kind(), ErrorKind::Invalid, "{refused}");
    }
    acquire(&node, "h", 1).await.unwrap();
    let refused = acquire(&node, "i", 1).await.unwrap_err();
    assert_eq!(
        *refused.kind(),
        ErrorKind::Rejected(Reject::TooMany { what: Capped::Leases, limit: 1 })
    );
    node.oracle.seed_seq(SeqKey::new("a").unwrap(), 7).await.unwrap();
    let refused = node.oracle.seed_seq(SeqKey::new("b").unwrap(), 7).await.unwrap_err();
    assert_eq!(
        *refused.kind(),
        ErrorKind::Rejected(Reject::TooMany { what: Capped::Sequences, limit: 1 })
    );
}

#[tokio::test]
async fn a_seeded_sequence_is_listed_and_goes_on_from_there() {
    let (_, node) = Cluster::serving().await;
    let key = |name: &str| SeqKey::new(name).unwrap();
    assert_eq!(node.oracle.seed_seq(key("b"), 1_000).await.unwrap().0, 1_000);
    let again = node.oracle.seed_seq(key("b"), 1_000).await.unwrap_err();
    let exists = Reject::SequenceExists { key: key("b"), next: 1_000 };
    assert_eq!(*again.kind(), ErrorKind::Rejected(exists));
    assert_eq!(node.seq("b", 5).await.unwrap(), 1_000);
    assert_eq!(node.seq("a", 5).await.unwrap(), 0);
    let list = |after: &str| SeqList { after: after.into(), limit: 1, ..SeqList::default() };
    let page = node.oracle.list_seqs(list("")).await.unwrap();
    assert_eq!((page.entries, page.more), (vec![(key("a"), 5)], true));
    let page = node.oracle.list_seqs(list("a")).await.unwrap();
    assert_eq!((page.entries, page.more), (vec![(key("b"), 1_005)], false));
    for limit in [0, 1_001] {
        let refused = node.oracle.list_seqs(SeqList { limit, ..SeqList::default() }).await;
        assert_eq!(*refused.unwrap_err().kind(), ErrorKind::Invalid);
    }
    let prefix = "p".repeat(129);
    let refused = node.oracle.list_seqs(SeqList { prefix, limit: 1, ..SeqList::default() }).await;
    assert_eq!(*refused.unwrap_err().kind(), ErrorKind::Invalid);
}
