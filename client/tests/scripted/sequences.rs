//! Exactly once: lost answers, lost sessions, and servers that ignore request ids.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::Semaphore;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tsoracle_client::ErrorKind;
use tsoracle_proto::metadata::{self, SESSION_UNKNOWN};
use tsoracle_proto::v1::RequestId;
use tsoracle_types::ManualClock;

use crate::node::Node;
use crate::step::{Step, not_leader, uncommitted};
use crate::{builder, client};

#[tokio::test]
async fn a_lost_answer_is_asked_for_again_and_is_the_same_block() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([Step::ServeThenHang, Step::ServeThenFail(Status::unavailable("")), Step::Serve]);
    assert_eq!(client.get_seq("orders", 64).await.unwrap().range(), 0..64);
    node.script([Step::ServeThenFail(Status::internal("")), Step::Serve]);
    assert_eq!(client.get_seq("orders", 64).await.unwrap().range(), 64..128);
    assert_eq!(node.executed(), 2);

    let seen = node.seen().sequences;
    let marks: Vec<_> = seen.iter().map(|id| (id.number, id.first_incomplete, id.retry)).collect();
    let unconfirmed = (1, 1, false);
    assert_eq!(marks, [unconfirmed, unconfirmed, unconfirmed, (2, 2, false), (2, 2, true)]);
    assert!(seen.iter().all(|id| id.session == seen[0].session));
}

#[tokio::test]
async fn a_lost_answer_is_asked_for_through_the_next_leader() {
    let first = Node::serving().await;
    let second = Node::builder().beside(&first).epoch(2).start().await;
    let client = client([first.address(), second.address()]);
    first.script([
        Step::ServeThenFail(Status::unavailable("")),
        not_leader(&second.address(), 2),
        not_leader(&second.address(), 2),
    ]);
    assert_eq!(client.get_seq("orders", 64).await.unwrap().range(), 0..64);
    assert_eq!(client.get_seq("orders", 64).await.unwrap().range(), 64..128);
    assert_eq!(first.executed(), 2);
    assert_eq!(second.seen().sequences.len(), 2);
}

#[tokio::test]
async fn a_server_without_sessions_is_not_asked_twice() {
    let node = Node::builder().ignoring_request_ids().start().await;
    let client = client([node.address()]);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    node.script([uncommitted()]);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 4..8);
    assert_eq!(node.seen().sequences.len(), 3, "certainly uncommitted: asked again");

    node.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert!(error.to_string().contains("ignores request ids"), "{error}");
    assert!(error.to_string().contains("number 3"), "{error}");
    node.script([Step::ServeThenHang]);
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert_eq!(node.executed(), 4);
    assert_eq!(node.seen().sequences.len(), 5);
    // One question per connection: the second one was made after the hang.
    assert!(node.seen().probes <= 2);
}

#[tokio::test]
async fn a_server_without_sessions_is_waited_for_though_another_one_leads() {
    let first = Node::builder().ignoring_request_ids().start().await;
    let second = Node::builder().beside(&first).epoch(2).start().await;
    let client = builder([first.address(), second.address()])
        .timeout(Duration::from_secs(600))
        .attempt_timeout(Duration::from_secs(60))
        .build()
        .unwrap();
    let gate = Arc::new(Semaphore::new(0));
    first.script([Step::Await(gate.clone())]);
    let call = tokio::spawn(async move { client.get_seq("orders", 4).await });
    // Its answers tell its epoch: by the third one it is known to lead.
    second.wait_until(|seen| seen.probes >= 3).await;
    gate.add_permits(1);
    assert_eq!(call.await.unwrap().unwrap().range(), 0..4);
    assert_eq!((first.executed(), second.seen().sequences.len()), (1, 0));
}

#[tokio::test]
async fn a_request_that_was_refused_for_its_session_at_once_was_not_carried_out() {
    let node = Node::builder().without_streams().start().await;
    let client = client([node.address()]);
    client.get_seq("orders", 4).await.unwrap();
    let mut trailers = MetadataMap::new();
    metadata::insert_flag(&mut trailers, SESSION_UNKNOWN);
    let unknown = Status::with_metadata(Code::FailedPrecondition, "session unknown", trailers);
    node.script([Step::Fail(unknown)]);
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Refused, "{error}");
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 4..8);
    let seen = node.seen().sequences;
    assert_ne!(seen[2].session, seen[1].session, "the session was replaced");
}

