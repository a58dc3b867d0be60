//! Who may do what: each call, without credentials, with another identity's, and with the right ones.

use std::sync::{Arc, Mutex};

use http::Method;
use prost::Message;
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::UnboundedReceiverStream;
use tonic::{Code, Request, Status};
use tsoracle_core::{Identity, SeqKey};
use tsoracle_proto::v1::{self, seq_outcome::Outcome};
use tsoracle_server::{
    Access, Audit, Policy, PolicyConfig, Rules, Server, TokenRecord, Tokens, Trust,
};

use crate::common::{
    Running, memory,
    raw::{Answer, Connection},
};

const POLICY: &str = r#"{
    "roles": {"biller": ["seq:invoices/*", "read:invoices/*", "list:invoices/*"]},
    "identities": {
        "billing": ["biller", "lease"],
        "shop": ["client"],
        "watcher": ["reader"],
        "ops": ["admin"],
        "slow": {"may": ["ts", "seq"], "rate": 5},
        "keeper": ["read:a/*", "seed:a/*", "delete:a/*"],
        "small": {"may": ["seq", "lease"], "keys": 1, "leases": 1},
        "anonymous": ["ts"]
    }
}"#;

/// The token of an identity of the tests.
fn token(name: &str) -> (String, TokenRecord) {
    let mut random = [0; 32];
    random[..name.len()].copy_from_slice(name.as_bytes());
    TokenRecord::new(&Identity::new(name).unwrap(), random, "2026-01-01T00:00:00Z")
}

fn rules(policy: &str, names: &[&str]) -> Rules {
    let config: PolicyConfig = serde_json::from_str(policy).unwrap();
    let records: Vec<_> = names.iter().map(|name| token(name).1).collect();
    let tokens = Tokens::new(&records).unwrap();
    Rules::new(Some(Policy::new(&config).unwrap()), Some(tokens)).unwrap()
}

const NAMES: [&str; 7] = ["billing", "shop", "watcher", "ops", "slow", "small", "keeper"];

struct World {
    server: Running,
    connection: Connection,
    access: Access,
    audit: Arc<Mutex<Vec<Value>>>,
}

impl World {
    async fn new() -> Self {
        Self::trusting(Trust::Everyday, rules(POLICY, &NAMES)).await
    }

    async fn trusting(trust: Trust, rules: Rules) -> Self {
        let lines = Arc::new(Mutex::new(vec![]));
        let sink = lines.clone();
        let audit = Audit::new(move |line| {
            sink.lock().unwrap().push(serde_json::from_str(line).unwrap());
        });
        let access = Access::new(rules, audit).trusting(trust);
        let builder = Server::builder().driver(memory().await).access(access.clone());
        let server = Running::start(builder).await;
        let connection = Connection::open(server.address).await;
        let world = Self { server, connection, access, audit: lines };
        // Once it serves, so that nothing is refused for another reason.
        world.server.oracle.get_ts(1).await.unwrap();
        world
    }

    async fn call(&self, name: Option<&str>, method: &str, message: &impl Message) -> Answer {
        let header = name.map(|name| format!("Bearer {}", token(name).0));
        let headers: Vec<_> = header.iter().map(|value| ("authorization", &**value)).collect();
        self.connection.call(&format!("tsoracle.v1.{method}"), &headers, message).await.unwrap()
    }

    async fn code(&self, name: Option<&str>, method: &str, message: &impl Message) -> Code {
        let answer = self.call(name, method, message).await;
        Code::from_bytes(answer.grpc_status().expect("a status").as_bytes())
    }

    async fn get_seq(&self, name: Option<&str>, key: &str) -> Code {
        let request = v1::GetSeqRequest { key: key.into(), count: 1, request_id: None };
        self.code(name, "TsoService/GetSeq", &request).await
    }

    fn audited(&self) -> Vec<Value> {
        self.audit.lock().unwrap().clone()
    }
}

fn reason(answer: &Answer) -> String {
    Status::from_header_map(&answer.metadata).unwrap().message().to_owned()
}

fn seed(key: &str) -> v1::SeedSeqRequest {
    v1::SeedSeqRequest { key: key.into(), start: 100 }
}

