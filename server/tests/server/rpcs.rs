//! Every call, when all is well.

use std::{sync::Arc, time::Duration};

use tonic::{Code, Request};
use tsoracle_core::{ManualClock, OracleOptions, Phase};
use tsoracle_proto::{metadata, v1};
use tsoracle_server::Server;

use crate::common::{Running, memory};

fn id(number: u64) -> v1::RequestId {
    let session = b"0123456789abcdef".as_slice().into();
    v1::RequestId { session, number, first_incomplete: 1, ..v1::RequestId::default() }
}

fn seq(key: &str, count: u32, request_id: Option<v1::RequestId>) -> v1::GetSeqRequest {
    v1::GetSeqRequest { key: key.into(), count, request_id }
}

fn batch(entries: &[(&str, u32)], request_id: Option<v1::RequestId>) -> v1::GetSeqBatchRequest {
    let entries =
        entries.iter().map(|&(key, count)| v1::SeqRequestEntry { key: key.into(), count });
    v1::GetSeqBatchRequest { entries: entries.collect(), request_id }
}

#[tokio::test]
async fn timestamps_rise_and_carry_the_epoch() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    let mut last = 0;
    for count in [1, 7, 262_144, 1] {
        let answer = client.get_ts(v1::GetTsRequest { count }).await.unwrap().into_inner();
        let first = answer.physical_ms << 18 | u64::from(answer.logical_start);
        assert!(first > last);
        assert_eq!(answer.count, count);
        assert!(u64::from(answer.logical_start) + u64::from(count) <= 1 << 18);
        assert_eq!((answer.epoch_hi, answer.epoch_lo), (0, 1));
        last = first + u64::from(count) - 1;
    }
}

#[tokio::test]
async fn the_safe_point_lies_a_window_below_the_high_water() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    let answer = client.get_current_max_safe(v1::GetCurrentMaxSafeRequest {}).await.unwrap();
    let status = server.oracle.status();
    assert_eq!(answer.get_ref().max_safe_physical_ms, status.max_safe_physical_ms);
    assert_ne!(answer.get_ref().max_safe_physical_ms, 0);
    assert_eq!(answer.get_ref().epoch_lo, 1);
}

#[tokio::test]
async fn the_safe_point_is_known_after_an_idle_while_too() {
    let clock = ManualClock::new(1_800_000_000_000);
    let options = OracleOptions { clock: Arc::new(clock.clone()), ..OracleOptions::default() };
    let server = Server::builder().driver(memory().await).options(options);
    let server = Running::start(server).await;
    server.reach(|phase| matches!(phase, Phase::Serving { .. })).await;
    // The lease has lapsed, but nobody else leads.
    clock.advance(Duration::from_secs(3_600));
    assert_eq!(server.oracle.status().max_safe_physical_ms, 0);
    let mut client = server.tso().await;
    let answer = client.get_current_max_safe(v1::GetCurrentMaxSafeRequest {}).await.unwrap();
    assert!(answer.get_ref().max_safe_physical_ms > 1_800_000_000_000);
    assert_eq!(answer.get_ref().epoch_lo, 1);
}

#[tokio::test]
async fn sequences_start_at_0_and_leave_no_gap() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    for start in [0, 64, 128] {
        let answer = client.get_seq(seq("orders", 64, None)).await.unwrap().into_inner();
        let epoch = Some(v1::EpochWire { hi: 0, lo: 1 });
        assert_eq!(answer, v1::GetSeqResponse { key: "orders".into(), start, count: 64, epoch });
    }
    let answer = client.get_seq_batch(batch(&[("b", 2), ("orders", 1), ("a", 3)], None)).await;
    let answer = answer.unwrap().into_inner();
    assert_eq!(answer.epoch, Some(v1::EpochWire { hi: 0, lo: 1 }));
    let grants: Vec<_> = answer.grants.iter().map(|g| (&*g.key, g.start, g.count)).collect();
    assert_eq!(grants, [("b", 0, 2), ("orders", 192, 1), ("a", 0, 3)], "in the order asked for");
}