#[tokio::test]
async fn any_answer_tells_whether_a_server_has_sessions() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([Step::Fail(Status::resource_exhausted("busy"))]);
    client.get_ts().await.unwrap_err();
    client.get_seq("orders", 4).await.unwrap();
    assert_eq!(node.seen().probes, 0, "the refusal has shown it already");
}

#[tokio::test]
async fn a_request_is_not_resent_to_a_server_without_sessions() {
    let ours = Node::serving().await;
    let public = Node::builder().ignoring_request_ids().start().await;
    let client = client([ours.address(), public.address()]);
    ours.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert_eq!(public.executed(), 0);
}

#[tokio::test]
async fn a_session_that_was_lost_is_reported_and_replaced() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    client.get_seq("orders", 4).await.unwrap();
    let shared = node.shared();
    node.script([Step::Hang, Step::Serve]);
    let call = tokio::spawn({
        let client = client.clone();
        async move { client.get_seq("orders", 4).await }
    });
    node.wait_until(|seen| seen.sequences.len() == 2).await;
    shared.lock().unwrap().sessions.clear();
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert!(error.to_string().contains("session"), "{error}");

    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 4..8);
    let seen = node.seen().sequences;
    assert!(seen[2].retry && seen[2].session == seen[0].session);
    assert_ne!(seen[3].session, seen[0].session);
    assert_eq!((seen[3].number, seen[3].retry), (1, false));
}

#[tokio::test]
async fn a_refusal_after_a_lost_answer_tells_nothing() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([
        Step::ServeThenFail(Status::unavailable("lost")),
        Step::Fail(Status::resource_exhausted("busy")),
        Step::Serve,
    ]);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4, "busy is waited out");
    node.script([
        Step::ServeThenFail(Status::unavailable("lost")),
        Step::Fail(Status::permission_denied("who are you")),
    ]);
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert_eq!(node.executed(), 2);
}

#[tokio::test]
async fn what_stays_unanswered_until_the_deadline_is_uncertain() {
    let node = Node::builder().otherwise(Step::Hang).start().await;
    let client = builder([node.address()]).timeout(Duration::from_millis(800)).build().unwrap();
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert!(error.to_string().contains("orders"), "{error}");
    assert!(node.seen().sequences.len() > 1, "it was asked again meanwhile");
}

#[tokio::test]
async fn a_request_is_not_resent_after_half_the_retention() {
    let clock = ManualClock::new(1_700_000_000_000);
    let node = Node::serving().await;
    let client = builder([node.address()]).clock(Arc::new(clock.clone())).build().unwrap();
    node.script([Step::ServeThenHang]);
    let call = tokio::spawn(async move { client.get_seq("orders", 4).await });
    node.wait_until(|seen| seen.sequences.len() == 1).await;
    clock.advance(Duration::from_secs(300));
    let error = call.await.unwrap().unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    assert_eq!(node.seen().sequences.len(), 1);
}

#[tokio::test]
async fn an_answer_that_breaks_the_protocol_leaves_the_block_spent() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([Step::ServeWrongly, Step::ServeWrongly]);
    let error = client.get_seq("orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
    let error = client.get_seq_batch(&[("a", 1), ("b", 2)]).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain);
}

#[tokio::test]
async fn a_dropped_call_is_not_awaited_any_more() {
    let node = Node::builder().without_streams().start().await;
    let client = client([node.address()]);
    node.script([Step::Hang]);
    let dropped = tokio::spawn({
        let client = client.clone();
        async move { client.get_seq("orders", 4).await }
    });
    node.wait_until(|seen| seen.sequences.len() == 1).await;
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    dropped.abort();
    assert!(dropped.await.unwrap_err().is_cancelled());
    client.get_seq("orders", 4).await.unwrap();
    let seen = node.seen().sequences;
    let numbers: Vec<_> = seen.iter().map(|id| (id.number, id.first_incomplete)).collect();
    assert_eq!(numbers, [(1, 1), (2, 1), (3, 3)]);
}

#[tokio::test]
async fn batches_come_in_order_and_exactly_once() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    let blocks = client.get_seq_batch(&[("b", 2), ("a", 3)]).await.unwrap();
    let blocks: Vec<_> = blocks.iter().map(|block| (block.key.as_str(), block.range())).collect();
    assert_eq!(blocks, [("b", 0..2), ("a", 0..3)]);
    assert_eq!(node.executed(), 1);
}

