//! Every status code and trailer, when something is wrong.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Status};
use tsoracle_core::{
    ErrorKind, Leadership, MAX_HIGH_WATER_MS, ManualClock, Oracle, OracleOptions, Phase, SeqKey,
    state::Limits,
};
use tsoracle_proto::{metadata, v1};
use tsoracle_server::Server;

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    raw::Connection,
};

/// The example of the protocol's description, byte for byte.
const HINT: &[u8] = b"\x0a\x0e10.0.0.7:50551\x12\x02\x10\x2a";

fn seq(key: &str, count: u32) -> v1::GetSeqRequest {
    v1::GetSeqRequest { key: key.into(), count, request_id: None }
}

fn with_id(key: &str, number: u64, first_incomplete: u64) -> v1::GetSeqRequest {
    let session = b"0123456789abcdef".as_slice().into();
    let id = v1::RequestId { session, number, first_incomplete, ..v1::RequestId::default() };
    v1::GetSeqRequest { request_id: Some(id), ..seq(key, 1) }
}

fn hint(status: &Status) -> Option<Vec<u8>> {
    let value = status.metadata().get_bin(metadata::LEADER_HINT)?;
    Some(value.to_bytes().expect("valid base64").to_vec())
}

fn is_bare(status: &Status) -> bool {
    hint(status).is_none()
        && !metadata::has_flag(status.metadata(), metadata::UNCOMMITTED)
        && !metadata::has_flag(status.metadata(), metadata::SESSION_UNKNOWN)
}

/// What each call that only a leader answers says here.
async fn refusals(server: &Running) -> [Status; 9] {
    let mut tso = server.tso().await;
    let mut sequences = server.sequences().await;
    let entries = vec![v1::SeqRequestEntry { key: "k".into(), count: 1 }];
    let batch = v1::GetSeqBatchRequest { entries, request_id: None };
    let acquire = v1::AcquireLeaseRequest { holder: "h".into(), holder_epoch: 1, ttl_ms: 5_000 };
    let (key, start) = ("k".to_owned(), 1);
    [
        tso.get_ts(v1::GetTsRequest { count: 1 }).await.map(drop),
        tso.get_seq(seq("k", 1)).await.map(drop),
        tso.get_seq_batch(batch).await.map(drop),
        tso.acquire_lease(acquire).await.map(drop),
        tso.renew_lease(v1::RenewLeaseRequest { lease_id: 1 }).await.map(drop),
        tso.release_lease(v1::ReleaseLeaseRequest { lease_id: 1 }).await.map(drop),
        sequences.read_seq(v1::ReadSeqRequest { key: key.clone() }).await.map(drop),
        sequences.list_seqs(v1::ListSeqsRequest::default()).await.map(drop),
        sequences.seed_seq(v1::SeedSeqRequest { key, start }).await.map(drop),
    ]
    .map(|answer| answer.expect_err("this node does not lead"))
}

#[tokio::test]
async fn a_follower_names_the_leader() {
    let server = Running::over(Scripted::follower("10.0.0.7:50551", 42)).await;
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    for status in refusals(&server).await {
        assert_eq!(status.code(), Code::FailedPrecondition);
        assert_eq!(status.message(), "not leader");
        assert_eq!(hint(&status).as_deref(), Some(HINT));
    }
    let answer = server.tso().await.get_current_max_safe(v1::GetCurrentMaxSafeRequest {}).await;
    assert_eq!(answer.unwrap().into_inner(), v1::GetCurrentMaxSafeResponse::default());
    let answer = server.tso().await.get_safe_frontier(v1::GetSafeFrontierRequest {}).await;
    assert_eq!(answer.unwrap().into_inner(), v1::GetSafeFrontierResponse::default());
}

#[tokio::test]
async fn the_hint_is_base64_on_the_wire() {
    let server = Running::over(Scripted::follower("10.0.0.7:50551", 42)).await;
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    let connection = Connection::open(server.address).await;
    let request = v1::GetTsRequest { count: 1 };
    let answer = connection.call("tsoracle.v1.TsoService/GetTs", &[], &request).await.unwrap();
    assert_eq!(answer.grpc_status(), Some("9"));
    let value = answer.metadata["tsoracle-leader-hint-bin"].to_str().unwrap();
    assert_eq!(value.trim_end_matches('='), "Cg4xMC4wLjAuNzo1MDU1MRICECo");
    assert_eq!(answer.metadata["tsoracle-sessions"], "1");
}

