//! Timestamps out of ranges.

use std::sync::Arc;
use std::time::Duration;

use tsoracle_client::ErrorKind;
use tsoracle_types::ManualClock;

use crate::node::Node;
use crate::step::Step;
use crate::{builder, client};

#[tokio::test]
async fn a_range_is_requested_by_the_call_that_finds_none_left() {
    let node = Node::serving().await;
    let clock = ManualClock::new(0);
    let client = builder([node.address()]).clock(Arc::new(clock)).build().unwrap();
    let mut stream = client.timestamp_stream(10).unwrap();
    assert_eq!(node.seen().timestamps, 0, "nothing is fetched ahead");
    let mut got = vec![];
    for _ in 0..25 {
        got.push(stream.next().await.unwrap());
    }
    assert!(got.is_sorted_by(|a, b| a < b), "{got:?}");
    assert_eq!(node.seen().counts, [10, 10, 10]);
}

#[tokio::test]
async fn what_is_left_is_not_handed_out_when_it_is_old() {
    let node = Node::serving().await;
    let clock = ManualClock::new(0);
    let client = builder([node.address()]).clock(Arc::new(clock.clone())).build().unwrap();
    let mut stream = client.timestamp_stream(10).unwrap();
    stream.next().await.unwrap();
    clock.advance(Duration::from_millis(99));
    stream.next().await.unwrap();
    assert_eq!(node.seen().counts, [10]);
    clock.advance(Duration::from_millis(1));
    let other = client.get_ts().await.unwrap();
    assert!(stream.next().await.unwrap() > other);
    assert_eq!(node.seen().counts, [10, 1, 10]);
    let mut patient = client.timestamp_stream(10).unwrap().with_max_age(Duration::from_secs(5));
    patient.next().await.unwrap();
    clock.advance(Duration::from_secs(4));
    patient.next().await.unwrap();
    assert_eq!(node.seen().counts, [10, 1, 10, 10]);
}

#[tokio::test]
async fn what_comes_after_a_discard_is_newer_than_what_others_got_before() {
    let node = Node::serving().await;
    let clock = ManualClock::new(0);
    let client = builder([node.address()]).clock(Arc::new(clock)).build().unwrap();
    let mut stream = client.timestamp_stream(10).unwrap();
    stream.next().await.unwrap();
    let other = client.get_ts().await.unwrap();
    assert!(stream.next().await.unwrap() < other, "as documented");
    stream.discard();
    assert!(stream.next().await.unwrap() > other);
}

#[tokio::test]
async fn a_failure_takes_nothing_and_can_be_followed_by_another_call() {
    let node = Node::serving().await;
    let client = client([node.address()]).with_timeout(Duration::from_millis(100));
    for size in [0, 262_145] {
        assert_eq!(client.timestamp_stream(size).unwrap_err().kind(), ErrorKind::Invalid);
    }
    let mut stream = client.timestamp_stream(3).unwrap();
    node.script([Step::Hang]);
    assert_eq!(stream.next().await.unwrap_err().kind(), ErrorKind::Timeout);
    let first = stream.next().await.unwrap();
    assert!(stream.next().await.unwrap() > first);
}
