//! Streams of requests and answers.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status, Streaming, transport::Channel};
use tsoracle_core::{Epoch, LeaderHint, Leadership, OracleOptions, Phase};
use tsoracle_proto::{
    metadata,
    v1::{self, tso_service_client::TsoServiceClient},
};
use tsoracle_server::{Limits, Server};

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    memory,
    raw::Connection,
};

/// A stream of a client's: what it sends, and what comes.
struct Stream<Q, A> {
    requests: mpsc::UnboundedSender<Q>,
    answers: Streaming<A>,
}

impl<Q, A> Stream<Q, A> {
    fn send(&self, request: Q) {
        let _ = self.requests.send(request);
    }

    async fn next(&mut self) -> A {
        self.answers.message().await.expect("an answer").expect("one more")
    }

    async fn status(&mut self) -> Status {
        match self.answers.message().await {
            Err(status) => status,
            Ok(answer) => panic!("an answer instead of a status: {}", answer.is_some()),
        }
    }
}

type Timestamps = Stream<v1::GetTsRequest, v1::GetTsResponse>;
type Sequences = Stream<v1::StreamSeqRequest, v1::StreamSeqResponse>;

async fn timestamps(server: &Running, timeout: Option<Duration>) -> Timestamps {
    timestamps_over(server.channel().await, timeout).await
}

async fn timestamps_over(channel: Channel, timeout: Option<Duration>) -> Timestamps {
    let (requests, sent) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(sent));
    if let Some(timeout) = timeout {
        request.set_timeout(timeout);
    }
    let answers = TsoServiceClient::new(channel).stream_ts(request).await.expect("a stream");
    assert!(metadata::has_flag(answers.metadata(), metadata::SESSIONS));
    Stream { requests, answers: answers.into_inner() }
}

async fn sequences(server: &Running) -> Sequences {
    let (requests, sent) = mpsc::unbounded_channel();
    let sent = UnboundedReceiverStream::new(sent);
    let answers = server.tso().await.stream_seq(sent).await.expect("a stream");
    assert!(metadata::has_flag(answers.metadata(), metadata::SESSIONS));
    Stream { requests, answers: answers.into_inner() }
}

fn ts(count: u32) -> v1::GetTsRequest {
    v1::GetTsRequest { count }
}

fn seq(key: &str, count: u32) -> v1::GetSeqRequest {
    v1::GetSeqRequest { key: key.into(), count, request_id: None }
}

fn message(requests: impl IntoIterator<Item = v1::GetSeqRequest>) -> v1::StreamSeqRequest {
    v1::StreamSeqRequest { requests: requests.into_iter().collect(), run: None }
}

/// Where each block starts, or the code with which its request failed.
fn starts(answer: v1::StreamSeqResponse) -> Vec<Result<u64, Code>> {
    let outcomes = answer.outcomes.into_iter();
    let outcome = |outcome: v1::SeqOutcome| match outcome.outcome.expect("it is set") {
        v1::seq_outcome::Outcome::Granted(granted) => Ok(granted.start),
        v1::seq_outcome::Outcome::Failed(failed) => Err((failed.code as i32).into()),
    };
    outcomes.map(outcome).collect()
}

fn failure(answer: v1::StreamSeqResponse) -> v1::SeqFailure {
    match answer.outcomes.into_iter().next().expect("one outcome").outcome {
        Some(v1::seq_outcome::Outcome::Failed(failed)) => failed,
        other => panic!("{other:?}"),
    }
}

async fn scripted() -> (std::sync::Arc<Scripted>, Running) {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    (driver, server)
}

fn elsewhere() -> Leadership {
    let (endpoint, epoch) = ("10.0.0.7:50551".into(), Some(Epoch(42)));
    Leadership::Follower { leader: Some(LeaderHint { endpoint, epoch }) }
}

async fn waiting(server: &Running, requests: usize) {
    while server.oracle.status().waiting != requests {
        tokio::task::yield_now().await;
    }
}