#[tokio::test]
async fn nobody_is_sent_where_he_is() {
    let driver = Scripted::follower("10.0.0.7:50551", 42);
    let server = Server::builder().driver(driver).advertise("10.0.0.7:50551");
    let server = Running::start(server).await;
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    let [ts, others @ ..] = refusals(&server).await;
    assert_eq!(hint(&ts), None);
    for status in others {
        assert_eq!(hint(&status).as_deref(), Some(&b""[..]));
    }
}

#[tokio::test]
async fn an_unknown_leader_is_said_differently_to_each() {
    let options = OracleOptions { hold: Duration::ZERO, ..OracleOptions::default() };
    let server = Server::builder().driver(Scripted::new(Leadership::Unknown)).options(options);
    let server = Running::start(server).await;
    let [ts, others @ ..] = refusals(&server).await;
    assert_eq!((ts.code(), ts.message()), (Code::FailedPrecondition, "not leader"));
    assert_eq!(hint(&ts), None);
    for status in others {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not leader"));
        assert_eq!(hint(&status).as_deref(), Some(&b""[..]));
    }
}

#[tokio::test]
async fn a_request_is_held_until_there_is_a_leader() {
    let driver = Scripted::new(Leadership::Unknown);
    let options = OracleOptions { hold: Duration::from_secs(60), ..OracleOptions::default() };
    let server = Server::builder().driver(driver.clone()).options(options);
    let server = Running::start(server).await;
    let mut client = server.tso().await;
    let held = tokio::spawn(async move { client.get_ts(v1::GetTsRequest { count: 1 }).await });
    while server.oracle.status().waiting == 0 {
        tokio::task::yield_now().await;
    }
    driver.lead(Leadership::Leader { claim: 1 });
    assert_eq!(held.await.unwrap().unwrap().get_ref().epoch_lo, 1);
}

