//! The bytes on the wire: field numbers and types never change, whatever the names become.

use prost::Message as _;
use tonic::metadata::{MetadataMap, MetadataValue};
use tsoracle_proto::v1::*;
use tsoracle_proto::{FILE_DESCRIPTOR_SET, metadata};

/// Asserts the exact encoding, given as hex with spaces, and that it decodes to the same message.
#[track_caller]
fn assert_wire<M: prost::Message + Default + PartialEq + std::fmt::Debug>(message: M, hex: &str) {
    let encoded = message.encode_to_vec();
    let shown = encoded.iter().map(|byte| format!("{byte:02x}")).collect::<Vec<_>>().join(" ");
    assert_eq!(shown, hex);
    assert_eq!(M::decode(encoded.as_slice()).expect("own encoding"), message);
}

fn epoch() -> Option<EpochWire> {
    Some(EpochWire { hi: 1, lo: 2 })
}

fn request_id() -> Option<RequestId> {
    let session = vec![0xab; 16].into();
    let name = String::new();
    Some(RequestId { session, number: 7, first_incomplete: 5, retry: true, close: true, name })
}

const REQUEST_ID: &str = "a2 06 1a 0a 10 ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab ab 10 07 18 \
                          05 20 01 28 01";

#[test]
fn the_leader_hint_is_the_documented_example() {
    let hint = LeaderHint {
        leader_endpoint: Some("10.0.0.7:50551".into()),
        leader_epoch: Some(42u128.into()),
    };
    assert_wire(hint, "0a 0e 31 30 2e 30 2e 30 2e 37 3a 35 30 35 35 31 12 02 10 2a");
    assert_wire(LeaderHint::default(), "");
}

#[test]
fn timestamps() {
    assert_wire(GetTsRequest { count: 3 }, "08 03");
    let response =
        GetTsResponse { physical_ms: 1, logical_start: 2, count: 3, epoch_hi: 4, epoch_lo: 5 };
    assert_wire(response, "08 01 10 02 18 03 20 04 28 05");
    assert_wire(GetCurrentMaxSafeRequest {}, "");
    let response = GetCurrentMaxSafeResponse {
        max_safe_physical_ms: 1,
        epoch_hi: 2,
        epoch_lo: 3,
        clock_off_ms: -1,
        ahead_of_clock_ms: 5,
    };
    assert_wire(response, "08 01 10 02 18 03 a0 06 01 a8 06 05");
    assert_wire(GetSafeFrontierRequest {}, "");
    let response = GetSafeFrontierResponse { frontier_physical_ms: 1, epoch_hi: 2, epoch_lo: 3 };
    assert_wire(response, "08 01 10 02 18 03");
}

#[test]
fn sequences() {
    let plain = GetSeqRequest { key: "k".into(), count: 2, request_id: None };
    assert_wire(plain, "0a 01 6b 10 02");
    let named = GetSeqRequest { key: "k".into(), count: 2, request_id: request_id() };
    assert_wire(named, &format!("0a 01 6b 10 02 {REQUEST_ID}"));
    let response = GetSeqResponse { key: "k".into(), start: 1, count: 2, epoch: epoch() };
    assert_wire(response, "0a 01 6b 10 01 18 02 22 04 08 01 10 02");
    let entries = vec![SeqRequestEntry { key: "k".into(), count: 2 }];
    let batch = GetSeqBatchRequest { entries, request_id: request_id() };
    assert_wire(batch, &format!("0a 05 0a 01 6b 10 02 {REQUEST_ID}"));
    let grants = vec![SeqGrantEntry { key: "k".into(), start: 1, count: 2 }];
    let response = GetSeqBatchResponse { grants, epoch: epoch() };
    assert_wire(response, "0a 07 0a 01 6b 10 01 18 02 12 04 08 01 10 02");
}