#[tokio::test]
async fn timestamps_are_answered_in_order() {
    let server = Running::in_memory().await;
    let mut stream = timestamps(&server, None).await;
    let counts: Vec<u32> = (0..2_000).map(|n| 1 + n % 7).collect();
    counts.iter().for_each(|count| stream.send(ts(*count)));
    let mut next = 0;
    for count in counts {
        let answer = stream.next().await;
        let first = answer.physical_ms << 18 | u64::from(answer.logical_start);
        assert_eq!(answer.count, count);
        assert!(first >= next, "{first} was granted before");
        next = first + u64::from(count);
    }
    drop(stream.requests);
    assert!(stream.answers.message().await.unwrap().is_none(), "it ends as its requests do");
}

#[tokio::test]
async fn a_bad_count_ends_the_stream_after_the_answers_before_it() {
    let server = Running::in_memory().await;
    for count in [0, 262_145] {
        let mut stream = timestamps(&server, None).await;
        stream.send(ts(3));
        stream.send(ts(count));
        assert_eq!(stream.next().await.count, 3);
        assert_eq!(stream.status().await.code(), Code::InvalidArgument);
    }
}

#[tokio::test]
async fn a_lost_leadership_ends_the_stream_as_it_ends_a_call() {
    let (driver, server) = scripted().await;
    let mut stream = timestamps(&server, None).await;
    stream.send(ts(1));
    stream.next().await;
    driver.lead(elsewhere());
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    stream.send(ts(1));
    let status = stream.status().await;
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not leader"));
    let hint = metadata::leader_hint(status.metadata()).expect("a hint");
    assert_eq!(hint.leader_endpoint.as_deref(), Some("10.0.0.7:50551"));
}

#[tokio::test]
async fn an_election_is_waited_out_within_a_stream_and_then_given_up() {
    let driver = Scripted::new(Leadership::Unknown);
    let server = Running::over(driver.clone()).await;
    let mut stream = timestamps(&server, None).await;
    stream.send(ts(1));
    stream.send(ts(2));
    waiting(&server, 1).await;
    driver.lead(Leadership::Leader { claim: 1 });
    assert_eq!((stream.next().await.count, stream.next().await.count), (1, 2));

    let hold = Duration::from_millis(20);
    let options = OracleOptions { hold, ..OracleOptions::default() };
    let driver = Scripted::new(Leadership::Unknown);
    let server = Running::start(Server::builder().driver(driver).options(options)).await;
    let mut stream = timestamps(&server, None).await;
    stream.send(ts(1));
    let status = stream.status().await;
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(metadata::leader_hint(status.metadata()).is_none(), "as the public client needs it");
}

#[tokio::test]
async fn a_stream_outlasts_the_time_that_a_call_may_take() {
    let limits = Limits { request_time: Duration::from_millis(50), ..Limits::default() };
    let driver = Scripted::leader();
    let server = Running::start(Server::builder().driver(driver.clone()).limits(limits)).await;
    let mut stream = timestamps(&server, None).await;
    driver.behave(Manner::Hang);
    let connection = Connection::open(server.address).await;
    for _ in 0..3 {
        let request = seq("k", 1);
        let call = connection.call("tsoracle.v1.TsoService/GetSeq", &[], &request);
        assert_eq!(call.await.unwrap().grpc_status(), Some("4"), "its time is over");
    }
    stream.send(ts(1));
    stream.next().await;
    driver.behave(Manner::Commit);
}

#[tokio::test]
async fn a_stream_lasts_no_longer_than_its_client_has_asked() {
    let server = Running::in_memory().await;
    let mut stream = timestamps(&server, Some(Duration::from_millis(100))).await;
    stream.send(ts(1));
    stream.next().await;
    assert_eq!(stream.status().await.code(), Code::DeadlineExceeded);
}

