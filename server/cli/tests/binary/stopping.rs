//! Signals.

use rustix::process::Signal;
use tempfile::TempDir;
use tonic::transport::Channel;
use tonic_health::pb::{HealthCheckRequest, health_client::HealthClient};

use crate::node::{Node, stdout};

#[test]
fn a_signal_stops_it_and_a_restart_serves_on() {
    let directory = TempDir::new().unwrap();
    let mut last = 0;
    for (epoch, signal) in [Signal::TERM, Signal::INT, Signal::TERM].into_iter().enumerate() {
        let node = Node::start(directory.path(), &[]);
        let expected = format!("(driver file, leading, epoch {})", epoch + 1);
        assert!(node.line.contains(&expected), "{}", node.line);
        let timestamp: u64 = stdout(&node.ask(&["ts"])).parse().unwrap();
        assert!(timestamp > last);
        last = timestamp;
        assert_eq!(stdout(&node.ask(&["seq", "k"])), epoch.to_string());
        node.signal(signal);
        let (status, log) = node.ended();
        assert_eq!(status.code(), Some(0), "{log}");
        assert!(log.contains("ended=Stopped"), "the lease was released: {log}");
    }
}

#[test]
fn other_signals_do_nothing() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &[]);
    for signal in [Signal::HUP, Signal::USR1, Signal::USR2] {
        node.signal(signal);
        stdout(&node.ask(&["ts"]));
    }
    node.signal(Signal::TERM);
    assert_eq!(node.ended().0.code(), Some(0));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_second_signal_is_not_argued_with() {
    let directory = TempDir::new().unwrap();
    let mut node = Node::start(directory.path(), &["memory", "--drain-time", "1h"]);
    let channel = Channel::from_shared(format!("http://{}", node.address)).unwrap();
    let mut client = HealthClient::new(channel.connect().await.unwrap());
    // A call that does not end by itself.
    let watch = client.watch(HealthCheckRequest::default()).await.unwrap();
    node.signal(Signal::TERM);
    tokio::task::block_in_place(|| node.wait_for_log("a second signal exits at once"));
    node.signal(Signal::TERM);
    let (status, log) = tokio::task::block_in_place(|| node.ended());
    assert_eq!(status.code(), Some(1), "{log}");
    drop(watch);
}