#[tokio::test]
async fn what_is_wrong_with_the_request_comes_before_who_leads() {
    let server = Running::over(Scripted::follower("10.0.0.7:50551", 42)).await;
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    let mut client = server.tso().await;
    for count in [0, 262_145, u32::MAX] {
        let status = client.get_ts(v1::GetTsRequest { count }).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{count}");
    }
    let id = |number, first_incomplete| with_id("k", number, first_incomplete);
    let short =
        v1::RequestId { session: b"short".as_slice().into(), ..id(1, 1).request_id.unwrap() };
    let long_key = "k".repeat(129);
    for request in [
        seq("k", 0),
        seq("k", 65_537),
        seq("", 1),
        seq(&long_key, 1),
        id(0, 0),
        id(1, 0),
        id(1, 2),
        v1::GetSeqRequest { request_id: Some(short), ..seq("k", 1) },
    ] {
        let status = client.get_seq(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{request:?}");
        assert!(is_bare(&status), "{status:?}");
    }
    let batch = |keys: Vec<String>, request_id| {
        let entries = keys.into_iter().map(|key| v1::SeqRequestEntry { key, count: 1 });
        v1::GetSeqBatchRequest { entries: entries.collect(), request_id }
    };
    for (request, what) in [
        (batch(vec![], None), "empty"),
        (batch(vec![], id(1, 1).request_id), "empty, with an id that does not close"),
        (batch(vec!["a".into(), "b".into(), "a".into()], None), "duplicate"),
        (batch((0..129).map(|i| i.to_string()).collect(), None), "oversize"),
        (batch(vec!["a".into(), String::new()], None), "bad key"),
    ] {
        let status = client.get_seq_batch(request).await.unwrap_err();
        assert_eq!(status.code(), Code::InvalidArgument, "{what}");
    }
    let request = v1::ReadSeqRequest { key: String::new() };
    let status = server.sequences().await.read_seq(request).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
}

#[tokio::test]
async fn refusals_of_the_state_keep_their_reason() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    client.get_seq(with_id("k", 1, 1)).await.unwrap();
    // Another request under the same number.
    let status = client.get_seq(with_id("other", 1, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    // A number below the first that is waited for.
    client.get_seq(with_id("k", 3, 3)).await.unwrap();
    let status = client.get_seq(with_id("k", 2, 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(is_bare(&status), "{status:?}");
    // A retry in a session that nobody knows.
    let id = v1::RequestId {
        session: b"fedcba9876543210".as_slice().into(),
        number: 1,
        first_incomplete: 1,
        retry: true,
        ..Default::default()
    };
    let request = v1::GetSeqRequest { request_id: Some(id), ..seq("k", 1) };
    let status = client.get_seq(request).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert_eq!(status.metadata().get("tsoracle-session-unknown").unwrap(), "1");
    assert_eq!(hint(&status), None);
    // A key that was never used.
    let request = v1::ReadSeqRequest { key: "unused".into() };
    let status = server.sequences().await.read_seq(request).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound);
}

#[tokio::test]
async fn caps_are_resource_exhausted() {
    let limits = Limits { keys: 1, sessions: 1, open_requests: 1, leases: 1, named: 1 };
    let options = OracleOptions { limits, ..OracleOptions::default() };
    let server = Server::builder().driver(Scripted::leader()).options(options);
    let server = Running::start(server).await;
    let mut client = server.tso().await;
    client.get_seq(with_id("k", 1, 1)).await.unwrap();
    let other = v1::RequestId {
        session: b"fedcba9876543210".as_slice().into(),
        number: 1,
        first_incomplete: 1,
        ..v1::RequestId::default()
    };
    for request in [
        seq("another", 1),
        v1::GetSeqRequest { request_id: Some(other), ..seq("k", 1) },
        with_id("k", 2, 1),
    ] {
        let status = client.get_seq(request.clone()).await.unwrap_err();
        assert_eq!(status.code(), Code::ResourceExhausted, "{request:?}");
        assert!(is_bare(&status), "{status:?}");
    }
}

#[tokio::test]
async fn too_many_waiting_is_resource_exhausted() {
    let driver = Scripted::leader();
    driver.behave(Manner::Hang);
    let options = OracleOptions { max_waiting: 1, ..OracleOptions::default() };
    let server = Server::builder().driver(driver.clone()).options(options);
    let server = Running::start(server).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let mut client = server.tso().await;
    let mut waits = client.clone();
    let waiting = tokio::spawn(async move { waits.get_seq(seq("k", 1)).await });
    driver.has_begun(1).await;
    let status = client.get_seq(seq("k", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::ResourceExhausted);
    driver.behave(Manner::Commit);
    assert_eq!(waiting.await.unwrap().unwrap().get_ref().start, 0);
}

#[tokio::test]
async fn what_is_certainly_not_committed_says_so() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let mut client = server.tso().await;
    driver.behave(Manner::Fail(ErrorKind::Unavailable));
    let status = client.get_seq(seq("k", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert_eq!(status.metadata().get("tsoracle-uncommitted").unwrap(), "1");
    driver.behave(Manner::Commit);
    assert_eq!(client.get_seq(seq("k", 1)).await.unwrap().get_ref().start, 0);
}

#[tokio::test]
async fn what_may_be_committed_does_not() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let mut client = server.tso().await;
    driver.behave(Manner::CommitAndFail(ErrorKind::Uncertain));
    let status = client.get_seq(seq("k", 1)).await.unwrap_err();
    assert_eq!(status.code(), Code::Unavailable);
    assert!(is_bare(&status), "{status:?}");
    driver.behave(Manner::Commit);
    assert_eq!(client.get_seq(seq("k", 1)).await.unwrap().get_ref().start, 1);
}

#[tokio::test]
async fn a_sequence_does_not_overflow() {
    let server = Running::over(Scripted::leader()).await;
    server.oracle.seed_seq(SeqKey::new("k").unwrap(), u64::MAX - 1).await.unwrap();
    let status = server.tso().await.get_seq(seq("k", 2)).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(status.message().contains("cannot advance") && is_bare(&status), "{status:?}");
    let dead = v1::SeedSeqRequest { key: "dead".into(), start: u64::MAX };
    let status = server.sequences().await.seed_seq(dead).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument);
    assert!(status.message().contains("18446744073709551614") && is_bare(&status), "{status:?}");
}

#[tokio::test]
async fn a_latched_error_is_internal_and_ends_the_server() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let mut client = server.tso().await;
    driver.behave(Manner::Fail(ErrorKind::Fatal));
    let status = client.get_seq(seq("k", 1)).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::Internal, "as scripted"));
    assert!(is_bare(&status), "{status:?}");
    let error = server.ended().await.unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Fatal);
    assert!(error.to_string().contains("as scripted"), "{error}");
}