#[tokio::test]
async fn the_same_request_gets_the_same_block() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    let once = client.get_seq(seq("k", 5, Some(id(1)))).await.unwrap().into_inner();
    let again = v1::RequestId { retry: true, ..id(1) };
    let twice = client.get_seq(seq("k", 5, Some(again))).await.unwrap().into_inner();
    assert_eq!(once, twice);
    let batched = batch(&[("k", 1), ("l", 1)], Some(id(2)));
    let once = client.get_seq_batch(batched.clone()).await.unwrap().into_inner();
    assert_eq!(once, client.get_seq_batch(batched).await.unwrap().into_inner());
    assert_eq!(client.get_seq(seq("k", 1, None)).await.unwrap().get_ref().start, 6);
}

#[tokio::test]
async fn a_session_can_be_closed() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    client.get_seq(seq("k", 5, Some(id(1)))).await.unwrap();
    let close = v1::RequestId { close: true, ..id(2) };
    let closed = client.get_seq_batch(batch(&[], Some(close))).await.unwrap().into_inner();
    assert!(closed.grants.is_empty() && closed.epoch.is_some());
    let again = v1::RequestId { retry: true, ..id(1) };
    let status = client.get_seq(seq("k", 5, Some(again))).await.unwrap_err();
    assert_eq!(status.code(), Code::FailedPrecondition);
    assert!(metadata::has_flag(status.metadata(), metadata::SESSION_UNKNOWN));
}

#[tokio::test]
async fn a_sequence_can_be_read() {
    let server = Running::in_memory().await;
    server.tso().await.get_seq(seq("orders", 64, None)).await.unwrap();
    let request = v1::ReadSeqRequest { key: "orders".into() };
    let answer = server.sequences().await.read_seq(request).await.unwrap().into_inner();
    let epoch = Some(v1::EpochWire { hi: 0, lo: 1 });
    assert_eq!(answer, v1::ReadSeqResponse { key: "orders".into(), next: 64, epoch });
}

#[tokio::test]
async fn sequences_are_listed_in_pages() {
    let server = Running::in_memory().await;
    let mut tso = server.tso().await;
    let mut sequences = server.sequences().await;
    for (key, count) in [("orders-b", 2), ("orders-a", 1), ("other", 9), ("orders-c", 3)] {
        tso.get_seq(seq(key, count, None)).await.unwrap();
    }
    let mut page = async |page_size, start_after: &str| {
        let (prefix, start_after) = ("orders-".into(), start_after.into());
        let request = v1::ListSeqsRequest { prefix, page_size, start_after };
        let page = sequences.list_seqs(request).await.unwrap().into_inner();
        assert_eq!(page.epoch, Some(v1::EpochWire { hi: 0, lo: 1 }));
        let entries = page.entries.into_iter().map(|entry| (entry.key, entry.next));
        (entries.collect::<Vec<_>>(), page.more)
    };
    let entry = |key: &str, next| (key.to_owned(), next);
    let all = vec![entry("orders-a", 1), entry("orders-b", 2), entry("orders-c", 3)];
    assert_eq!(page(2, "").await, (all[..2].to_vec(), true));
    assert_eq!(page(2, "orders-b").await, (all[2..].to_vec(), false));
    for page_size in [0, 3, 1_000, u32::MAX] {
        assert_eq!(page(page_size, "").await, (all.clone(), false));
    }
}

#[tokio::test]
async fn a_page_holds_no_more_than_a_thousand_sequences() {
    let server = Running::in_memory().await;
    let mut tso = server.tso().await;
    for hundred in 0..11 {
        let keys: Vec<_> = (0..100).map(|n| format!("{hundred:02}-{n:02}")).collect();
        let entries: Vec<_> = keys.iter().map(|key| (key.as_str(), 1)).collect();
        tso.get_seq_batch(batch(&entries, None)).await.unwrap();
    }
    let request = v1::ListSeqsRequest { page_size: 5_000, ..v1::ListSeqsRequest::default() };
    let mut sequences = server.sequences().await;
    let page = sequences.list_seqs(request).await.unwrap().into_inner();
    assert_eq!((page.entries.len(), page.more), (1_000, true));
    let default = sequences.list_seqs(v1::ListSeqsRequest::default()).await.unwrap().into_inner();
    assert_eq!((default.entries.len(), default.more), (100, true));
}

