//! Who is who, at which address, and what is on record of it.

use http::Method;
use serde_json::Value;
use tonic::{Code, Status};
use tsoracle_core::{Phase, SeqKey};
use tsoracle_proto::v1;
use tsoracle_server::{Access, Audit, Rules, Server, Trust};

use crate::common::{
    Running,
    driver::{Manner, Scripted},
    raw::Connection,
};

use super::{NAMES, POLICY, World, reason, rules, seed, token};

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

#[tokio::test]
async fn an_address_of_administrators_names_no_address_of_clients() {
    for (is_for_administrators, expected) in [(false, true), (true, false)] {
        let mut builder = Server::builder().driver(Scripted::follower("10.0.0.7:50551", 1));
        if is_for_administrators {
            builder = builder.for_administrators();
        }
        let follower = Running::start(builder).await;
        follower.reach(|phase| matches!(phase, Phase::Following(_))).await;
        let connection = Connection::open(follower.address).await;
        let path = "tsoracle.v1.SequenceService/SeedSeq";
        let answer = connection.call(path, &[], &seed("orders")).await.unwrap();
        assert_eq!(answer.grpc_status(), Some("9"));
        let status = Status::from_header_map(&answer.metadata).unwrap();
        let hint = tsoracle_proto::metadata::leader_hint(status.metadata());
        let names_one = hint.is_some_and(|hint| hint.leader_endpoint.is_some());
        assert_eq!(names_one, expected);
    }
}

#[tokio::test]
async fn an_identity_has_no_more_places_to_wait_in_than_its_limit() {
    let driver = Scripted::leader();
    let policy = POLICY.replace(r#""keys": 1"#, r#""waiting": 1"#);
    let access = Access::new(rules(&policy, &NAMES), Audit::default());
    let builder = Server::builder().driver(driver.clone()).access(access);
    let server = Running::start(builder).await;
    server.oracle.get_ts(1).await.unwrap();
    driver.behave(Manner::Hang);
    let ask = |name| async move {
        let connection = Connection::open(server.address).await;
        let header = format!("Bearer {}", token(name).0);
        let request = v1::GetSeqRequest { key: "a".into(), count: 1, request_id: None };
        let headers = [("authorization", &*header)];
        let answer = connection.call("tsoracle.v1.TsoService/GetSeq", &headers, &request).await;
        answer.unwrap().grpc_status().map(str::to_owned)
    };
    let waiting = || server.oracle.status().waiting;
    // One is on its way to the driver, and another one waits behind it.
    let begun = driver.begun();
    let _first = tokio::spawn(ask("small"));
    while driver.begun() == begun {
        tokio::task::yield_now().await;
    }
    let _second = tokio::spawn(ask("small"));
    while waiting() < 1 {
        tokio::task::yield_now().await;
    }
    assert_eq!(ask("small").await.as_deref(), Some("8"));
    let _other = tokio::spawn(ask("shop"));
    while waiting() < 2 {
        tokio::task::yield_now().await;
    }
}
