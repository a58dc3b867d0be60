//! What a node says is wrong, and who it says has led: each brought about on an engine.

use std::time::Duration;

use tsoracle_core::{
    BootTime, Clock as _, ErrorKind, Finding, LatencySummary, LeaderHint, Leadership, ManualClock,
    MemberReport, Problem, Report, Unreached,
};

use crate::rig::{BadRead, Cluster, Fault, LEASE, NOON_MS, Node, Step, settle};

const HOUR_MS: u64 = 3_600_000;

fn kinds(node: &Node) -> Vec<&'static str> {
    node.oracle.problems().iter().map(|problem| problem.finding.kind).collect()
}

fn problem(node: &Node, kind: &str) -> Problem {
    let problems = node.oracle.problems();
    let found = problems.iter().find(|problem| problem.finding.kind == kind);
    found.unwrap_or_else(|| panic!("no {kind} in {problems:?}")).clone()
}

/// The last change of leadership: what, and why.
fn last_change(node: &Node) -> (String, String) {
    let last = node.oracle.overview().changes.swap_remove(0);
    (last.what, last.cause)
}

fn follow(node: &Node, endpoint: &str) {
    let leader = Some(LeaderHint { endpoint: endpoint.into(), epoch: None });
    node.set(Leadership::Follower { leader });
}

async fn pass(node: &Node, ms: u64) {
    node.clock.advance(Duration::from_millis(ms));
    settle().await;
}

#[tokio::test]
async fn no_leader_is_worth_a_word_after_a_while() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    settle().await;
    pass(&node, 4_999).await;
    assert_eq!(kinds(&node), [""; 0]);
    pass(&node, 1).await;
    assert_eq!(kinds(&node), ["no_leader"]);
    pass(&node, 2_000).await;
    assert_eq!(problem(&node, "no_leader").lasts, Duration::from_secs(2));
    follow(&node, "a:1");
    settle().await;
    assert_eq!(kinds(&node), [""; 0]);
}

#[tokio::test]
async fn a_take_over_that_lasts_or_fails_is_told() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    let gate = node.hold(Step::Fence);
    node.elect();
    gate.reached().await;
    pass(&node, 4_999).await;
    assert!(!kinds(&node).contains(&"cannot_take_over"));
    pass(&node, 1).await;
    assert!(problem(&node, "cannot_take_over").finding.what.contains("takes long"));
    gate.open();
    node.serving().await;
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    node.read_badly(BadRead::Fail(ErrorKind::Unavailable));
    node.elect();
    node.troubled().await;
    let found = problem(&node, "cannot_take_over").finding;
    assert!(
        found.what.contains("cannot take over") && found.what.contains("injected"),
        "{found:?}"
    );
}

#[tokio::test]
async fn a_leader_whose_commits_hang_tells_why_it_does_not_serve() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Extend);
    node.busy_for(LEASE * 3).await;
    gate.reached().await;
    assert_eq!(kinds(&node), ["commits_slow", "lease_lapsed"]);
    let found = problem(&node, "commits_slow").finding;
    assert!(found.what.contains("a commit has been under way for 2"), "{found:?}");
    assert!(found.what.contains("not for the disk of this node"), "{found:?}");
    assert_eq!(last_change(&node).0, "this node does not serve");
    // Where the disk of the node is the reason, that is told instead.
    let under_way = Some(Duration::from_secs(2));
    let writes = Some(LatencySummary { under_way, ..LatencySummary::default() });
    node.oracle.report_also(move |_| Report { writes, ..Report::default() });
    assert_eq!(kinds(&node), ["disk_slow", "lease_lapsed"]);
    gate.open();
    settle().await;
    assert_eq!(kinds(&node), ["disk_slow"]);
    let (what, why) = last_change(&node);
    assert_eq!((&*what, &*why), ("this node serves again", "its lease is renewed"));
}

#[tokio::test]
async fn where_a_majority_is_lost_slow_commits_are_no_news() {
    let (_, node) = Cluster::serving().await;
    let gate = node.hold(Step::Extend);
    let since = node.clock.now().boot;
    node.busy_for(LEASE * 3).await;
    gate.reached().await;
    node.oracle.report_also(move |_| unreached(since));
    assert_eq!(kinds(&node), ["majority_lost", "lease_lapsed"]);
}

#[tokio::test]
async fn a_node_that_has_failed_says_so_first_and_why() {
    let (_, node) = Cluster::serving().await;
    node.oracle.report_also(|_| {
        let findings = vec![Finding::new("certificate_expired", "it has", "replace it")];
        Report { findings, ..Report::default() }
    });
    node.read_badly(BadRead::Fail(ErrorKind::Fatal));
    node.fault(Step::Advance, Fault::Refuse(ErrorKind::Fatal));
    drop(node.ask("orders", 1));
    let reason = node.failed().await;
    assert_eq!(kinds(&node)[..2], ["failed", "certificate_expired"]);
    assert!(problem(&node, "failed").finding.what.contains(&reason));
    let (what, why) = last_change(&node);
    assert!(what == "this node serves no more" && why.contains("it has failed: "), "{what}: {why}");
}