#[tokio::test]
async fn a_request_id_of_the_callers_own_gives_the_same_block_to_any_client() {
    let node = Node::serving().await;
    let (one, other) = (client([node.address()]), client([node.address()]));
    assert_eq!(one.get_seq_as("order 17", "orders", 4).await.unwrap().range(), 0..4);
    assert_eq!(other.get_seq_as("order 18", "orders", 4).await.unwrap().range(), 4..8);
    node.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    assert_eq!(other.get_seq_as("order 17", "orders", 4).await.unwrap().range(), 0..4);
    let expected = ["order 17", "order 18", "order 17", "order 17"];
    let named = |name: &str| RequestId { name: name.into(), ..RequestId::default() };
    assert_eq!(node.seen().sequences, expected.map(named), "the name alone, and no session");
    for wrong in [String::new(), "n".repeat(129)] {
        let error = other.get_seq_as(wrong, "orders", 4).await.unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Invalid, "{error}");
    }

    let public = Node::builder().ignoring_request_ids().start().await;
    let error = client([public.address()]).get_seq_as("order 17", "orders", 4).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Unimplemented);
    assert_eq!(public.executed(), 0);
}

#[tokio::test]
async fn a_deleted_sequence_begins_anew() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    assert_eq!(client.delete_seq("orders").await.unwrap_err().kind(), ErrorKind::NotFound);
    client.get_seq("orders", 4).await.unwrap();
    assert_eq!(client.delete_seq("orders").await.unwrap(), 4);
    assert_eq!(client.get_seq("orders", 4).await.unwrap().range(), 0..4);
    // An answer that was lost may have been that it is gone.
    node.script([Step::ServeThenFail(Status::unavailable("lost"))]);
    assert_eq!(client.delete_seq("orders").await.unwrap_err().kind(), ErrorKind::Uncertain);
}

#[tokio::test]
async fn reading_grants_nothing() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    assert_eq!(client.read_seq("orders").await.unwrap_err().kind(), ErrorKind::NotFound);
    client.get_seq("orders", 4).await.unwrap();
    assert_eq!(client.read_seq("orders").await.unwrap(), 4);
    assert_eq!(node.executed(), 1);
}

#[tokio::test]
async fn closing_ends_the_session() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    client.clone().close().await;
    client.get_seq("orders", 4).await.unwrap();
    client.clone().close().await;
    let seen = node.seen();
    assert_eq!(seen.closes.len(), 1, "there was nothing to close the first time");
    assert_eq!(seen.closes[0].session, seen.sequences[0].session);
    client.get_seq("orders", 4).await.unwrap();
    assert_ne!(node.seen().sequences[1].session, seen.sequences[0].session);
}

#[tokio::test]
async fn many_callers_share_a_client() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    let calls = (0..200).map(|_| {
        let client = client.clone();
        tokio::spawn(async move { client.get_seq("orders", 3).await.unwrap().range() })
    });
    let mut starts = Vec::new();
    for call in calls.collect::<Vec<_>>() {
        starts.push(call.await.unwrap().start);
    }
    starts.sort_unstable();
    assert_eq!(starts, (0..200).map(|n| n * 3).collect::<Vec<_>>());
}

#[tokio::test]
async fn whatever_fails_each_value_is_granted_once() {
    const CALLERS: usize = 8;
    const CALLS: usize = 25;
    let first = Node::serving().await;
    let second = Node::builder().beside(&first).start().await;
    let lost = || Step::ServeThenFail(Status::unavailable("lost"));
    let failed = || Step::Fail(Status::internal("failed"));
    for round in 0..12 {
        first.script([Step::Serve, lost(), uncommitted(), failed(), Step::ServeThenBreak, lost()]);
        second.script([failed(), lost(), Step::Break, not_leader(&first.address(), 1), lost()]);
        if round % 4 == 0 {
            first.script([Step::Hang, Step::ServeThenHang]);
            second.script([Step::ServeThenHang]);
        }
    }
    let client = client([first.address(), second.address()]);
    let caller = |_| {
        let client = client.clone();
        tokio::spawn(async move {
            let mut starts = Vec::new();
            for _ in 0..CALLS {
                starts.push(client.get_seq("orders", 3).await.unwrap().start);
            }
            starts
        })
    };
    let mut starts = Vec::new();
    for caller in (0..CALLERS).map(caller).collect::<Vec<_>>() {
        starts.extend(caller.await.unwrap());
    }
    starts.sort_unstable();
    let calls = CALLERS * CALLS;
    assert_eq!(starts, (0..calls as u64).map(|n| n * 3).collect::<Vec<_>>());
    assert_eq!(first.executed(), calls);
    let attempts = first.seen().sequences.len() + second.seen().sequences.len();
    assert!(attempts > calls, "the failures were met");
}
