//! Finding the leader, and calls while there is none.

use std::error::Error as _;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::Status;
use tsoracle_client::{Client, Epoch, ErrorKind};
use tsoracle_types::on_one_line;

use crate::node::Node;
use crate::step::{Step, not_leader, not_leader_nor_who_is, uncommitted};
use crate::{Balancer, black_hole, builder, client, closed_address};

#[tokio::test]
async fn a_hint_is_followed_and_the_leader_remembered() {
    let leader = Node::builder().epoch(5).start().await;
    let follower = Node::builder().otherwise(not_leader(&leader.address(), 5)).start().await;
    let client = client([follower.address()]);
    let first = client.get_ts().await.unwrap();
    let second = client.get_ts().await.unwrap();
    assert!(first < second);
    assert_eq!(follower.seen().timestamps, 1, "the second call knows the leader");
    assert_eq!(leader.seen().timestamps, 2);
}

#[tokio::test]
async fn a_hint_below_an_epoch_that_served_is_not_followed() {
    let stale = Node::serving().await;
    let node = Node::builder().epoch(5).start().await;
    let client = client([node.address()]);
    client.get_ts().await.unwrap();
    node.script([not_leader(&stale.address(), 4), Step::Serve]);
    client.get_ts().await.unwrap();
    assert_eq!(stale.seen().timestamps, 0);
    node.script([not_leader(&stale.address(), 5)]);
    client.get_ts().await.unwrap();
    assert_eq!(stale.seen().timestamps, 1, "one of the same epoch is");
}

#[tokio::test]
async fn a_leader_that_refused_is_not_asked_first_any_more() {
    let former = Node::builder().epoch(5).start().await;
    let other = Node::builder().epoch(4).start().await;
    let client = client([other.address(), former.address()]);
    other.script([not_leader(&former.address(), 5)]);
    client.get_ts().await.unwrap();
    former.script([not_leader_nor_who_is()]);
    client.get_ts().await.unwrap();
    client.get_ts().await.unwrap();
    assert_eq!((former.seen().timestamps, other.seen().timestamps), (2, 3));
}

#[tokio::test]
async fn elections_are_ridden_out() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    // A server says so to a request for timestamps without a trailer, to others with an empty one.
    node.script(vec![Step::Fail(Status::failed_precondition("not leader")); 5]);
    client.get_ts().await.unwrap();
    assert_eq!(node.seen().timestamps, 6);
    node.script(vec![not_leader_nor_who_is(); 5]);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    node.script([not_leader_nor_who_is(), uncommitted()]);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 4..8);
    assert_eq!(node.executed(), 2);
}

#[tokio::test]
async fn nodes_that_point_at_each_other_do_not_hide_a_third() {
    let third = Node::builder().epoch(7).start().await;
    let (first, second) = (Node::serving().await, Node::serving().await);
    first.script(vec![not_leader(&second.address(), 6); 9]);
    second.script(vec![not_leader(&first.address(), 6); 9]);
    let client = client([first.address(), second.address(), third.address()]);
    client.get_ts().await.unwrap();
    assert_eq!(third.seen().timestamps, 1);
}

/// As behind a balancer that follows health: old connections stay where they are.
#[tokio::test]
async fn an_endpoint_is_a_name_and_not_a_node() {
    let leader = Node::builder().epoch(6).start().await;
    let follower = Node::builder().epoch(5).start().await;
    let balancer = Balancer::to(follower.address).await;
    let client = client([balancer.address.to_string()]);
    client.get_ts().await.unwrap();
    client.get_seq("orders", 1).await.unwrap();
    // It leads no more. Whom it names, this client cannot reach.
    let unusable = not_leader(&closed_address().await, 6);
    follower.script(vec![unusable; 100]);
    balancer.point_to(leader.address);
    client.get_ts().await.unwrap();
    client.get_seq("orders", 1).await.unwrap();
    assert!(follower.seen().timestamps < 10, "{:?}", follower.seen());
    // The same with an answer that has no hint.
    leader.script(vec![not_leader_nor_who_is(); 100]);
    let next = Node::builder().epoch(7).start().await;
    balancer.point_to(next.address);
    client.get_seq("orders", 1).await.unwrap();
    client.get_ts().await.unwrap();
}

#[tokio::test]
async fn an_endpoint_without_the_method_is_passed_over() {
    let node = Node::serving().await;
    let stranger = Step::Fail(Status::unimplemented("no such method"));
    let other = Node::builder().otherwise(stranger.clone()).start().await;
    let client = client([other.address(), node.address()]);
    client.get_ts().await.unwrap();
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    // Unless no endpoint has it.
    node.script([stranger]);
    let alone = crate::client([other.address()]);
    let error = alone.get_ts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented, "{error}");
}