fn acquire(holder: &str, epoch: u64) -> v1::AcquireLeaseRequest {
    v1::AcquireLeaseRequest {
        holder: holder.to_owned().into(),
        holder_epoch: epoch,
        ttl_ms: 10_000,
    }
}

#[tokio::test]
async fn each_call_takes_a_right() {
    use Code::{Ok, PermissionDenied, Unauthenticated, Unimplemented};
    let world = World::new().await;
    let key = |key: &str| String::from(key);
    let rows = [
        (
            "TsoService/GetTs",
            v1::GetTsRequest { count: 1 }.encode_to_vec(),
            [Ok, PermissionDenied, Ok, Ok],
        ),
        ("TsoService/GetCurrentMaxSafe", vec![], [Ok, Ok, Ok, Ok]),
        ("TsoService/GetSafeFrontier", vec![], [Unauthenticated, PermissionDenied, Ok, Ok]),
        (
            "TsoService/AcquireLease",
            acquire("holder", 1).encode_to_vec(),
            // The last one finds the lease of another.
            [Unauthenticated, Ok, PermissionDenied, PermissionDenied],
        ),
        (
            "SequenceService/ListSeqs",
            v1::ListSeqsRequest::default().encode_to_vec(),
            [Unauthenticated, PermissionDenied, PermissionDenied, Ok],
        ),
        (
            "SequenceService/SeedSeq",
            seed("orders").encode_to_vec(),
            [Unauthenticated, PermissionDenied, PermissionDenied, Ok],
        ),
        (
            "SequenceService/ReadSeq",
            v1::ReadSeqRequest { key: key("orders") }.encode_to_vec(),
            [Unauthenticated, PermissionDenied, Ok, Ok],
        ),
        (
            "SequenceService/DeleteSeq",
            v1::DeleteSeqRequest { key: key("orders") }.encode_to_vec(),
            [Unauthenticated, PermissionDenied, PermissionDenied, Ok],
        ),
        (
            "ClusterService/Change",
            v1::ChangeRequest::default().encode_to_vec(),
            [Unauthenticated, PermissionDenied, PermissionDenied, Unimplemented],
        ),
        (
            "ClusterService/Members",
            vec![],
            [Unauthenticated, PermissionDenied, Unimplemented, Unimplemented],
        ),
        ("ClusterService/Troubles", vec![], [Unauthenticated, PermissionDenied, Ok, Ok]),
    ];
    for (method, message, expected) in rows {
        for (name, expected) in
            [None, Some("billing"), Some("shop"), Some("ops")].into_iter().zip(expected)
        {
            let answer = world.call(name, method, &Bytes(message.clone())).await;
            let code = Code::from_bytes(answer.grpc_status().unwrap().as_bytes());
            assert_eq!(code, expected, "{method} as {name:?}: {answer:?}");
        }
    }
}

/// A message that is encoded already.
#[derive(Debug)]
struct Bytes(Vec<u8>);

impl Message for Bytes {
    fn encode_raw(&self, buffer: &mut impl bytes::BufMut) {
        buffer.put_slice(&self.0);
    }

    fn merge_field(
        &mut self,
        _: u32,
        _: prost::encoding::WireType,
        _: &mut impl bytes::Buf,
        _: prost::encoding::DecodeContext,
    ) -> Result<(), prost::DecodeError> {
        unreachable!("it is only sent")
    }

    fn encoded_len(&self) -> usize {
        self.0.len()
    }

    fn clear(&mut self) {}
}

#[tokio::test]
async fn sequences_are_told_apart_by_their_prefix() {
    let world = World::new().await;
    assert_eq!(world.get_seq(Some("billing"), "invoices/1").await, Code::Ok);
    for key in ["invoices", "orders", "xinvoices/1"] {
        assert_eq!(world.get_seq(Some("billing"), key).await, Code::PermissionDenied, "{key}");
        assert_eq!(world.server.oracle.read_seq(SeqKey::new(key).unwrap()).await.unwrap(), None);
    }
    let entry = |key: &str| v1::SeqRequestEntry { key: key.into(), count: 1 };
    let batch = |keys: [&str; 2]| v1::GetSeqBatchRequest {
        entries: keys.map(entry).to_vec(),
        request_id: None,
    };
    let method = "TsoService/GetSeqBatch";
    for (keys, expected) in [
        (["invoices/1", "orders"], Code::PermissionDenied),
        (["invoices/1", "invoices/2"], Code::Ok),
    ] {
        assert_eq!(world.code(Some("billing"), method, &batch(keys)).await, expected, "{keys:?}");
    }
}

