//! Each call, and each sequence.

use prost::Message;
use serde_json::Value;
use tonic::Code;
use tsoracle_core::SeqKey;
use tsoracle_proto::v1;
use tsoracle_server::{Rules, Trust};

use super::{World, acquire, reason, seed, token};
use crate::common::raw::Connection;

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
        (
            "SequenceService/OpenSeqs",
            v1::OpenSeqsRequest { floors: vec![], accept_sequence_loss: true }.encode_to_vec(),
            [Unauthenticated, PermissionDenied, PermissionDenied, Ok],
        ),
        ("BackupService/Backup", vec![], [Unauthenticated, PermissionDenied, PermissionDenied, Ok]),
        ("ClusterService/Troubles", vec![], [Unauthenticated, PermissionDenied, Ok, Ok]),
        (
            "ClusterService/Reload",
            vec![],
            [Unauthenticated, PermissionDenied, PermissionDenied, Unimplemented],
        ),
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
    let refused: Vec<_> = world
        .audited()
        .into_iter()
        .filter(|line| line["event"] == "refused")
        .map(|line| ["identity", "right", "object"].map(|field| line[field].clone()))
        .collect();
    let of = |object: &str| ["shop", "lease", object].map(Value::from);
    let (holder, id) = (of("lease of holder \"holder\""), of(&format!("lease {}", lease.lease_id)));
    assert_eq!(refused, [holder.clone(), holder, id.clone(), id]);
}

#[tokio::test]
async fn the_right_to_release_is_enough_to_release() {
    let world = World::new().await;
    let method = "TsoService/AcquireLease";
    let lease: v1::AcquireLeaseResponse =
        world.call(Some("billing"), method, &acquire("holder", 1)).await.message();
    let release = v1::ReleaseLeaseRequest { lease_id: lease.lease_id };
    let end = "TsoService/ReleaseLease";
    assert_eq!(world.code(Some("watcher"), end, &release).await, Code::PermissionDenied);
    assert_eq!(world.code(Some("janitor"), end, &release).await, Code::Ok);
    assert_eq!(world.code(Some("janitor"), method, &acquire("a", 1)).await, Code::PermissionDenied);
}

#[tokio::test]
async fn what_is_no_key_is_refused_as_such_and_fills_no_record() {
    let world = World::new().await;
    let key = "k".repeat(500_000);
    assert_eq!(world.get_seq(Some("billing"), &key).await, Code::InvalidArgument);
    let entries = vec![v1::SeqRequestEntry { key: key.clone(), count: 1 }];
    let batch = v1::GetSeqBatchRequest { entries, request_id: None };
    let code = world.code(Some("billing"), "TsoService/GetSeqBatch", &batch).await;
    assert_eq!(code, Code::InvalidArgument);
    let list = v1::ListSeqsRequest { prefix: key.clone(), ..Default::default() };
    let code = world.code(Some("billing"), "SequenceService/ListSeqs", &list).await;
    assert_eq!(code, Code::InvalidArgument);
    let code = world.code(Some("keeper"), "SequenceService/SeedSeq", &seed(&key)).await;
    assert_eq!(code, Code::InvalidArgument);
    let recorded = world.audited();
    assert!(recorded.is_empty(), "{}", recorded.len());
}

#[tokio::test]
async fn a_batch_larger_than_a_rate_is_let_once_a_second() {
    let world = World::new().await;
    let keys = (0..10).map(|key| v1::SeqRequestEntry { key: format!("{key}"), count: 1 });
    let batch = v1::GetSeqBatchRequest { entries: keys.collect(), request_id: None };
    let method = "TsoService/GetSeqBatch";
    assert_eq!(world.code(Some("slow"), method, &batch).await, Code::Ok);
    // However slow the machine is, some follow each other within a second.
    let mut last = Code::Ok;
    for _ in 0..100 {
        last = world.code(Some("slow"), method, &batch).await;
        if last != Code::Ok {
            break;
        }
    }
    assert_eq!(last, Code::ResourceExhausted);
}

#[tokio::test]
async fn a_path_that_is_nearly_one_is_no_call() {
    let world = World::trusting(Trust::Open, Rules::default()).await;
    for path in [
        "tsoracle.v1.SequenceService/SeedSeq/",
        "tsoracle.v1.SequenceService//SeedSeq",
        "/tsoracle.v1.SequenceService/SeedSeq",
        "tsoracle.v1.SequenceService/%53eedSeq",
        "tsoracle.v1.SequenceService/seedseq",
        "tsoracle.v1.SequenceService/x/../SeedSeq",
        "TSORACLE.v1.SequenceService/SeedSeq",
        "x/tsoracle.v1.SequenceService/SeedSeq",
    ] {
        let answer = world.connection.call(path, &[], &seed("orders")).await.unwrap();
        assert_eq!(answer.grpc_status(), Some("12"), "{path}: {answer:?}");
    }
    assert_eq!(world.server.oracle.read_seq(SeqKey::new("orders").unwrap()).await.unwrap(), None);
    // With a policy a query takes nothing away.
    let world = World::new().await;
    let path = "tsoracle.v1.SequenceService/SeedSeq?x=/tsoracle.v1.TsoService/GetTs";
    let answer = world.connection.call(path, &[], &seed("orders")).await.unwrap();
    assert_eq!(answer.grpc_status(), Some("16"), "{answer:?}");
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
async fn an_identity_begins_no_more_sessions_and_names_than_its_limits() {
    let world = World::new().await;
    let session = |first: u8| v1::RequestId {
        session: vec![first; 16].into(),
        number: 1,
        first_incomplete: 1,
        ..v1::RequestId::default()
    };
    let named = |name: &str| v1::RequestId { name: name.into(), ..v1::RequestId::default() };
    for (first, second, what) in [
        (session(1), session(2), "1 sessions"),
        (named("order-1"), named("order-2"), "1 named requests"),
    ] {
        let get_seq = |id: &v1::RequestId| v1::GetSeqRequest {
            key: "a".into(),
            count: 1,
            request_id: Some(id.clone()),
        };
        let method = "TsoService/GetSeq";
        assert_eq!(world.code(Some("small"), method, &get_seq(&first)).await, Code::Ok);
        let refused = world.call(Some("small"), method, &get_seq(&second)).await;
        assert_eq!(refused.grpc_status(), Some("8"), "{refused:?}");
        assert!(reason(&refused).contains(what), "{}", reason(&refused));
        let again = world.code(Some("small"), method, &get_seq(&first)).await;
        assert_eq!(again, Code::Ok, "what it has goes on");
        assert_eq!(world.code(Some("shop"), method, &get_seq(&second)).await, Code::Ok);
    }
}
