//! Stamping leases, and sequences that are listed and seeded.

use std::time::Duration;

use tonic::{Code, Status};
use tsoracle_client::{ErrorKind, LeaseId};
use tsoracle_types::{Clock, SystemClock};

use crate::node::Node;
use crate::step::{Step, not_leader, not_leader_nor_who_is};
use crate::{builder, client};

const TTL: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_lease_counts_from_before_it_was_asked_for() {
    let node = Node::serving().await;
    node.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    let client = client([node.address()]);
    let before = SystemClock.now().boot;
    let lease = client.acquire_lease("writer", 1, TTL).await.unwrap();
    let after = SystemClock.now().boot;
    assert_eq!((lease.id, lease.bound_ms), (LeaseId(7), 100));
    let valid_until = lease.valid_until.unwrap();
    assert!(before + TTL <= valid_until && valid_until < after + TTL);
}

#[tokio::test]
async fn a_server_that_does_not_say_how_long_a_lease_runs_is_not_guessed_at() {
    let node = Node::serving().await;
    let lease = client([node.address()]).renew_lease(LeaseId(7)).await.unwrap();
    assert_eq!((lease.bound_ms, lease.valid_until), (200, None));
}

#[tokio::test]
async fn leases_are_looked_for_at_the_leader() {
    let leader = Node::builder().epoch(2).start().await;
    let follower = Node::serving().await;
    follower.script([not_leader_nor_who_is(), not_leader(&leader.address(), 2)]);
    let client = client([follower.address()]);
    client.release_lease(LeaseId(7)).await.unwrap();
    follower.script([Step::ServeWrongly]);
    assert_eq!(client.get_safe_frontier().await.unwrap().physical_ms, 300);
}

#[tokio::test]
async fn a_refusal_without_a_hint_is_final_and_an_earlier_doubt_stays() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    let refusal = || Step::Fail(Status::failed_precondition("superseded"));
    node.script([refusal()]);
    let refused = client.renew_lease(LeaseId(7)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::Refused);
    node.script([Step::Fail(Status::new(Code::NotFound, "none"))]);
    assert_eq!(client.renew_lease(LeaseId(7)).await.unwrap_err().kind(), ErrorKind::NotFound);
    node.script([Step::ServeThenFail(Status::unavailable("lost")), refusal()]);
    let doubtful = client.renew_lease(LeaseId(7)).await.unwrap_err();
    assert_eq!(doubtful.kind(), ErrorKind::Uncertain);
}

#[tokio::test]
async fn what_is_no_holder_is_not_sent() {
    let node = Node::serving().await;
    node.script([Step::Hang]);
    for holder in [vec![], vec![b'h'; 129]] {
        let error = client([node.address()]).acquire_lease(holder, 1, TTL).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid);
    }
}

#[tokio::test]
async fn a_sequence_is_seeded_once_and_a_lost_answer_leaves_a_doubt() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    client.seed_seq("orders", 1_000).await.unwrap();
    let error = client.seed_seq("orders", 1_000).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused);
    node.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    let error = client.seed_seq("invoices", 7).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain, "{error}");
    assert_eq!(client.read_seq("invoices").await.unwrap(), 7);
}

#[tokio::test]
async fn pages_follow_each_other() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    for (key, start) in [("a1", 1), ("b", 9), ("a3", 3), ("a2", 2)] {
        client.seed_seq(key, start).await.unwrap();
    }
    let page = client.list_seqs("a", "").await.unwrap();
    let entries: Vec<_> = page.entries.iter().map(|(key, next)| (key.as_str(), *next)).collect();
    assert_eq!((entries, page.more), (vec![("a1", 1), ("a2", 2)], true));
    let page = client.list_seqs("a", "a2").await.unwrap();
    assert_eq!((page.entries.len(), page.more), (1, false));
    node.script([Step::ServeWrongly]);
    let error = client.list_seqs("", "").await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Protocol, "{error}");
}

#[tokio::test]
async fn a_page_of_nothing_but_keys_out_of_use_is_left_out() {
    let (main, routed) = (Node::serving().await, Node::serving().await);
    let before = client([main.address()]);
    for key in ["a1", "a2", "a3", "b"] {
        before.seed_seq(key, 1).await.unwrap();
    }
    // From now on those that begin with "a" are another oracle's.
    let client = builder([main.address()]).route("a", [routed.address()]).build().unwrap();
    let page = client.list_seqs("", "").await.unwrap();
    let keys: Vec<_> = page.entries.iter().map(|(key, _)| key.as_str()).collect();
    assert_eq!((keys, page.more), (vec!["b"], false));
}