#[tokio::test]
async fn stopping_ends_streams_that_nobody_uses() {
    // A drain that is waited out would fail the test by its time.
    let limits = Limits { drain_time: Duration::from_secs(3_600), ..Limits::default() };
    let builder = Server::builder().driver(memory().await).limits(limits);
    let mut server = Running::start(builder).await;
    let (mut idle, mut also) = (timestamps(&server, None).await, sequences(&server).await);
    server.begin_stop();
    for status in [idle.status().await, also.status().await] {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not leader"));
    }
    server.ended().await.unwrap();
}

#[tokio::test]
async fn stopping_answers_what_was_submitted() {
    let (driver, mut server) = scripted().await;
    driver.behave(Manner::Hang);
    let mut stream = sequences(&server).await;
    stream.send(message([seq("a", 1), seq("b", 2)]));
    stream.send(message([seq("a", 1)]));
    driver.has_begun(1).await;
    waiting(&server, 3).await;
    server.begin_stop();
    driver.behave(Manner::Commit);
    assert_eq!(starts(stream.next().await), [Ok(0), Ok(0)]);
    assert_eq!(starts(stream.next().await), [Ok(1)]);
    assert_eq!(stream.status().await.code(), Code::FailedPrecondition);
    server.ended().await.unwrap();
}

#[tokio::test]
async fn the_requests_of_a_message_succeed_or_fail_alone() {
    let server = Running::in_memory().await;
    let mut stream = sequences(&server).await;
    stream.send(message([seq("a", 2), seq("", 1), seq("a", 3), seq("b", 0), seq("b", 65_537)]));
    stream.send(message([seq("a", 1), seq("b", 1)]));
    let invalid = Err(Code::InvalidArgument);
    assert_eq!(starts(stream.next().await), [Ok(0), invalid, Ok(2), invalid, invalid]);
    assert_eq!(starts(stream.next().await), [Ok(5), Ok(0)]);
    drop(stream.requests);
    assert!(stream.answers.message().await.unwrap().is_none());
}

/// New requests of one session, the first of which has this number.
fn run(first_number: u64, requests: &[(&str, u32)]) -> v1::SeqRun {
    v1::SeqRun {
        session: vec![7; 16].into(),
        first_number,
        first_incomplete: first_number,
        keys: requests.iter().flat_map(|(key, _)| key.bytes()).collect::<Vec<_>>().into(),
        key_bytes: requests.iter().map(|(key, _)| key.len() as u32).collect(),
        counts: requests.iter().map(|(_, count)| *count).collect(),
    }
}

fn run_message(run: v1::SeqRun) -> v1::StreamSeqRequest {
    v1::StreamSeqRequest { requests: vec![], run: Some(run) }
}

#[tokio::test]
async fn a_run_is_answered_as_its_requests_would_be() {
    let server = Running::in_memory().await;
    let mut stream = sequences(&server).await;
    let long = "k".repeat(129);
    let requests = [("a", 2), ("", 1), ("a", 3), (&*long, 1), ("b", 0), ("é", 4), ("b", 1)];
    stream.send(v1::StreamSeqRequest {
        requests: vec![seq("a", 1), seq("b", 0)],
        run: Some(run(1, &requests)),
    });
    let answer = stream.next().await;
    let outcome = answer.run.clone().expect("an answer to the run");
    assert_eq!(starts(answer), [Ok(0), Err(Code::InvalidArgument)]);
    let failed: Vec<_> = outcome.failures.iter().map(|failed| failed.index).collect();
    assert_eq!(failed, [1, 3, 4]);
    let codes = outcome.failures.into_iter().map(|failed| failed.failure.expect("it is set").code);
    assert!(codes.eq([3; 3]));
    assert_eq!(outcome.starts, [1, 0, 3, 0, 0, 0, 0]);
    assert!(outcome.epoch.is_some());

    // The same numbers get the same blocks, in either form.
    stream.send(run_message(run(1, &requests)));
    let again = stream.next().await.run.expect("an answer to the run");
    assert_eq!(again.starts, [1, 0, 3, 0, 0, 0, 0]);
    let session = vec![7; 16].into();
    let id = v1::RequestId {
        session,
        number: 3,
        first_incomplete: 1,
        retry: true,
        ..Default::default()
    };
    stream.send(message([v1::GetSeqRequest { request_id: Some(id), ..seq("a", 3) }]));
    assert_eq!(starts(stream.next().await), [Ok(3)]);

    // One count may be for all of them.
    let shared = v1::SeqRun { counts: vec![5], ..run(8, &[("a", 0), ("c", 0), ("a", 0)]) };
    stream.send(run_message(shared));
    assert_eq!(stream.next().await.run.expect("an answer to the run").starts, [6, 0, 11]);
}