#[test]
fn streamed_sequences() {
    let request = GetSeqRequest { key: "k".into(), count: 2, request_id: None };
    assert_wire(StreamSeqRequest { requests: vec![request], run: None }, "0a 05 0a 01 6b 10 02");
    let granted = GetSeqResponse { key: "k".into(), start: 1, count: 2, epoch: None };
    let granted = SeqOutcome { outcome: Some(seq_outcome::Outcome::Granted(granted)) };
    let failure = SeqFailure {
        code: 9,
        message: "m".into(),
        uncommitted: true,
        hint: Some(LeaderHint::default()),
        session_unknown: true,
    };
    assert_wire(failure.clone(), "08 09 12 01 6d 18 01 22 00 28 01");
    let failed = SeqOutcome { outcome: Some(seq_outcome::Outcome::Failed(failure)) };
    let response = StreamSeqResponse { outcomes: vec![granted, failed], run: None };
    assert_wire(
        response,
        "0a 09 0a 07 0a 01 6b 10 01 18 02 0a 0d 12 0b 08 09 12 01 6d 18 01 22 00 28 01",
    );
}

#[test]
fn runs_of_streamed_sequences() {
    let run = SeqRun {
        session: b"s".to_vec().into(),
        first_number: 2,
        first_incomplete: 1,
        keys: b"kll".to_vec().into(),
        key_bytes: vec![1, 2],
        counts: vec![3],
    };
    let run_bytes = "0a 01 73 10 02 18 01 22 03 6b 6c 6c 2a 02 01 02 32 01 03";
    assert_wire(run.clone(), run_bytes);
    let request = StreamSeqRequest { requests: vec![], run: Some(run) };
    assert_wire(request, &format!("a2 06 13 {run_bytes}"));
    let failure = SeqFailure { code: 9, ..SeqFailure::default() };
    let failures = vec![SeqRunFailure { index: 1, failure: Some(failure) }];
    let outcome = SeqRunOutcome { starts: vec![7, 0], epoch: epoch(), failures };
    let outcome_bytes = "0a 02 07 00 12 04 08 01 10 02 1a 06 08 01 12 02 08 09";
    assert_wire(outcome.clone(), outcome_bytes);
    let response = StreamSeqResponse { outcomes: vec![], run: Some(outcome) };
    assert_wire(response, &format!("a2 06 12 {outcome_bytes}"));
}

#[test]
fn stamping_leases() {
    let acquire = AcquireLeaseRequest { holder: b"h".to_vec().into(), holder_epoch: 2, ttl_ms: 3 };
    assert_wire(acquire, "0a 01 68 10 02 18 03");
    let acquired = AcquireLeaseResponse {
        lease_id: 1,
        ts_upper_bound: 2,
        expires_at_ms: 3,
        epoch: epoch(),
        remaining_ms: 4,
    };
    assert_wire(acquired, "08 01 10 02 18 03 22 04 08 01 10 02 a0 06 04");
    assert_wire(RenewLeaseRequest { lease_id: 1 }, "08 01");
    let renewed =
        RenewLeaseResponse { ts_upper_bound: 1, expires_at_ms: 2, epoch: epoch(), remaining_ms: 4 };
    assert_wire(renewed, "08 01 10 02 1a 04 08 01 10 02 a0 06 04");
    assert_wire(ReleaseLeaseRequest { lease_id: 1 }, "08 01");
    assert_wire(ReleaseLeaseResponse {}, "");
}

