//! Batched calls.

use std::collections::BTreeSet;
use std::future::Future;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};
use std::time::Duration;

use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tonic::Status;
use tsoracle_client::{Client, ErrorKind, Result, Timestamp};
use tsoracle_types::on_one_line;

use crate::node::Node;
use crate::step::{Step, not_leader, not_leader_nor_who_is};
use crate::{builder, client};

/// More than this many batches are never on their way at once.
const MAX_IN_FLIGHT: usize = 8;

fn with_long_attempts(node: &Node) -> Client {
    builder([node.address()]).attempt_timeout(Duration::from_secs(20)).build().unwrap()
}

fn ask(client: &Client) -> JoinHandle<Result<Timestamp>> {
    let client = client.clone();
    tokio::spawn(async move { client.get_ts().await })
}

fn ask_seq(client: &Client) -> JoinHandle<Result<u64>> {
    let client = client.clone();
    tokio::spawn(async move { Ok(client.get_seq("orders", 3).await?.start) })
}

async fn all<T>(asked: impl IntoIterator<Item = JoinHandle<Result<T>>>) -> Vec<T> {
    let mut got = Vec::new();
    // All have begun before the first one is waited for.
    for asked in asked.into_iter().collect::<Vec<_>>() {
        got.push(asked.await.unwrap().unwrap());
    }
    got
}

/// Lets everything run that can.
async fn settle() {
    for _ in 0..1_000 {
        tokio::task::yield_now().await;
    }
}

fn gate() -> (Arc<Semaphore>, Step) {
    let gate = Arc::new(Semaphore::new(0));
    (gate.clone(), Step::Await(gate))
}

#[tokio::test]
async fn callers_behind_a_request_go_together() {
    let node = Node::serving().await;
    let client = with_long_attempts(&node);
    let before = client.get_ts().await.unwrap();
    let (gate, held) = gate();
    node.script([held]);
    let first = ask(&client);
    node.wait_until(|seen| seen.timestamps == 2).await;
    let rest: Vec<_> = (0..1_000).map(|_| ask(&client)).collect();
    settle().await;
    gate.add_permits(1);
    let first = first.await.unwrap().unwrap();
    let got: BTreeSet<_> = all(rest).await.into_iter().collect();
    assert_eq!(got.len(), 1_000, "each got a timestamp of its own");
    assert!(before < first && first < *got.first().unwrap());
    let counts = node.seen().counts;
    assert!(counts.len() <= 2 + MAX_IN_FLIGHT + 1, "{counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), 1_002, "and nothing was asked for in advance");
    assert_eq!(node.seen().streams, 1);
}

#[tokio::test]
async fn callers_who_want_many_go_along() {
    let node = Node::serving().await;
    let client = with_long_attempts(&node);
    client.get_ts().await.unwrap();
    let (gate, held) = gate();
    node.script([held]);
    let first = ask(&client);
    node.wait_until(|seen| seen.timestamps == 2).await;
    let rest: Vec<_> = (1..=100)
        .map(|count| {
            let client = client.clone();
            tokio::spawn(async move { client.get_ts_batch(count).await })
        })
        .collect();
    settle().await;
    gate.add_permits(1);
    first.await.unwrap().unwrap();
    let ranges = all(rest).await;
    assert!((1..=100).eq(ranges.iter().map(|range| range.count())));
    let got: BTreeSet<_> = ranges.into_iter().flatten().collect();
    assert_eq!(got.len(), 5_050, "no caller got another's");
    let counts = node.seen().counts;
    assert!(counts.len() <= 2 + MAX_IN_FLIGHT + 1, "{counts:?}");
    assert_eq!(counts.iter().sum::<u32>(), 5_052, "and nothing was asked for in advance");
}

#[tokio::test]
async fn a_lone_caller_is_not_kept_waiting_for_others() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    for _ in 0..100 {
        client.get_ts().await.unwrap();
        client.get_seq("orders", 3).await.unwrap();
    }
    assert_eq!(node.seen().counts, [1; 100]);
    assert_eq!(node.seen().messages, [1; 100]);
}

#[tokio::test]
async fn whoever_gives_up_before_the_sending_spends_nothing() {
    let node = Node::serving().await;
    let client = with_long_attempts(&node);
    client.get_seq("orders", 3).await.unwrap();
    let (gate, held) = gate();
    node.script([held]);
    let first = ask_seq(&client);
    node.wait_until(|seen| seen.sequences.len() == 2).await;
    // As many batches as may be on their way at once, each larger than those before it together, and then
    // those that wait.
    let mut sent = vec![];
    for batch in 1..MAX_IN_FLIGHT {
        sent.extend((0..1 << batch).map(|_| ask_seq(&client)));
        settle().await;
    }
    let asked = 2 + sent.len();
    let queued: Vec<_> = (0..50).map(|_| ask_seq(&client)).collect();
    let stays = ask_seq(&client);
    settle().await;
    queued.iter().for_each(JoinHandle::abort);
    settle().await;
    gate.add_permits(1);
    assert_eq!(first.await.unwrap().unwrap(), 3);
    all(sent).await;
    stays.await.unwrap().unwrap();
    assert_eq!(node.executed(), asked + 1);
}