#[tokio::test]
async fn a_refused_connection_leads_to_the_next_endpoint() {
    let node = Node::serving().await;
    let client = Client::connect([closed_address().await, node.address()]).await.unwrap();
    client.get_ts().await.unwrap();
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
}

#[tokio::test]
async fn a_black_hole_leads_to_the_next_endpoint() {
    let node = Node::serving().await;
    let client = client([black_hole().await.to_string(), node.address()]);
    client.get_ts().await.unwrap();
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
}

#[tokio::test]
async fn a_black_hole_leaves_time_for_the_next_endpoint_however_long_attempts_may_take() {
    let node = Node::serving().await;
    let builder = builder([black_hole().await.to_string(), node.address()]);
    let client = builder.attempt_timeout(Duration::from_secs(3_600)).build().unwrap();
    client.with_timeout(Duration::from_secs(2)).get_ts().await.unwrap();
}

#[tokio::test]
async fn connections_are_shared_and_made_anew_when_silent() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    for _ in 0..10 {
        client.clone().get_ts().await.unwrap();
        node.script([not_leader_nor_who_is()]);
        client.get_seq("orders", 1).await.unwrap();
    }
    assert_eq!(node.seen().connections, 1);
    node.script([Step::Hang]);
    client.get_ts().await.unwrap();
    assert_eq!(node.seen().connections, 2);
}

#[tokio::test]
async fn a_leader_that_dies_is_left() {
    let first = Node::serving().await;
    let second = Node::builder().beside(&first).epoch(2).start().await;
    let client = client([first.address(), second.address()]);
    let before = client.get_ts().await.unwrap();
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    assert_eq!(second.seen().timestamps, 0);
    drop(first);
    assert!(client.get_ts().await.unwrap() > before);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 4..8);
}

#[tokio::test]
async fn a_leader_that_stands_still_is_left_once_another_one_leads() {
    let first = Node::serving().await;
    let second = Node::builder().beside(&first).epoch(2).start().await;
    // Attempts end long after this test has failed.
    let client = builder([first.address(), second.address()])
        .timeout(Duration::from_secs(600))
        .attempt_timeout(Duration::from_secs(60));
    for client in [client.clone().build().unwrap(), client.unary(true).build().unwrap()] {
        first.script([Step::Hang]);
        client.get_ts().await.unwrap();
        // From now on the other one is asked.
        client.get_seq("orders", 4).await.unwrap();
        assert_eq!(first.seen().sequences.len(), 0);
    }
    assert_eq!(second.seen().sequences.len(), 2);
}

#[tokio::test]
async fn a_sequence_request_is_sent_again_to_a_leader_that_has_replaced_a_silent_one() {
    let first = Node::serving().await;
    let second = Node::builder().beside(&first).epoch(2).start().await;
    let client = builder([first.address(), second.address()])
        .timeout(Duration::from_secs(600))
        .attempt_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    first.script([Step::ServeThenHang]);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 4..8);
    assert_eq!(first.executed(), 2, "the first request was carried out once");
}

#[tokio::test]
async fn a_leader_that_is_slow_is_waited_for_while_nobody_else_leads() {
    let slow = Node::builder().epoch(5).start().await;
    let former = Node::builder().beside(&slow).epoch(4).start().await;
    let follower = Node::builder().otherwise(not_leader_nor_who_is()).start().await;
    let client = builder([slow.address(), former.address(), follower.address()])
        .timeout(Duration::from_secs(600))
        .attempt_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    client.get_ts().await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    slow.script([Step::Await(gate.clone())]);
    let waiting = tokio::spawn(async move { client.get_ts().await });
    former.wait_until(|seen| seen.probes >= 3).await;
    follower.wait_until(|seen| seen.probes >= 3).await;
    gate.add_permits(1);
    waiting.await.unwrap().unwrap();
    assert_eq!((slow.seen().timestamps, former.seen().timestamps), (2, 0));
}

#[tokio::test]
async fn a_server_that_starts_late_is_waited_for() {
    let address = closed_address().await;
    let call = tokio::spawn({
        let client = client([address.clone()]);
        async move { client.get_ts().await }
    });
    let connect = tokio::spawn(builder([address.clone()]).connect());
    let node = Node::builder().start_at(&address).await;
    call.await.unwrap().unwrap();
    connect.await.unwrap().unwrap();
    drop(node);
}