#[tokio::test]
async fn a_sequence_is_seeded_once() {
    let server = Running::in_memory().await;
    let mut sequences = server.sequences().await;
    let request = v1::SeedSeqRequest { key: "orders".into(), start: 1_000 };
    let seeded = sequences.seed_seq(request.clone()).await.unwrap().into_inner();
    let epoch = Some(v1::EpochWire { hi: 0, lo: 1 });
    assert_eq!(seeded, v1::SeedSeqResponse { key: "orders".into(), next: 1_000, epoch });
    let block = server.tso().await.get_seq(seq("orders", 5, None)).await.unwrap().into_inner();
    assert_eq!(block.start, 1_000);
    let status = sequences.seed_seq(request).await.unwrap_err();
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(status.message().contains("1005"), "{status}");
    let wrong = v1::SeedSeqRequest { key: String::new(), start: 1 };
    assert_eq!(sequences.seed_seq(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn a_named_request_gets_the_same_block_and_needs_no_session() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    let named = |name: &str| Some(v1::RequestId { name: name.into(), ..Default::default() });
    let once = client.get_seq(seq("k", 5, named("order-17"))).await.unwrap().into_inner();
    client.get_seq(seq("k", 1, named("order-18"))).await.unwrap();
    let twice = client.get_seq(seq("k", 5, named("order-17"))).await.unwrap().into_inner();
    assert_eq!(once, twice);
    let batched = batch(&[("k", 1), ("l", 1)], named("order-19"));
    let once = client.get_seq_batch(batched.clone()).await.unwrap().into_inner();
    assert_eq!(once, client.get_seq_batch(batched).await.unwrap().into_inner());
    let status = client.get_seq(seq("k", 6, named("order-17"))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    let both = v1::RequestId { name: "order-17".into(), ..id(1) };
    let status = client.get_seq(seq("k", 5, Some(both))).await.unwrap_err();
    assert_eq!(status.code(), Code::InvalidArgument, "{status}");
    assert_eq!(client.get_seq(seq("k", 1, None)).await.unwrap().get_ref().start, 7);
}

#[tokio::test]
async fn a_sequence_can_be_deleted() {
    let server = Running::in_memory().await;
    let (mut tso, mut sequences) = (server.tso().await, server.sequences().await);
    let request = v1::DeleteSeqRequest { key: "orders".into() };
    let status = sequences.delete_seq(request.clone()).await.unwrap_err();
    assert_eq!(status.code(), Code::NotFound, "{status}");
    let first = tso.get_seq(seq("orders", 64, Some(id(1)))).await.unwrap().into_inner();
    let deleted = sequences.delete_seq(request).await.unwrap().into_inner();
    let epoch = Some(v1::EpochWire { hi: 0, lo: 1 });
    assert_eq!(deleted, v1::DeleteSeqResponse { key: "orders".into(), next: 64, epoch });
    let status = sequences.read_seq(v1::ReadSeqRequest { key: "orders".into() }).await;
    assert_eq!(status.unwrap_err().code(), Code::NotFound);
    assert_eq!(tso.get_seq(seq("orders", 1, None)).await.unwrap().get_ref().start, 0);
    let again = v1::RequestId { retry: true, ..id(1) };
    let again = tso.get_seq(seq("orders", 64, Some(again))).await.unwrap().into_inner();
    assert_eq!(first, again, "a request of before gets its block of before");
    let wrong = v1::DeleteSeqRequest { key: String::new() };
    assert_eq!(sequences.delete_seq(wrong).await.unwrap_err().code(), Code::InvalidArgument);
}

#[tokio::test]
async fn every_answer_says_that_request_ids_are_honoured() {
    let server = Running::in_memory().await;
    let mut client = server.tso().await;
    let answer = client.get_ts(Request::new(v1::GetTsRequest { count: 1 })).await.unwrap();
    assert!(metadata::has_flag(answer.metadata(), metadata::SESSIONS));
    let answer = client.get_seq(seq("k", 1, None)).await.unwrap();
    assert!(metadata::has_flag(answer.metadata(), metadata::SESSIONS));
    for status in [
        client.get_ts(v1::GetTsRequest { count: 0 }).await.unwrap_err(),
        client.get_seq(seq("", 1, None)).await.unwrap_err(),
        client.renew_lease(v1::RenewLeaseRequest { lease_id: 9 }).await.unwrap_err(),
    ] {
        assert!(metadata::has_flag(status.metadata(), metadata::SESSIONS), "{status:?}");
    }
}