#[tokio::test]
async fn places_that_were_given_up_are_used_again() {
    let node = Node::serving().await;
    let client = with_long_attempts(&node);
    client.get_ts().await.unwrap();
    let (gate, held) = gate();
    node.script([held]);
    let first = ask(&client);
    node.wait_until(|seen| seen.timestamps == 2).await;
    let mut sent = vec![];
    for _ in 0..MAX_IN_FLIGHT {
        sent.push(ask(&client));
        settle().await;
    }
    for _ in 0..100 {
        let impatient = ask(&client);
        tokio::task::yield_now().await;
        impatient.abort();
        tokio::task::yield_now().await;
    }
    let last = ask(&client);
    settle().await;
    gate.add_permits(1);
    first.await.unwrap().unwrap();
    all(sent).await;
    last.await.unwrap().unwrap();
    let asked: u32 = node.seen().counts.iter().sum();
    assert!(asked as usize <= 2 + MAX_IN_FLIGHT + 2, "{asked}");
}

#[tokio::test]
async fn a_stream_that_breaks_is_asked_again() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    node.script([Step::Serve, Step::Break, Step::Serve, Step::ServeThenBreak]);
    for _ in 0..5 {
        let got: BTreeSet<_> = all((0..100).map(|_| ask(&client))).await.into_iter().collect();
        assert_eq!(got.len(), 100);
    }
    assert!(node.seen().streams >= 3, "it was broken twice");
}

/// A server of now, and one that was made before runs were.
async fn with_and_without_runs() -> [Node; 2] {
    [Node::serving().await, Node::builder().without_runs().start().await]
}

#[tokio::test]
async fn new_requests_go_as_a_run_to_a_server_that_takes_runs() {
    for (node, takes_runs) in with_and_without_runs().await.into_iter().zip([true, false]) {
        let client = client([node.address()]);
        client.get_seq("orders", 3).await.unwrap();
        let (one, other) = tokio::join!(client.get_seq("orders", 3), client.get_seq("ordérs", 2));
        assert_eq!((one.unwrap().range(), other.unwrap().range()), (3..6, 0..2));
        let mut starts = all((0..100).map(|_| ask_seq(&client))).await;
        starts.sort_unstable();
        assert_eq!(starts, (2..102).map(|n| n * 3).collect::<Vec<_>>());
        let seen = node.seen();
        assert_eq!(seen.in_runs, if takes_runs { 102 } else { 0 });
        assert!(!seen.messages.contains(&0), "a run went to a server that takes none: {seen:?}");
        let mut numbers: Vec<_> = seen.sequences.iter().map(|id| id.number).collect();
        numbers.sort_unstable();
        assert_eq!(numbers, (1..=103).collect::<Vec<_>>());
        assert!(
            seen.sequences.last().unwrap().first_incomplete > 1,
            "answers are not kept for ever"
        );
    }
}

#[tokio::test]
async fn sequences_are_exactly_once_over_streams_that_break() {
    for node in with_and_without_runs().await {
        exactly_once_over_streams_that_break(&node).await;
    }
}

async fn exactly_once_over_streams_that_break(node: &Node) {
    let client = client([node.address()]);
    for _ in 0..20 {
        node.script([Step::Serve, Step::ServeThenBreak, Step::Serve, Step::Serve, Step::Break]);
    }
    let mut starts = all((0..200).map(|_| ask_seq(&client))).await;
    starts.sort_unstable();
    assert_eq!(starts, (0..200).map(|n| n * 3).collect::<Vec<_>>());
    assert_eq!(node.executed(), 200);
    assert!(node.seen().streams > 20);
}

#[tokio::test]
async fn what_breaks_with_its_stream_is_uncertain_only_if_it_was_sent() {
    let denied = || Step::Fail(Status::permission_denied("who are you"));
    let node = Node::serving().await;
    let client = client([node.address()]);
    client.get_seq("orders", 3).await.unwrap();
    node.script([Step::ServeThenBreak, denied()]);
    let error = client.get_seq("orders", 3).await.unwrap_err();
    assert_eq!(error.kind(), ErrorKind::Uncertain, "{error}");
    let id = node.seen().sequences.last().unwrap().clone();
    assert!(id.retry && id.number == 2, "it was sent again under its number: {id:?}");

    let client = with_long_attempts(&node);
    client.get_seq("orders", 3).await.unwrap();
    let gate = Arc::new(Semaphore::new(0));
    node.script([Step::AwaitThenBreak(gate.clone())]);
    let asked = node.seen().sequences.len();
    let first = ask_seq(&client);
    node.wait_until(|seen| seen.sequences.len() == asked + 1).await;
    let mut sent = vec![];
    for _ in 0..MAX_IN_FLIGHT {
        sent.push(ask_seq(&client));
        settle().await;
    }
    let queued = ask_seq(&client);
    settle().await;
    node.script(vec![denied(); 100]);
    gate.add_permits(1);
    let first = first.await.unwrap().unwrap_err();
    assert_eq!(first.kind(), ErrorKind::Uncertain, "{first}");
    let queued = queued.await.unwrap().unwrap_err();
    assert_eq!(queued.kind(), ErrorKind::Denied, "it had never been sent: {queued}");
}