#[tokio::test]
async fn whatever_is_done_with_a_sequence_is_told_apart_by_its_prefix() {
    let world = World::new().await;
    for (key, expected) in [("a/1", Code::Ok), ("b/1", Code::PermissionDenied)] {
        let (name, key) = (Some("keeper"), String::from(key));
        assert_eq!(world.code(name, "SequenceService/SeedSeq", &seed(&key)).await, expected);
        let read = v1::ReadSeqRequest { key: key.clone() };
        assert_eq!(world.code(name, "SequenceService/ReadSeq", &read).await, expected);
        let delete = v1::DeleteSeqRequest { key };
        assert_eq!(world.code(name, "SequenceService/DeleteSeq", &delete).await, expected);
    }
}

#[tokio::test]
async fn the_requests_of_a_stream_count_and_end_with_the_right_to_them() {
    let world = World::new().await;
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    let value = format!("Bearer {}", token("slow").0).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
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
async fn a_list_shows_what_begins_with_a_prefix_of_ones_own() {
    let world = World::new().await;
    let list = |prefix: &str| v1::ListSeqsRequest { prefix: prefix.into(), ..Default::default() };
    let method = "SequenceService/ListSeqs";
    for (prefix, expected) in [
        ("", Code::PermissionDenied),
        ("invoices", Code::PermissionDenied),
        ("invoices/", Code::Ok),
        ("invoices/2026/", Code::Ok),
    ] {
        assert_eq!(world.code(Some("billing"), method, &list(prefix)).await, expected, "{prefix}");
    }
}

#[tokio::test]
async fn the_requests_of_a_stream_are_told_apart() {
    let world = World::new().await;
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    let value = format!("Bearer {}", token("billing").0).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
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
async fn a_lease_is_its_owners() {
    let world = World::new().await;
    let method = "TsoService/AcquireLease";
    let lease: v1::AcquireLeaseResponse =
        world.call(Some("billing"), method, &acquire("holder", 1)).await.message();
    for epoch in [1, 2] {
        let code = world.code(Some("shop"), method, &acquire("holder", epoch)).await;
        assert_eq!(code, Code::PermissionDenied);
    }
    let renew = v1::RenewLeaseRequest { lease_id: lease.lease_id };
    let release = v1::ReleaseLeaseRequest { lease_id: lease.lease_id };
    let (renewal, end) = ("TsoService/RenewLease", "TsoService/ReleaseLease");
    assert_eq!(world.code(Some("shop"), renewal, &renew).await, Code::PermissionDenied);
    assert_eq!(world.code(Some("shop"), end, &release).await, Code::PermissionDenied);
    assert_eq!(world.code(Some("billing"), renewal, &renew).await, Code::Ok);
    assert_eq!(world.code(Some("ops"), end, &release).await, Code::Ok, "an administrator's right");
    assert_ne!(world.code(Some("billing"), renewal, &renew).await, Code::Ok);
}

#[tokio::test]
async fn refusals_say_what_is_missing() {
    let world = World::new().await;
    let answer = world.call(None, "SequenceService/SeedSeq", &seed("orders")).await;
    let message = reason(&answer);
    assert!(message.contains("seed") && message.contains("certificate or a token"), "{message}");
    let request = v1::GetSeqRequest { key: "orders".into(), count: 1, request_id: None };
    let answer = world.call(Some("billing"), "TsoService/GetSeq", &request).await;
    let message = reason(&answer);
    assert!(message.contains("billing") && message.contains("seq:orders"), "{message}");
    assert!(!answer.metadata.contains_key("tsoracle-leader-hint-bin"));
}

#[tokio::test]
async fn a_token_that_is_not_known_is_refused_even_where_none_is_needed() {
    let world = World::new().await;
    let ts = v1::GetTsRequest { count: 1 };
    assert_eq!(world.code(None, "TsoService/GetTs", &ts).await, Code::Ok);
    for (header, expected) in [
        ("Bearer tso_12", "68 characters"),
        ("Basic Zm9vOmJhcg==", "authorization"),
        ("Bearer ", "68 characters"),
        (&format!("Bearer tso_{}", "0".repeat(64)), "not known"),
    ] {
        let headers = [("authorization", header)];
        let path = "tsoracle.v1.TsoService/GetTs";
        let answer = world.connection.call(path, &headers, &ts).await.unwrap();
        assert_eq!(answer.grpc_status(), Some("16"), "{header}: {answer:?}");
        let message = reason(&answer);
        assert!(message.contains(expected), "{header}: {message}");
    }
    let addresses = world.audited();
    let addresses: Vec<_> = addresses.iter().filter_map(|line| line["address"].as_str()).collect();
    assert_eq!(addresses.len(), 4, "each is on record, once: {addresses:?}");
}

#[tokio::test]
async fn clients_that_share_a_connection_are_told_apart() {
    let world = World::new().await;
    for _ in 0..3 {
        assert_eq!(world.get_seq(Some("billing"), "invoices/1").await, Code::Ok);
        assert_eq!(world.get_seq(Some("shop"), "orders").await, Code::Ok);
        assert_eq!(world.get_seq(None, "orders").await, Code::Unauthenticated);
        assert_eq!(world.get_seq(Some("billing"), "orders").await, Code::PermissionDenied);
    }
}

#[tokio::test]
async fn new_rules_hold_for_connections_and_streams_that_are_open() {
    let world = World::new().await;
    let (sender, receiver) = mpsc::unbounded_channel();
    let mut request = Request::new(UnboundedReceiverStream::new(receiver));
    let value = format!("Bearer {}", token("shop").0).parse().unwrap();
    request.metadata_mut().insert("authorization", value);
    sender.send(v1::GetTsRequest { count: 1 }).unwrap();
    let mut answers = world.server.tso().await.stream_ts(request).await.unwrap().into_inner();
    answers.message().await.unwrap().unwrap();
    assert_eq!(world.get_seq(Some("shop"), "orders").await, Code::Ok);

    // The token is revoked.
    world.access.replace(rules(POLICY, &["ops"]));
    assert_eq!(world.get_seq(Some("shop"), "orders").await, Code::Unauthenticated);
    sender.send(v1::GetTsRequest { count: 1 }).unwrap();
    let ended: Status = answers.message().await.unwrap_err();
    assert_eq!(ended.code(), Code::Unauthenticated);
}

/// A stream of timestamps of an identity: how its requests are answered.
struct Timestamps {
    requests: mpsc::UnboundedSender<v1::GetTsRequest>,
    answers: tonic::Streaming<v1::GetTsResponse>,
}

impl Timestamps {
    async fn of(world: &World, name: &str) -> Self {
        let (requests, receiver) = mpsc::unbounded_channel();
        let mut request = Request::new(UnboundedReceiverStream::new(receiver));
        let value = format!("Bearer {}", token(name).0).parse().unwrap();
        request.metadata_mut().insert("authorization", value);
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
}

#[tokio::test]
async fn a_rate_bounds_an_identity_on_all_its_connections() {
    let world = World::new().await;
    let other = Connection::open(world.server.address).await;
    let header = format!("Bearer {}", token("slow").0);
    let headers = [("authorization", &*header)];
    let ts = v1::GetTsRequest { count: 1 };
    let mut codes = vec![];
    for _ in 0..100 {
        if codes.iter().any(|code| code == "8") {
            break;
        }
        for connection in [&world.connection, &other] {
            let answer = connection.call("tsoracle.v1.TsoService/GetTs", &headers, &ts).await;
            codes.push(answer.unwrap().grpc_status().unwrap().to_owned());
        }
    }
    assert!(codes.iter().any(|code| code == "8"), "{codes:?}");
    assert!(codes.iter().filter(|code| *code == "0").count() >= 5, "{codes:?}");
    assert_eq!(world.code(None, "TsoService/GetTs", &ts).await, Code::Ok, "others have theirs");
}

#[tokio::test]
async fn an_identity_has_no_more_than_its_limits() {
    let world = World::new().await;
    let small = Some("small");
    assert_eq!(world.get_seq(small, "a").await, Code::Ok);
    assert_eq!(world.get_seq(small, "b").await, Code::ResourceExhausted);
    assert_eq!(world.get_seq(small, "a").await, Code::Ok, "what it has goes on");
    assert_eq!(world.get_seq(Some("shop"), "b").await, Code::Ok, "others have theirs");
    let method = "TsoService/AcquireLease";
    assert_eq!(world.code(small, method, &acquire("a", 1)).await, Code::Ok);
    let answer = world.call(small, method, &acquire("b", 1)).await;
    assert!(reason(&answer).contains("1 stamping leases"), "{}", reason(&answer));
}

#[tokio::test]
async fn without_a_policy_what_may_be_done_depends_on_the_address() {
    let rows = [
        (Trust::Open, [Code::Ok; 2]),
        (Trust::Everyday, [Code::Ok, Code::Unauthenticated]),
        (Trust::Administrators, [Code::Ok; 2]),
    ];
    for (trust, expected) in rows {
        let world = World::trusting(trust, Rules::default()).await;
        // Tokens say nothing where there is no policy.
        let everyday = world.get_seq(Some("shop"), "orders").await;
        let administrative = world.code(None, "SequenceService/SeedSeq", &seed("invoices")).await;
        assert_eq!([everyday, administrative], expected, "{trust:?}");
    }
}

#[tokio::test]
async fn whoever_reaches_the_address_of_administrators_is_one_unless_it_says_otherwise() {
    let world = World::trusting(Trust::Administrators, rules(POLICY, &NAMES)).await;
    let method = "SequenceService/SeedSeq";
    assert_eq!(world.code(None, method, &seed("a")).await, Code::Ok);
    assert_eq!(world.code(Some("shop"), method, &seed("b")).await, Code::PermissionDenied);
}

#[tokio::test]
async fn administrative_actions_and_refusals_are_on_record() {
    let world = World::new().await;
    let method = "SequenceService/SeedSeq";
    world.code(Some("ops"), method, &seed("orders")).await;
    world.code(Some("ops"), method, &seed("orders")).await;
    world.code(Some("shop"), method, &seed("orders")).await;
    world.get_seq(Some("billing"), "orders").await;
    assert_eq!(world.get_seq(Some("shop"), "orders").await, Code::Ok, "which is nobody's business");
    world.access.replace(rules(POLICY, &NAMES));
    world.access.not_replaced("no right \"writer\"");
    let mut lines = world.audited();
    let reloads = lines.split_off(4);
    let reloads: Vec<_> =
        reloads.iter().map(|line| (&line["right"], &line["outcome"], &line["reason"])).collect();
    let [done, refused] = &reloads[..] else { panic!("{reloads:?}") };
    assert_eq!(*done, (&"reload".into(), &"OK".into(), &Value::Null));
    assert_eq!(
        *refused,
        (&"reload".into(), &"INVALID_ARGUMENT".into(), &"no right \"writer\"".into())
    );
    let told: Vec<_> = lines
        .iter()
        .map(|line| {
            ["event", "identity", "right", "object", "outcome"]
                .map(|field| line[field].as_str().unwrap())
        })
        .collect();
    assert_eq!(
        told,
        [
            ["done", "ops", "seed", "orders", "OK"],
            ["done", "ops", "seed", "orders", "ALREADY_EXISTS"],
            [
                "refused",
                "shop",
                "seed",
                "/tsoracle.v1.SequenceService/SeedSeq",
                "PERMISSION_DENIED"
            ],
            ["refused", "billing", "seq", "orders", "PERMISSION_DENIED"],
        ]
    );
    assert!(lines.iter().all(|line| line["address"].as_str().unwrap().starts_with("127.0.0.1:")));
}

#[tokio::test]
async fn nothing_but_grpc_is_served() {
    let world = World::trusting(Trust::Open, Rules::default()).await;
    let message = v1::SeedSeqRequest { key: "orders".into(), start: 7 };
    for path in ["tsoracle.v1.SequenceService/SeedSeq", "grpc.health.v1.Health/Check"] {
        let (post, plain) = (Method::POST, Some("text/plain"));
        assert_eq!(world.connection.status_of(post, path, plain, &message).await, 415, "{path}");
        let (put, grpc) = (Method::PUT, Some("application/grpc"));
        assert_eq!(world.connection.status_of(put, path, grpc, &message).await, 405, "{path}");
    }
    assert_eq!(world.server.oracle.read_seq(SeqKey::new("orders").unwrap()).await.unwrap(), None);
}