#[tokio::test]
async fn a_fenced_leader_does_not_lead() {
    let driver = Scripted::leader();
    let server = Running::over(driver.clone()).await;
    let mut client = server.tso().await;
    client.get_seq(seq("k", 1)).await.unwrap();
    driver.behave(Manner::Hang);
    let mut waits = client.clone();
    let waiting = tokio::spawn(async move { waits.get_seq(seq("k", 1)).await });
    driver.has_begun(2).await;
    driver.lead(Leadership::Follower { leader: None });
    server.reach(|phase| matches!(phase, Phase::Following(_))).await;
    driver.behave(Manner::Fail(ErrorKind::NotLeader(None)));
    let status = waiting.await.unwrap().unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not leader"));
    assert_eq!(hint(&status).as_deref(), Some(&b""[..]));
}

#[tokio::test]
async fn a_lease_that_has_run_out_is_not_served_under() {
    let clock = ManualClock::new(1_800_000_000_000);
    let options = OracleOptions {
        clock: Arc::new(clock.clone()),
        hold: Duration::ZERO,
        ..OracleOptions::default()
    };
    let driver = Scripted::leader();
    let server = Server::builder().driver(driver.clone()).options(options);
    let server = Running::start(server).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    let mut client = server.tso().await;
    client.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
    driver.stall(true);
    clock.advance(Duration::from_secs(2));
    let status = client.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap_err();
    assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not leader"));
    assert!(is_bare(&status), "{status:?}");
    driver.stall(false);
    while client.get_ts(v1::GetTsRequest { count: 1 }).await.is_err() {}
}

#[tokio::test]
async fn whoever_is_stopping_does_not_lead() {
    let oracle = Oracle::start(Scripted::leader(), OracleOptions::default()).unwrap();
    let server = Running::start(Server::builder().oracle(oracle.clone())).await;
    server.tso().await.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
    oracle.shutdown().await.unwrap();
    let [ts, others @ ..] = refusals(&server).await;
    assert_eq!((ts.code(), ts.message()), (Code::FailedPrecondition, "not leader"));
    assert_eq!(hint(&ts), None);
    for status in others {
        assert_eq!((status.code(), status.message()), (Code::FailedPrecondition, "not leader"));
        assert_eq!(hint(&status).as_deref(), Some(&b""[..]));
    }
}

#[tokio::test]
async fn the_end_of_time_is_out_of_range() {
    let driver = Scripted::new(Leadership::Unknown);
    let high_water_ms = MAX_HIGH_WATER_MS - 10;
    let failover_advance = Duration::from_millis(1);
    // A year before it is the last time at which a node takes over.
    let years = Duration::from_secs(2 * 366 * 24 * 3_600);
    let clock = ManualClock::new(MAX_HIGH_WATER_MS - u64::try_from(years.as_millis()).unwrap());
    let options = OracleOptions {
        failover_advance,
        max_clock_step: years,
        max_clock_jump: years,
        clock: Arc::new(clock.clone()),
        ..OracleOptions::default()
    };
    let server = Server::builder().driver(driver.clone()).options(options);
    let server = Running::start(server).await;
    driver.lead(Leadership::Leader { claim: 1 });
    let mut client = server.tso().await;
    client.get_ts(v1::GetTsRequest { count: 1 }).await.unwrap();
    clock.set_wall(high_water_ms + 1);
    let status = loop {
        match client.get_ts(v1::GetTsRequest { count: 262_144 }).await {
            Ok(answer) => assert!(answer.get_ref().physical_ms > high_water_ms),
            Err(status) => break status,
        }
    };
    assert_eq!(status.code(), Code::OutOfRange, "{status:?}");
}
