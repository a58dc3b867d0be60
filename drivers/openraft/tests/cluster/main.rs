//! Clusters in one process, over real sockets.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod formation;
mod membership;
mod nodes;
mod spy;
mod strangers;
mod versions;

use tsoracle_core::{ConsensusDriver, Effect, ErrorKind, Leadership, MembershipChange, Version};
use tsoracle_openraft::{Config, open};
use tsoracle_store::{Store, Table};

use crate::nodes::{Nodes, eventually};

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cluster_forms_itself_and_is_there_again_after_all_were_stopped() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    for round in 0..3 {
        assert_eq!(nodes.next().await, round * 20);
        assert_eq!(nodes.next().await, round * 20 + 10);
        nodes.stop_all().await;
        for node in 1..=3 {
            nodes.start(node).await;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_when_the_leader_stops() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    let mut epochs = vec![];
    for round in 0..6 {
        assert_eq!(nodes.next().await, round * 10);
        let leader = nodes.leader().await;
        epochs.push(nodes.epoch(leader).await);
        nodes.stop(leader).await;
        // The node that was told to campaign has been elected before the old leader was gone.
        let others = nodes.running.values();
        let followed = others.filter(|node| match &*node.driver.leadership().borrow() {
            Leadership::Leader { .. } => true,
            Leadership::Follower { leader: Some(hint) } => hint.endpoint != format!("s{leader}:1"),
            _ => false,
        });
        assert!(followed.count() > 0 || nodes.leader().await != leader, "round {round}");
        nodes.start(leader).await;
    }
    assert!(epochs.is_sorted_by(|earlier, later| earlier < later), "{epochs:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leadership_is_handed_over_on_demand() {
    let mut nodes = Nodes::start_all(3, |config| config).await;
    for round in 0..6_u32 {
        assert_eq!(nodes.next().await, u64::from(round) * 10);
        let to = round % 3 + 1;
        // The node may lead already, and one that has just been elected may be elected out of turn.
        eventually(async || {
            nodes.change(MembershipChange::Transfer { to: Some(to.into()) }).await.ok()
        })
        .await;
        eventually(async || (nodes.leader().await == to).then_some(())).await;
    }
    // One that changes nothing leaves a leader that serves.
    let to = u64::from(nodes.leader().await);
    nodes.change(MembershipChange::Transfer { to: Some(to) }).await.unwrap();
    assert_eq!(nodes.next().await, 60);
    let error = nodes.change(MembershipChange::Transfer { to: Some(9) }).await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Invalid);
    assert_eq!(nodes.next().await, 70);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_node_far_behind_catches_up_through_a_snapshot() {
    let short = |config| Config { snapshot_every: 10, log_keep: 0, ..config };
    let mut nodes = Nodes::start_all(3, short).await;
    assert_eq!(nodes.next().await, 0);
    nodes.stop(3).await;
    for round in 1..40 {
        assert_eq!(nodes.next().await, round * 10);
    }
    nodes.start(3).await;
    // With one of the others gone, nothing is committed without node 3.
    nodes.stop(1).await;
    assert_eq!(nodes.next().await, 400);
    // And what it got is what the others have.
    nodes.start(1).await;
    eventually(async || nodes.change(MembershipChange::Transfer { to: Some(3) }).await.ok()).await;
    eventually(async || (nodes.leader().await == 3).then_some(())).await;
    assert_eq!(nodes.next().await, 410);
    // What was received is removed once it is restored.
    let received = nodes.path(3).join("received");
    eventually(async || (std::fs::read_dir(&received).unwrap().count() == 0).then_some(())).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_start_purges_the_log_before_the_state() {
    let mut nodes = Nodes::new(1, |config| Config { log_keep: 0, ..config });
    let mut lengths = vec![];
    for round in 0..4 {
        nodes.start(1).await;
        for request in 0..20 {
            assert_eq!(nodes.next().await, (round * 20 + request) * 10);
        }
        nodes.stop(1).await;
        let store = Store::open(&nodes.path(1), Default::default()).unwrap();
        let log = store.entries(Table::new("log"), &[], &[u8::MAX; 9], usize::MAX).unwrap();
        lengths.push(log.len());
    }
    assert!(lengths[3] < lengths[0] + lengths[1], "{lengths:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_follower_names_the_leader() {
    let nodes = Nodes::start_all(3, |config| config).await;
    // Leadership may move while this is asked, and is asked for again then.
    eventually(async || {
        let leader = nodes.leader().await;
        let service = format!("s{leader}:1");
        for (_, running) in nodes.running.iter().filter(|&(&node, _)| node != leader) {
            let now = running.driver.leadership().borrow().clone();
            let Leadership::Follower { leader: Some(named) } = now else { return None };
            let mut effect = Effect::default();
            effect.set_version(Version::EMPTY.next(1).unwrap());
            let error = running.driver.commit(Version::EMPTY, effect).await.err()?;
            let ErrorKind::NotLeader(Some(told)) = error.kind() else { return None };
            if named.endpoint != service || told.endpoint != service {
                return None;
            }
        }
        Some(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn wrong_options_are_refused_and_change_nothing() {
    let mut nodes = Nodes::start_all(1, |config| config).await;
    assert_eq!(nodes.next().await, 0);
    nodes.stop(1).await;
    let refused = async |config: Config, text: &str| {
        let error = open(config).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config);
        assert!(error.to_string().contains(text), "{error}");
    };
    let config = nodes.config(1);
    let peers = format!("{},2=127.0.0.1:1/h:1", config.peers);
    refused(Config { peers: String::new(), ..config.clone() }, "peers must be given").await;
    refused(Config { node: 2, ..config.clone() }, "node 2 is not among the peers").await;
    refused(Config { node: 2, peers, ..config.clone() }, "node 1's, not node 2's").await;
    refused(Config { cluster: "b".into(), ..config.clone() }, "of the cluster \"tsoracle\"").await;
    let taken = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let listen = Some(taken.local_addr().unwrap().to_string());
    refused(Config { peer_listen: listen, ..config }, "cannot listen for peers").await;
    nodes.start(1).await;
    assert_eq!(nodes.next().await, 10);
}