#[tokio::test]
async fn a_leader_change_takes_everyone_along() {
    for first in with_and_without_runs().await {
        leader_change_takes_everyone_along(first).await;
    }
}

async fn leader_change_takes_everyone_along(first: Node) {
    let second = Node::builder().beside(&first).epoch(2).start().await;
    let client = client([first.address(), second.address()]);
    client.get_ts().await.unwrap();
    client.get_seq("orders", 3).await.unwrap();
    first.script(vec![not_leader(&second.address(), 2); 1_000]);
    let timestamps: BTreeSet<_> = all((0..200).map(|_| ask(&client))).await.into_iter().collect();
    assert_eq!(timestamps.len(), 200);
    let mut starts = all((0..200).map(|_| ask_seq(&client))).await;
    starts.sort_unstable();
    assert_eq!(starts, (1..201).map(|n| n * 3).collect::<Vec<_>>());
    assert_eq!(first.executed(), 201);
    let before = first.seen().timestamps;
    client.get_ts().await.unwrap();
    assert_eq!(first.seen().timestamps, before, "the former leader is asked no more");
}

#[tokio::test]
async fn elections_are_ridden_out_together() {
    let node = Node::serving().await;
    let client = client([node.address()]);
    client.get_ts().await.unwrap();
    node.script(vec![Step::Fail(Status::failed_precondition("not leader")); 3]);
    all((0..50).map(|_| ask(&client))).await;
    node.script(vec![not_leader_nor_who_is(); 60]);
    let mut starts = all((0..50).map(|_| ask_seq(&client))).await;
    starts.sort_unstable();
    assert_eq!(starts, (0..50).map(|n| n * 3).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_without_streams_is_asked_for_one_once() {
    let node = Node::builder().without_streams().start().await;
    let client = client([node.address()]);
    for _ in 0..10 {
        client.get_ts().await.unwrap();
    }
    assert_eq!((node.seen().timestamps, node.seen().refused_streams), (10, 1));
    for _ in 0..10 {
        client.get_seq("orders", 3).await.unwrap();
    }
    assert_eq!((node.executed(), node.seen().refused_streams), (10, 1));
    assert_eq!(node.seen().connections, 1);
}

#[tokio::test]
async fn streams_can_be_done_without() {
    let node = Node::serving().await;
    let client = builder([node.address()]).unary(true).build().unwrap();
    client.get_ts().await.unwrap();
    client.get_seq("orders", 3).await.unwrap();
    let seen = node.seen();
    assert_eq!((seen.streams, seen.timestamps, seen.sequences.len()), (0, 1, 1));
}

#[tokio::test]
async fn every_deadline_in_a_batch_is_its_callers_own() {
    let node = Node::serving().await;
    let client = with_long_attempts(&node);
    client.get_ts().await.unwrap();
    let (gate, held) = gate();
    node.script([held]);
    let long = ask(&client);
    node.wait_until(|seen| seen.timestamps == 2).await;
    let longer = ask(&client);
    settle().await;
    let short = client.with_timeout(Duration::from_millis(30));
    for short in [ask(&short), ask(&short)] {
        let error = short.await.unwrap().unwrap_err();
        assert_eq!(error.kind(), ErrorKind::Timeout, "{error}");
    }
    assert!(!long.is_finished() && !longer.is_finished());
    gate.add_permits(1);
    assert!(long.await.unwrap().unwrap() < longer.await.unwrap().unwrap());
    assert_eq!(node.seen().streams, 1, "the stream was given up while callers waited on it");
}

#[tokio::test]
async fn too_many_waiters_are_told_so() {
    const MOST: usize = 65_536;
    let node = Node::serving().await;
    let client = with_long_attempts(&node);
    client.get_ts().await.unwrap();
    let (gate, held) = gate();
    node.script([held]);
    let mut context = Context::from_waker(Waker::noop());
    let mut asked: Vec<_> = (0..MOST).map(|_| Box::pin(client.get_ts())).collect();
    for asked in &mut asked {
        assert!(asked.as_mut().poll(&mut context).is_pending());
    }
    let Poll::Ready(Err(error)) = Box::pin(client.get_ts()).as_mut().poll(&mut context) else {
        panic!("it waits");
    };
    assert_eq!(error.kind(), ErrorKind::Exhausted);
    assert!(on_one_line(&error).contains("65536 callers"), "{error:?}");
    asked.pop();
    let next = ask(&client);
    settle().await;
    drop(asked);
    gate.add_permits(1);
    next.await.unwrap().unwrap();
}