/// Two other nodes, which have not been reached since then.
fn unreached(since: BootTime) -> Report {
    let member = |id: u64| MemberReport {
        id,
        peer: format!("n{id}:1"),
        service: format!("n{id}:2"),
        votes: true,
        is_own: id == 1,
        leads: false,
        unreached: (id != 1).then_some(Unreached { since, reason: None }),
        lag: None,
    };
    Report { members: (1..=3).map(member).collect(), ..Report::default() }
}

#[tokio::test]
async fn a_majority_is_lost_unless_a_leader_is_heard_or_there_is_no_cluster_yet() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    settle().await;
    let since = node.clock.now().boot;
    node.oracle.report_also(move |_| unreached(since));
    pass(&node, 1_999).await;
    assert_eq!(kinds(&node), [""; 0], "a process that starts again is back by then");
    pass(&node, 1).await;
    assert_eq!(kinds(&node), ["majority_lost"]);
    pass(&node, 10_000).await;
    assert_eq!(kinds(&node), ["majority_lost"], "that there is no leader says the same");
    assert_eq!(problem(&node, "majority_lost").lasts, Duration::from_secs(12));
    follow(&node, "n2:2");
    settle().await;
    assert_eq!(kinds(&node), ["node_unreached"]);
    node.set(Leadership::Unknown);
    node.oracle.report_also(|_| {
        let findings = vec![Finding::new("cluster_not_formed", "waiting for node 2", "")];
        Report { findings, ..Report::default() }
    });
    settle().await;
    assert_eq!(kinds(&node), ["cluster_not_formed"]);
}

#[tokio::test]
async fn a_clock_that_is_behind_is_told_and_time_that_is_ahead_of_a_right_one() {
    let (cluster, before) = Cluster::serving().await;
    before.busy_for(Duration::from_secs(1)).await;
    before.oracle.shutdown().await.unwrap();
    let start = |peers: &[u64]| {
        let node = cluster.node(1, &ManualClock::new(NOON_MS - HOUR_MS));
        let peers = peers.iter().map(|peer| ManualClock::new(*peer)).collect();
        *node.driver.peers.lock().unwrap() = peers;
        node.elect();
        node
    };
    let node = start(&[]);
    node.serving().await;
    let found = problem(&node, "clock_wrong").finding;
    assert!(found.what.contains("behind the time that is stored"), "{found:?}");
    node.oracle.shutdown().await.unwrap();
    // Where the others show the same, the clock is right, and time was driven away before.
    let node = start(&[NOON_MS - HOUR_MS; 2]);
    node.serving().await;
    assert_eq!(kinds(&node), ["time_ahead"]);
    // Ten minutes of it can be of stamping leases.
    node.clock.set_wall(NOON_MS - 9 * 60_000);
    assert_eq!(kinds(&node), [""; 0]);
}

#[tokio::test]
async fn a_node_that_does_not_lead_compares_its_clock_with_the_others() {
    let node = Cluster::default().node(1, &ManualClock::new(NOON_MS));
    *node.driver.peers.lock().unwrap() = vec![ManualClock::new(NOON_MS); 2];
    follow(&node, "a:1");
    settle().await;
    for (off_ms, side) in
        [(10_000_i64, None), (10_001, Some("ahead of")), (-10_001, Some("behind"))]
    {
        node.clock.set_wall(NOON_MS.saturating_add_signed(off_ms));
        let found = node.oracle.problems();
        assert_eq!(found.is_empty(), side.is_none(), "{off_ms}: {found:?}");
        assert!(side.is_none_or(|side| found[0].finding.what.contains(side)), "{found:?}");
    }
}

#[tokio::test]
async fn why_a_reign_has_ended_is_remembered() {
    let (cluster, a) = Cluster::serving().await;
    let b = cluster.node(2, &a.clock);
    let gate = b.hold(Step::Open);
    b.elect();
    settle().await;
    let asked = a.ask("orders", 1);
    settle().await;
    let (what, why) = last_change(&a);
    assert_eq!((&*what, &*why), ("this node serves no more", "another node has taken over"));
    // It is told, and contends no more.
    a.follow();
    drop(asked);
    b.pass_until(&gate).await;
    gate.open();
    b.serving().await;
    b.follow();
    settle().await;
    let (what, why) = last_change(&b);
    assert!(
        what == "this node serves no more" && why.contains("have it lead no more"),
        "{what}: {why}"
    );
    let c = cluster.node(3, &a.clock);
    c.elect();
    let taking_over = tokio::spawn({
        let c = c.clone();
        async move { c.serving().await }
    });
    a.until(taking_over).await;
    c.oracle.shutdown().await.unwrap();
    let (what, why) = last_change(&c);
    assert_eq!(
        (&*what, &*why),
        ("this node serves no more", "it stops, and has released its lease")
    );
}
