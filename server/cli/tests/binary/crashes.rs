//! Killed and stopped, again and again, under load.

use std::{
    path::Path,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use rustix::process::Signal;
use tempfile::TempDir;
use tokio::{sync::watch, task::JoinSet};
use tsoracle_client::Client;
use tsoracle_core::{Clock as _, SystemClock};

use crate::node::{Node, json, tsoracle};

const ROUNDS: u64 = 8;
const ASKERS: usize = 8;

/// How far timestamps may be ahead of the clock: a window of three seconds, and 100 ms for each crash. Twelve windows
/// would be 36 s.
#[test]
fn a_crash_loop_does_not_drive_time_away() {
    const CRASHES: u64 = 12;
    let directory = TempDir::new().expect("a temporary directory");
    let mut last = 0;
    for _ in 0..CRASHES {
        let node = start(directory.path(), "127.0.0.1:0");
        let answer = json(&node.ask(&["ts", "--json"]));
        let physical_ms = answer["physical_ms"].as_u64().expect("a number");
        assert!(physical_ms >= last);
        last = physical_ms;
    }
    let ahead = last.saturating_sub(SystemClock.now().wall_ms);
    assert!(ahead <= 3_000 + CRASHES * 100, "{ahead} ms ahead of the clock");
}

/// A timestamp, and when it was asked for and received, by a counter that all askers share.
struct Asked {
    from: u64,
    until: u64,
    timestamp: u64,
}

/// What one asker has got.
#[derive(Default)]
struct Got {
    timestamps: Vec<Asked>,
    blocks: Vec<(u64, u64)>,
}

fn start(directory: &Path, address: &str) -> Node {
    Node::spawn(tsoracle(directory, &["serve", "--listen", address, "--log", "off"]))
}

async fn ask(
    client: Client,
    order: Arc<AtomicU64>,
    answers: watch::Sender<u64>,
    stop: watch::Receiver<bool>,
) -> Got {
    let mut got = Got::default();
    while !*stop.borrow() {
        let from = order.fetch_add(1, Ordering::SeqCst);
        let timestamp = client.get_ts().await.expect("it is asked again until there is one");
        let until = order.fetch_add(1, Ordering::SeqCst);
        got.timestamps.push(Asked { from, until, timestamp: timestamp.as_u64() });
        let block = client.get_seq("orders", 3).await.expect("it is asked again, with its id");
        got.blocks.push((block.range().start, block.range().end));
        answers.send_modify(|answers| *answers += 1);
    }
    got
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killed_it_neither_loses_nor_repeats() {
    restart_under_load(Signal::KILL).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn stopped_it_neither_loses_nor_repeats() {
    restart_under_load(Signal::TERM).await;
}

async fn restart_under_load(signal: Signal) {
    let directory = TempDir::new().expect("a temporary directory");
    let mut node = start(directory.path(), "127.0.0.1:0");
    let address = node.address.clone();
    let client = Client::builder().endpoints([&*address]).timeout(Duration::from_secs(60));
    let client = client.connect().await.expect("it serves");
    let (order, answers) = (Arc::new(AtomicU64::new(0)), watch::Sender::new(0));
    let (stop, stopped) = watch::channel(false);
    let mut askers = JoinSet::new();
    for _ in 0..ASKERS {
        askers.spawn(ask(client.clone(), order.clone(), answers.clone(), stopped.clone()));
    }
    let mut answered = answers.subscribe();
    // Once all have failed, nobody waits for answers any more.
    drop(answers);
    for _ in 0..ROUNDS {
        let enough = *answered.borrow() + 50;
        answered.wait_for(|answers| *answers >= enough).await.expect("they go on asking");
        node.signal(signal);
        tokio::task::block_in_place(|| node.ended());
        node = tokio::task::block_in_place(|| start(directory.path(), &address));
    }
    stop.send_replace(true);
    let got = askers.join_all().await;
    check_order(got.iter().flat_map(|got| &got.timestamps).collect());
    let next = client.read_seq("orders").await.expect("it serves");
    check_blocks(got.iter().flat_map(|got| got.blocks.iter().copied()).collect(), next);
}

/// Whatever was received before another was asked for is smaller.
fn check_order(mut asked: Vec<&Asked>) {
    let mut received: Vec<_> = asked.iter().map(|a| (a.until, a.timestamp)).collect();
    received.sort_unstable();
    asked.sort_unstable_by_key(|asked| asked.from);
    let (mut received, mut highest) = (received.into_iter().peekable(), 0);
    for &Asked { from, timestamp, .. } in asked {
        while let Some((_, before)) = received.next_if(|(until, _)| *until < from) {
            highest = highest.max(before);
        }
        assert!(timestamp > highest, "{timestamp} came after {highest}");
    }
}

/// Every value from 0 on was given out once, and to somebody.
fn check_blocks(mut blocks: Vec<(u64, u64)>, next: u64) {
    blocks.sort_unstable();
    let mut expected = 0;
    for (start, end) in blocks {
        assert_eq!(start, expected, "values were lost or repeated");
        expected = end;
    }
    assert_eq!(next, expected);
}
