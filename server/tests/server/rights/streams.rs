//! Streams, which last longer than what a client may do.

use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request};
use tsoracle_proto::v1::{self, seq_outcome::Outcome};

use super::{NAMES, POLICY, World, rules, token};

/// Where to put the messages of a stream that an identity opens.
fn stream_of<T>(name: &str) -> (mpsc::UnboundedSender<T>, Request<UnboundedReceiverStream<T>>) {
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    let value = format!("Bearer {}", token(name).0).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    (sender, request)
}

#[tokio::test]
async fn the_requests_of_a_stream_count_and_end_with_the_right_to_them() {
    let world = World::new().await;
    let (sender, request) = stream_of("slow");
    let send = || {
        let single = v1::GetSeqRequest { key: "orders".into(), count: 1, request_id: None };
        let requests = vec![single; 5];
        sender.send(v1::StreamSeqRequest { requests, run: None }).unwrap();
    };
    send();
    let mut answers = world.server.tso().await.stream_seq(request).await.unwrap().into_inner();
    let mut outcomes = async || -> Vec<u32> {
        let answer = answers.message().await.unwrap().unwrap();
        let code = |outcome: v1::SeqOutcome| match outcome.outcome.unwrap() {
            Outcome::Granted(_) => 0,
            Outcome::Failed(failed) => failed.code,
        };
        answer.outcomes.into_iter().map(code).collect()
    };
    assert_eq!(outcomes().await, [0; 5]);
    // However slow the machine is, some follow each other within a second.
    let mut last = vec![];
    for _ in 0..100 {
        send();
        last = outcomes().await;
        if last != [0; 5] {
            break;
        }
    }
    assert_eq!(last, [Code::ResourceExhausted as u32; 5], "five a second are let");
    world.access.replace(rules(POLICY, &["ops"]));
    send();
    assert_eq!(outcomes().await, [Code::Unauthenticated as u32; 5], "its token is revoked");
}

#[tokio::test]
async fn the_requests_of_a_stream_are_told_apart() {
    let world = World::new().await;
    let (sender, request) = stream_of("billing");
    let single = |key: &str| v1::GetSeqRequest { key: key.into(), count: 1, request_id: None };
    let requests = vec![single("invoices/1"), single("orders"), single("invoices/1")];
    let run = v1::SeqRun {
        session: vec![1; 16].into(),
        first_number: 1,
        first_incomplete: 1,
        keys: b"ordersinvoices/1".to_vec().into(),
        key_bytes: vec![6, 10],
        counts: vec![1],
    };
    sender.send(v1::StreamSeqRequest { requests, run: Some(run) }).unwrap();
    let mut answers = world.server.tso().await.stream_seq(request).await.unwrap().into_inner();
    let answer = answers.message().await.unwrap().unwrap();
    let outcomes: Vec<_> = answer
        .outcomes
        .into_iter()
        .map(|outcome| match outcome.outcome.unwrap() {
            Outcome::Granted(granted) => Ok(granted.start),
            Outcome::Failed(failed) => Err((failed.code, failed.uncommitted)),
        })
        .collect();
    let denied = Code::PermissionDenied as u32;
    assert_eq!(outcomes, [Ok(0), Err((denied, false)), Ok(1)]);
    let run = answer.run.unwrap();
    assert_eq!(run.failures.len(), 1);
    let failure = run.failures[0].failure.as_ref().unwrap();
    assert_eq!((run.failures[0].index, failure.code), (0, denied));
    assert!(failure.message.contains("\"seq:orders\""), "{}", failure.message);
    assert_eq!(run.starts[1], 2);
}

#[tokio::test]
async fn new_rules_hold_for_connections_and_streams_that_are_open() {
    let world = World::new().await;
    let mut shop = Timestamps::of(&world, "shop").await;
    assert_eq!(shop.ask().await, Ok(()));
    assert_eq!(world.get_seq(Some("shop"), "orders").await, Code::Ok);

    // The token is revoked.
    world.access.replace(rules(POLICY, &["ops"]));
    assert_eq!(world.get_seq(Some("shop"), "orders").await, Code::Unauthenticated);
    assert_eq!(shop.ask().await, Err(Code::Unauthenticated));
}

/// A stream of timestamps of an identity: how its requests are answered.
struct Timestamps {
    requests: mpsc::UnboundedSender<v1::GetTsRequest>,
    answers: tonic::Streaming<v1::GetTsResponse>,
}

impl Timestamps {
    async fn of(world: &World, name: &str) -> Self {
        let (requests, request) = stream_of(name);
        let answers = world.server.tso().await.stream_ts(request).await.unwrap().into_inner();
        Self { requests, answers }
    }

    async fn ask(&mut self) -> Result<(), Code> {
        self.requests.send(v1::GetTsRequest { count: 1 }).unwrap();
        self.answers.message().await.map(drop).map_err(|status| status.code())
    }
}

#[tokio::test]
async fn a_stream_of_timestamps_counts_and_ends_with_the_right_to_it() {
    let world = World::new().await;
    let mut slow = Timestamps::of(&world, "slow").await;
    let mut last = Ok(());
    for _ in 0..1_000 {
        last = slow.ask().await;
        if last.is_err() {
            break;
        }
    }
    assert_eq!(last, Err(Code::ResourceExhausted));

    let mut shop = Timestamps::of(&world, "shop").await;
    assert_eq!(shop.ask().await, Ok(()));
    let narrower = POLICY.replace(r#""shop": ["client"]"#, r#""shop": ["seq"]"#);
    world.access.replace(rules(&narrower, &NAMES));
    assert_eq!(shop.ask().await, Err(Code::PermissionDenied));
    let recorded = world.audited();
    let denied = recorded.last().unwrap();
    let fields = ["identity", "right", "object", "outcome"].map(|field| denied[field].clone());
    let path = "tsoracle.v1.TsoService/StreamTs";
    assert_eq!(fields, ["shop", "ts", path, "PERMISSION_DENIED"].map(Value::from));
}