#[test]
fn the_sequence_service() {
    assert_wire(ReadSeqRequest { key: "k".into() }, "0a 01 6b");
    let read = ReadSeqResponse { key: "k".into(), next: 2, epoch: epoch() };
    assert_wire(read, "0a 01 6b 10 02 1a 04 08 01 10 02");
    let list = ListSeqsRequest { prefix: "p".into(), page_size: 2, start_after: "k".into() };
    assert_wire(list, "0a 01 70 10 02 1a 01 6b");
    let entries = vec![SeqEntry { key: "k".into(), next: 2 }];
    let listed = ListSeqsResponse { entries, more: true, epoch: epoch() };
    assert_wire(listed, "0a 05 0a 01 6b 10 02 10 01 1a 04 08 01 10 02");
    assert_wire(SeedSeqRequest { key: "k".into(), start: 2 }, "0a 01 6b 10 02");
    let seeded = SeedSeqResponse { key: "k".into(), next: 2, epoch: epoch() };
    assert_wire(seeded, "0a 01 6b 10 02 1a 04 08 01 10 02");
}

#[test]
fn a_server_without_request_ids_reads_the_rest() {
    #[derive(Clone, PartialEq, prost::Message)]
    struct PublicGetSeqRequest {
        #[prost(string, tag = "1")]
        key: String,
        #[prost(uint32, tag = "2")]
        count: u32,
    }
    let named = GetSeqRequest { key: "k".into(), count: 2, request_id: request_id() };
    let read = PublicGetSeqRequest::decode(named.encode_to_vec().as_slice()).unwrap();
    assert_eq!(read, PublicGetSeqRequest { key: "k".into(), count: 2 });
}

#[test]
fn the_descriptor_set_names_every_rpc() {
    let set = prost_types::FileDescriptorSet::decode(FILE_DESCRIPTOR_SET).unwrap();
    let mut rpcs: Vec<String> = Vec::new();
    for service in set.file.iter().flat_map(|file| &file.service) {
        rpcs.extend(service.method.iter().map(|rpc| format!("{}/{}", service.name(), rpc.name())));
    }
    let expected = [
        "TsoService/GetTs",
        "TsoService/GetCurrentMaxSafe",
        "TsoService/GetSeq",
        "TsoService/GetSeqBatch",
        "TsoService/AcquireLease",
        "TsoService/RenewLease",
        "TsoService/ReleaseLease",
        "TsoService/GetSafeFrontier",
        "TsoService/StreamTs",
        "TsoService/StreamSeq",
        "SequenceService/ReadSeq",
        "SequenceService/ListSeqs",
        "SequenceService/SeedSeq",
        "SequenceService/DeleteSeq",
        "SequenceService/OpenSeqs",
        "ClusterService/Members",
        "ClusterService/Change",
        "ClusterService/Troubles",
        "ClusterService/Reload",
        "BackupService/Backup",
    ];
    assert_eq!(rpcs, expected);
    assert!(set.file.iter().all(|file| file.package() == "tsoracle.v1"));
}

#[test]
fn epochs_keep_all_their_bits() {
    for epoch in [0, 1, u128::from(u64::MAX), 1 << 64, u128::MAX, (3 << 64) | 5] {
        assert_eq!(u128::from(EpochWire::from(epoch)), epoch);
    }
}

#[test]
fn trailers_are_read_as_written() {
    let mut trailers = MetadataMap::new();
    assert_eq!(metadata::leader_hint(&trailers), None);
    metadata::insert_leader_hint(&mut trailers, &LeaderHint::default());
    assert_eq!(metadata::leader_hint(&trailers), Some(LeaderHint::default()));
    let hint = LeaderHint { leader_endpoint: Some("a:1".into()), leader_epoch: epoch() };
    metadata::insert_leader_hint(&mut trailers, &hint);
    assert_eq!(metadata::leader_hint(&trailers), Some(hint));
    trailers.insert_bin(metadata::LEADER_HINT, MetadataValue::from_bytes(b"\xff\xff"));
    assert_eq!(metadata::leader_hint(&trailers), Some(LeaderHint::default()));

    for flag in [metadata::UNCOMMITTED, metadata::SESSION_UNKNOWN, metadata::SESSIONS] {
        assert!(!metadata::has_flag(&trailers, flag));
        metadata::insert_flag(&mut trailers, flag);
        assert!(metadata::has_flag(&trailers, flag));
    }
}