#[tokio::test]
async fn a_run_that_is_none_ends_the_stream_after_the_answers_before_it() {
    let server = Running::in_memory().await;
    let good = || run(1, &[("k", 1), ("l", 1)]);
    let many = [("k", 1); 4_097];
    for bad in [
        v1::SeqRun { session: vec![7; 15].into(), ..good() },
        v1::SeqRun { keys: b"k".to_vec().into(), ..good() },
        v1::SeqRun { key_bytes: vec![1, 2], ..good() },
        v1::SeqRun { key_bytes: vec![u32::MAX, 3], ..good() },
        v1::SeqRun { counts: vec![], ..good() },
        v1::SeqRun { counts: vec![1, 1, 1], ..good() },
        run(1, &[]),
        run(1, &many),
    ] {
        let mut stream = sequences(&server).await;
        stream.send(message([seq("k", 1)]));
        stream.send(run_message(bad.clone()));
        stream.send(message([seq("k", 1)]));
        assert_eq!(stream.next().await.outcomes.len(), 1);
        let status = stream.status().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    // What is wrong with a request alone is its own failure.
    let mut stream = sequences(&server).await;
    stream.send(run_message(v1::SeqRun { keys: vec![0xff, b'l'].into(), ..good() }));
    let outcome = stream.next().await.run.expect("an answer to the run");
    assert_eq!(outcome.failures.iter().map(|failed| failed.index).collect::<Vec<_>>(), [0]);
    for first_number in [0, u64::MAX] {
        stream.send(run_message(run(first_number, &[("m", 1), ("m", 1)])));
        let outcome = stream.next().await.run.expect("an answer to the run");
        let last = outcome.failures.last().and_then(|failed| failed.failure.clone());
        assert_eq!(last.map(|failure| failure.code), Some(3));
    }
}

#[tokio::test]
async fn a_server_says_on_each_stream_that_it_takes_runs() {
    let server = Running::in_memory().await;
    let (_requests, sent) = mpsc::unbounded_channel();
    let sent = UnboundedReceiverStream::new(sent);
    let answers = server.tso().await.stream_seq(sent).await.expect("a stream");
    assert!(metadata::has_flag(answers.metadata(), metadata::SEQ_RUNS));
}

#[tokio::test]
async fn the_requests_of_a_message_share_a_commit() {
    let (driver, server) = scripted().await;
    let mut stream = sequences(&server).await;
    stream.send(message((0..4_096).map(|n| seq(&format!("k{}", n % 100), 1))));
    assert_eq!(stream.next().await.outcomes.len(), 4_096);
    assert_eq!(driver.begun(), 1);
}

#[tokio::test]
async fn a_message_that_is_none_ends_the_stream_after_the_answers_before_it() {
    let server = Running::in_memory().await;
    let large = (0..4_096).map(|n| seq(&format!("{n}{}", "k".repeat(300)), 1));
    let many = (0..4_097).map(|_| seq("k", 1));
    for bad in [message([]), message(many), message(large)] {
        let mut stream = sequences(&server).await;
        stream.send(message([seq("k", 1)]));
        stream.send(bad);
        stream.send(message([seq("k", 1)]));
        assert_eq!(stream.next().await.outcomes.len(), 1);
        let status = stream.status().await;
        assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    }
    let mut stream = sequences(&server).await;
    stream.send(message([seq("k", 1)]));
    assert_eq!(starts(stream.next().await), [Ok(3)], "nothing of what was refused was spent");
}

#[tokio::test]
async fn each_failure_of_a_request_says_what_its_status_would() {
    let (driver, server) = scripted().await;
    let mut stream = sequences(&server).await;
    driver.behave(Manner::Fail(tsoracle_core::ErrorKind::Unavailable));
    stream.send(message([seq("k", 1)]));
    let failed = failure(stream.next().await);
    assert_eq!((failed.code, failed.uncommitted), (14, true));
    driver.behave(Manner::CommitAndFail(tsoracle_core::ErrorKind::Uncertain));
    stream.send(message([seq("k", 1)]));
    let failed = failure(stream.next().await);
    assert_eq!((failed.code, failed.uncommitted, failed.hint), (14, false, None));
    driver.behave(Manner::Commit);
    let session = vec![7; 16].into();
    let request_id = Some(v1::RequestId {
        session,
        number: 1,
        first_incomplete: 1,
        retry: true,
        ..Default::default()
    });
    stream.send(message([v1::GetSeqRequest { request_id, ..seq("k", 1) }]));
    let failed = failure(stream.next().await);
    assert_eq!((failed.code, failed.session_unknown), (9, true));
    driver.lead(elsewhere());
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    stream.send(message([seq("k", 1)]));
    let failed = failure(stream.next().await);
    assert_eq!((failed.code, &*failed.message), (9, "not leader"));
    let endpoint = failed.hint.and_then(|hint| hint.leader_endpoint);
    assert_eq!(endpoint.as_deref(), Some("10.0.0.7:50551"));
}

#[tokio::test]
async fn a_dropped_stream_withdraws_what_was_not_submitted() {
    let (driver, server) = scripted().await;
    driver.behave(Manner::Hang);
    let stream = sequences(&server).await;
    stream.send(message([seq("k", 1)]));
    driver.has_begun(1).await;
    stream.send(message([seq("k", 1), seq("k", 1)]));
    stream.send(message([seq("k", 1)]));
    waiting(&server, 4).await;
    drop(stream);
    waiting(&server, 0).await;
    driver.behave(Manner::Commit);
    let mut stream = sequences(&server).await;
    stream.send(message([seq("k", 1)]));
    assert_eq!(starts(stream.next().await), [Ok(1)], "only the first was spent");
}

#[tokio::test]
async fn a_stream_has_only_so_many_messages_under_way() {
    let (driver, server) = scripted().await;
    driver.behave(Manner::Hang);
    let mut stream = sequences(&server).await;
    (0..100).for_each(|_| stream.send(message([seq("k", 1), seq("k", 1)])));
    waiting(&server, 32).await;
    // What is asked on another stream after that shows that no more is taken in meanwhile.
    let mut other = sequences(&server).await;
    other.send(message([seq("l", 1)]));
    waiting(&server, 33).await;
    driver.behave(Manner::Commit);
    assert_eq!(starts(other.next().await), [Ok(0)]);
    for n in 0..100 {
        assert_eq!(starts(stream.next().await), [Ok(2 * n), Ok(2 * n + 1)]);
    }
}

#[tokio::test]
async fn a_client_that_does_not_read_is_not_granted_to() {
    const REQUESTS: usize = 40_000;
    let server = Running::in_memory().await;
    let endpoint = Channel::from_shared(format!("http://{}", server.address)).unwrap();
    let narrow = endpoint.initial_stream_window_size(65_535).connect().await.unwrap();
    let mut stream = timestamps_over(narrow, None).await;
    (0..REQUESTS).for_each(|_| stream.send(ts(1)));
    let mut last = stream.next().await;
    // Everything was sent before this was asked, but only what fits a window was answered.
    let mut other = timestamps(&server, None).await;
    for _ in 0..100 {
        other.send(ts(1));
        other.next().await;
    }
    other.send(ts(1));
    let marker = other.next().await;
    for _ in 1..REQUESTS {
        last = stream.next().await;
    }
    let of = |answer: v1::GetTsResponse| (answer.physical_ms, answer.logical_start);
    assert!(of(last) > of(marker), "it was granted while nobody read the answers before it");
}