#[tokio::test]
async fn the_deadline_covers_connecting_and_the_error_says_what_was_tried() {
    let (closed, hole) = (closed_address().await, black_hole().await.to_string());
    let short = Duration::from_secs(1);
    let refused = builder([closed.clone()]).timeout(short).build().unwrap();
    let error = refused.get_ts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);
    let line = on_one_line(&error);
    assert!(line.contains(&closed) && line.contains("refused"), "{line}");
    let error = builder([closed]).timeout(short).connect().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unavailable);

    let silent = builder([hole.clone()]).timeout(short).build().unwrap();
    let error = silent.get_ts().await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Timeout);
    assert!(on_one_line(&error).contains(&hole), "{error:?}");
    // Nothing but a harmless question was sent, so this is not `Uncertain`.
    assert_eq!(silent.get_seq("orders", 1).await.unwrap_err().kind(), ErrorKind::Timeout);
}

#[tokio::test]
async fn definite_refusals_are_not_retried() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    let table = [
        (Status::invalid_argument("no"), ErrorKind::Invalid),
        (Status::resource_exhausted("no"), ErrorKind::Exhausted),
        (Status::out_of_range("no"), ErrorKind::Refused),
        (Status::unimplemented("no"), ErrorKind::Unimplemented),
        (Status::unauthenticated("no"), ErrorKind::Denied),
    ];
    for (status, kind) in table {
        node.script([Step::Fail(status.clone())]);
        let error = client.get_ts().await.unwrap_err();
        assert_eq!(error.kind(), kind);
        assert!(error.to_string().ends_with(&node.address()), "{error}");
        assert_eq!(error.source().unwrap().to_string(), "no");
        node.script([Step::Fail(status)]);
        assert_eq!(client.get_seq("orders", 1).await.unwrap_err().kind(), kind);
    }
    node.script([Step::Fail(Status::failed_precondition("overflow"))]);
    assert_eq!(client.get_seq("orders", 1).await.unwrap_err().kind(), ErrorKind::Refused);
    node.script([Step::ServeWrongly]);
    assert_eq!(client.get_ts_batch(2).await.unwrap_err().kind(), ErrorKind::Protocol);
}

#[tokio::test]
async fn timestamps_are_asked_for_again_after_any_failure_of_an_attempt() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([
        Step::Fail(Status::unavailable("")),
        Step::Fail(Status::internal("")),
        Step::Fail(Status::unknown("")),
        Step::ServeThenHang,
    ]);
    let range = client.get_ts_batch(100).await.unwrap();
    assert_eq!(range.into_iter().count(), 100);
    assert_eq!(node.seen().timestamps, 5);
}

#[tokio::test]
async fn the_max_safe_time_is_the_leaders() {
    let leader = Node::builder().epoch(3).start().await;
    let follower = Node::builder().otherwise(not_leader_nor_who_is()).start().await;
    let max_safe =
        client([follower.address(), leader.address()]).get_current_max_safe().await.unwrap();
    assert_eq!((max_safe.physical_ms, max_safe.epoch), (1_000, Epoch(3)));
}

#[tokio::test]
async fn arguments_and_options_are_checked_before_anything_is_sent() {
    let client = client([closed_address().await]);
    assert_eq!(client.get_ts_batch(0).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.get_ts_batch(262_145).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.get_seq("", 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.get_seq("k".repeat(129), 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.get_seq("k", 0).await.unwrap_err().kind(), ErrorKind::Invalid);
    assert_eq!(client.get_seq_as("", "k", 1).await.unwrap_err().kind(), ErrorKind::Invalid);
    let none: [(&str, u32); 0] = [];
    assert_eq!(client.get_seq_batch(&none).await.unwrap_err().kind(), ErrorKind::Invalid);
    let twice = [("k", 1), ("k", 2)];
    assert_eq!(client.get_seq_batch(&twice).await.unwrap_err().kind(), ErrorKind::Invalid);

    let nowhere = Client::builder().build().unwrap_err();
    assert_eq!(nowhere.kind(), ErrorKind::Config);
    for endpoint in ["https://a:1", "a:b", "", "a:1/path"] {
        let error = Client::builder().endpoints([endpoint]).build().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Config);
    }
    let hasty = Client::builder().endpoints(["a:1"]).timeout(Duration::ZERO).build();
    assert_eq!(hasty.unwrap_err().kind(), ErrorKind::Config);
}
