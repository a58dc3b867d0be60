//! Members come and go while the cluster serves.

use std::{cell::Cell, fs, time::Duration};

use tsoracle_core::{ConsensusDriver, ErrorKind, Member, MembershipChange};
use tsoracle_openraft::Config;

use crate::nodes::{Nodes, eventually, free_address};

fn ids(members: &[Member], vote: bool) -> Vec<u64> {
    members.iter().filter(|member| member.votes == vote).map(|member| member.id).collect()
}

/// Leadership does not change where the machine is slow.
fn patient(config: Config) -> Config {
    Config { election: Duration::from_secs(2), ..config }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_single_node_grows_into_a_cluster_and_shrinks_again() {
    // So short a log that nodes which come later need a snapshot.
    let short = |config| Config { snapshot_every: 5, log_keep: 0, ..config };
    let mut nodes = Nodes::start_all(1, short).await;
    for round in 0..20 {
        assert_eq!(nodes.next().await, round * 10);
    }
    for id in [2, 3] {
        let member = nodes.start_joining(id).await;
        nodes.change(MembershipChange::Add(member.clone())).await.unwrap();
        // What is there already is no error.
        nodes.change(MembershipChange::Add(member)).await.unwrap();
        let seen = nodes.members(id, |all| all.members.len() == id as usize).await;
        assert_eq!(ids(&seen.members, false), [u64::from(id)]);
        nodes.change(MembershipChange::Promote { id: id.into() }).await.unwrap();
        nodes.change(MembershipChange::Promote { id: id.into() }).await.unwrap();
    }
    let seen = nodes.members(1, |all| ids(&all.members, true) == [1, 2, 3]).await;
    assert_eq!(seen.leader, Some(nodes.leader().await.into()));
    assert_eq!(nodes.next().await, 200);

    // The first node goes; the others have never heard of it by their config alone.
    eventually(async || nodes.change(MembershipChange::Transfer { to: Some(2) }).await.ok()).await;
    eventually(async || (nodes.leader().await == 2).then_some(())).await;
    nodes.change(MembershipChange::Remove { id: 1, force: false }).await.unwrap();
    nodes.failure(1).await;
    nodes.running.remove(&1);
    assert_eq!(nodes.next().await, 210);
    // All of it survives restarts, without `join` and with the same peers as before.
    nodes.stop_all().await;
    nodes.start(2).await;
    nodes.start(3).await;
    assert_eq!(nodes.next().await, 220);
    nodes.members(3, |all| ids(&all.members, true) == [2, 3]).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn changes_that_would_end_the_cluster_are_refused() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    assert_eq!(nodes.next().await, 0);
    let refused = async |nodes: &Nodes, change: MembershipChange, text: &str| {
        let error = nodes.change(change).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
        assert!(error.to_string().contains(text), "{error}");
    };
    let member = |id: u64, peer: &str| Member {
        id,
        peer: peer.into(),
        service: "s9:1".into(),
        votes: false,
    };
    refused(&nodes, MembershipChange::Promote { id: 9 }, "node 9 is no member").await;
    refused(&nodes, MembershipChange::Add(member(0, "127.0.0.1:9")), "0 is no id").await;
    refused(&nodes, MembershipChange::Add(member(9, "nowhere")), "\"nowhere\"").await;
    refused(&nodes, MembershipChange::Add(member(9, "10.0.0.1:9")), "insecure_peers").await;
    refused(&nodes, MembershipChange::Add(member(1, "127.0.0.1:9")), "a member already").await;

    // With one node down, the two others are all that make a majority.
    let leader = nodes.leader().await;
    let followers: Vec<_> = (1..=3).filter(|node| *node != leader).collect();
    nodes.stop(followers[0]).await;
    let id = followers[1].into();
    refused(&nodes, MembershipChange::Remove { id, force: false }, "no majority").await;
    // The one that is down may go, and then the other.
    let id = followers[0].into();
    nodes.change(MembershipChange::Remove { id, force: false }).await.unwrap();
    nodes.change(MembershipChange::Remove { id, force: false }).await.unwrap();
    let id = followers[1].into();
    nodes.change(MembershipChange::Remove { id, force: false }).await.unwrap();
    let id = leader.into();
    refused(&nodes, MembershipChange::Remove { id, force: true }, "the last one").await;
    assert_eq!(nodes.next().await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_that_is_handed_over_leaves_no_lease_to_wait_for() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    for round in 0..5 {
        assert_eq!(nodes.next().await, round * 10);
        let old = nodes.leader().await;
        let before = nodes.epoch(old).await;
        nodes.change(MembershipChange::Transfer { to: None }).await.unwrap();
        let new = nodes.leader().await;
        assert!(new != old && nodes.epoch(new).await > before);
        assert!(nodes.running[&new].spy.has_replaced_released(before..));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_leader_that_no_node_takes_over_from_serves_again() {
    let mut nodes = Nodes::start_all(3, patient).await;
    assert_eq!(nodes.next().await, 0);
    let leader = nodes.leader().await;
    let before = nodes.epoch(leader).await;
    let stopped = (1..=3).find(|node| *node != leader).unwrap();
    nodes.stop(stopped).await;
    let error =
        nodes.change(MembershipChange::Transfer { to: Some(stopped.into()) }).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    assert_eq!(nodes.next().await, 10);
    assert!(nodes.epoch(leader).await > before);
    assert!(nodes.running[&leader].spy.has_replaced_released(before..));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn only_the_leader_makes_changes() {
    let nodes = Nodes::start_all(3, patient).await;
    let leader = nodes.known_leader().await;
    let follower = (1..=3).find(|node| *node != leader).unwrap();
    let membership = nodes.running[&follower].driver.membership().unwrap();
    let error = membership.change(MembershipChange::Promote { id: 1 }).await.unwrap_err();
    let ErrorKind::NotLeader(Some(hint)) = error.kind() else { panic!("{error}") };
    assert_eq!(hint.endpoint, format!("s{leader}:1"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_wiped_node_is_told_so_and_joins_under_a_new_id() {
    let mut nodes = Nodes::start_all(3, patient).await;
    assert_eq!(nodes.next().await, 0);
    // All know all then: each has heard the leader's heartbeats, which say so.
    let leader = nodes.known_leader().await;
    let wiped = (1..=3).find(|node| *node != leader).unwrap();
    let third = (1..=3).find(|node| ![leader, wiped].contains(node)).unwrap();
    nodes.stop(wiped).await;
    fs::remove_dir_all(nodes.path(wiped)).unwrap();
    nodes.start(wiped).await;
    let error = nodes.failure(wiped).await;
    assert!(error.to_string().contains("wiped or replaced"), "{error}");
    assert_eq!(nodes.next().await, 10);
    nodes.running.remove(&wiped);

    nodes.remove(wiped).await;
    let member = nodes.start_joining(4).await;
    nodes.change(MembershipChange::Add(member)).await.unwrap();
    nodes.change(MembershipChange::Promote { id: 4 }).await.unwrap();
    nodes.stop(third).await;
    assert_eq!(nodes.next().await, 20);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_that_waits_to_be_added_forms_no_cluster() {
    let mut nodes = Nodes::new(1, |config| Config { join: true, ..config });
    nodes.start(1).await;
    let membership = nodes.running[&1].driver.membership().unwrap();
    let error = membership.members().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    let change = MembershipChange::Add(Member {
        id: 2,
        peer: free_address(),
        service: "s2:1".into(),
        votes: false,
    });
    let error = membership.change(change).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::NotLeader(None));
    nodes.stop(1).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_removed_node_learns_of_it_and_ends() {
    let mut nodes = Nodes::start_all(3, patient).await;
    assert_eq!(nodes.next().await, 0);
    let learner = nodes.start_joining(4).await;
    nodes.change(MembershipChange::Add(learner)).await.unwrap();
    let removed = async |nodes: &mut Nodes, node: u32| {
        let error = nodes.failure(node).await;
        assert_eq!(*error.kind(), ErrorKind::Excluded, "{error}");
        assert!(error.to_string().contains(&format!("node {node} was removed")), "{error}");
        nodes.running.remove(&node);
    };
    // One that is not there then is told later, whether it has a vote or not.
    nodes.stop(4).await;
    nodes.remove(4).await;
    nodes.start(4).await;
    removed(&mut nodes, 4).await;
    // That it is removed already is no error; that it never was there is one.
    nodes.remove(4).await;
    let error = nodes.change(MembershipChange::Remove { id: 9, force: false }).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
    assert!(error.to_string().contains("node 9 is no member"), "{error}");
    // One that is there is told at once.
    let leader = nodes.leader().await;
    let id = (1..=3).find(|node| *node != leader).unwrap();
    nodes.remove(id).await;
    removed(&mut nodes, id).await;
    assert_eq!(nodes.next().await, 10);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_voter_that_was_removed_while_it_was_down_learns_of_it() {
    let mut nodes = Nodes::start_all(3, patient).await;
    assert_eq!(nodes.next().await, 0);
    let leader = nodes.leader().await;
    let id = (1..=3).find(|node| *node != leader).unwrap();
    nodes.stop(id).await;
    nodes.remove(id).await;
    nodes.start(id).await;
    let error = nodes.failure(id).await;
    assert_eq!(*error.kind(), ErrorKind::Excluded, "{error}");
    assert!(error.to_string().contains("was removed"), "{error}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_cannot_be_added_leaves_nothing_behind_and_holds_up_no_other_change() {
    let mut nodes = Nodes::start_all(3, patient).await;
    assert_eq!(nodes.next().await, 0);
    // It takes connections, and never answers.
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let peer = silent.local_addr().unwrap().to_string();
    let absent = Member { id: 4, peer, service: "s4:1".into(), votes: false };
    let removed = Cell::new(false);
    let adding = async {
        let error = nodes.change(MembershipChange::Add(absent)).await.unwrap_err();
        assert!(removed.get(), "the other change waits for this one");
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
        assert!(error.to_string().contains("node 4 is not added"), "{error}");
    };
    let removing = async {
        let _connection = silent.accept().await.unwrap();
        let unknown = MembershipChange::Remove { id: 77, force: false };
        let error = nodes.change(unknown).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Invalid, "{error}");
        removed.set(true);
    };
    tokio::join!(adding, removing);
    let leader = nodes.leader().await;
    let id = (1..=3).find(|node| *node != leader).unwrap();
    nodes.remove(id).await;
    nodes.running.remove(&id);
    // A node that is there and forms a cluster of its own is none to be added.
    let config = Config { path: nodes.path(9), node: 9, ..nodes.config(leader) };
    let peer = free_address();
    let config = Config { peers: format!("9={peer}/s9:1"), ..config };
    nodes.start_as(9, config).await;
    let _apart = nodes.running.remove(&9);
    let other = Member { id: 9, peer, service: "s9:1".into(), votes: false };
    let error = nodes.change(MembershipChange::Add(other)).await.unwrap_err();
    assert!(error.to_string().contains("join=true"), "{error}");
    nodes.members(leader, |all| all.members.len() == 2).await;
    // Under the same id, a node that waits is added.
    let member = nodes.start_joining(4).await;
    nodes.change(MembershipChange::Add(member)).await.unwrap();
    nodes.change(MembershipChange::Promote { id: 4 }).await.unwrap();
    assert_eq!(nodes.next().await, 10);
}
