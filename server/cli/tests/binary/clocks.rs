//! A server whose wall clock is wrong, and is set right.

use std::{
    io::{Read as _, Write as _},
    net::TcpStream,
    path::Path,
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};
use tsoracle_testbed::WallClock;

#[cfg(feature = "openraft")]
use crate::node::{openraft_nodes, transfer};
use crate::{
    node::{Node, run, stdout, tsoracle},
    ports::free_port,
};

const DAY: i64 = 24 * 3_600;
const YEAR: i64 = 365 * DAY;

/// How far a timestamp may be from the clock of this test: a window, and what a busy machine takes.
const NEAR_MS: u64 = 120_000;

/// A directory for a state, and the wall clock of the servers over it.
fn place() -> (TempDir, WallClock) {
    let directory = TempDir::new().expect("a temporary directory");
    let clock = WallClock::new(directory.path()).expect("a C compiler");
    (directory, clock)
}

fn start(directory: &Path, clock: &WallClock, arguments: &[&str]) -> Node {
    let always = ["serve", "--listen", "127.0.0.1:0", "--log", "warn"];
    let mut command = tsoracle(directory, &[&always, arguments].concat());
    command.envs(clock.environment());
    Node::spawn(command)
}

/// By how many milliseconds a timestamp is ahead of the clock of this test.
fn ahead(node: &Node) -> i64 {
    let timestamp: u64 = stdout(&node.ask(&["ts"])).parse().expect("a number");
    let now_ms = SystemClock.now().wall_ms;
    (timestamp >> 18).cast_signed() - now_ms.cast_signed()
}

fn is_near(ahead_ms: i64) -> bool {
    ahead_ms.unsigned_abs() < NEAR_MS
}

/// By how many milliseconds the server says that its clock is off.
fn off(node: &Node) -> i64 {
    let status: Value =
        serde_json::from_str(&stdout(&node.ask(&["status", "--json"]))).expect("JSON");
    status["clock_off_ms"].as_i64().expect("it leads")
}

/// Returns once the server follows its clock.
fn wait_until_followed(node: &Node) {
    while off(node) != 0 {
        stdout(&node.ask(&["ts"]));
    }
}

/// What is served over a state whose server has gone.
fn used(directory: &Path, clock: &WallClock) {
    assert!(is_near(ahead(&start(directory, clock, &[]))));
}

/// Seconds since 1970.
fn now() -> i64 {
    (SystemClock.now().wall_ms / 1_000).cast_signed()
}

#[test]
fn a_clock_in_the_year_2200_is_not_followed_until_it_is_set_right() {
    let (directory, clock) = place();
    used(directory.path(), &clock);
    clock.shift(174 * YEAR).unwrap();
    for _ in 0..3 {
        let mut node = start(directory.path(), &clock, &[]);
        assert!(is_near(ahead(&node)));
        node.wait_for_log("the wall clock is ahead of what is believed");
        assert!(off(&node) / 1_000 > 173 * YEAR);
        let text = stdout(&node.ask(&["status"]));
        assert!(text.contains("wall clock not believed: 17"), "{text}");
    }
    let node = start(directory.path(), &clock, &[]);
    clock.shift(0).unwrap();
    wait_until_followed(&node);
    assert!(is_near(ahead(&node)));
    assert!(!stdout(&node.ask(&["status"])).contains("not believed"));
}

#[test]
fn an_operator_can_say_that_a_clock_is_right() {
    let (directory, clock) = place();
    used(directory.path(), &clock);
    clock.shift(YEAR).unwrap();
    let node = start(directory.path(), &clock, &["--max-clock-jump", "366days"]);
    assert!(is_near(ahead(&node) - YEAR * 1_000));
    drop(node);
    clock.shift(3 * YEAR).unwrap();
    let time = |seconds: i64| {
        let text = stdout(&run(directory.path(), &["encode", &(seconds * 1_000).to_string()]));
        let decoded = stdout(&run(directory.path(), &["decode", &text, "--json"]));
        let decoded: Value = serde_json::from_str(&decoded).unwrap();
        decoded["time"].as_str().unwrap().to_owned()
    };
    let until = time(now() + 3 * YEAR + DAY);
    let node = start(directory.path(), &clock, &["--trust-clock-until", &until]);
    assert!(is_near(ahead(&node) - 3 * YEAR * 1_000));
}

#[test]
fn a_machine_that_boots_without_a_clock_is_followed_once_that_is_set() {
    // In 1970, and before.
    for seconds in [-now(), -now() - 10 * YEAR] {
        let (directory, clock) = place();
        used(directory.path(), &clock);
        clock.shift(seconds).unwrap();
        let mut node = start(directory.path(), &clock, &[]);
        assert!(is_near(ahead(&node)), "it goes on at the stored time");
        node.wait_for_log("the wall clock is behind the time that is stored");
        assert!(off(&node) < 0);
        clock.shift(2 * DAY).unwrap();
        wait_until_followed(&node);
        assert!(is_near(ahead(&node) - 2 * DAY * 1_000));
    }
}

#[test]
fn before_1970_metrics_are_served() {
    let (directory, clock) = place();
    used(directory.path(), &clock);
    clock.shift(-now() - 10 * YEAR).unwrap();
    let free = free_port();
    let node = start(directory.path(), &clock, &["--metrics-listen", &free]);
    stdout(&node.ask(&["ts"]));
    let mut stream = TcpStream::connect(&free).unwrap();
    stream.write_all(b"GET /metrics HTTP/1.1\r\nhost: a\r\nconnection: close\r\n\r\n").unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    assert!(answer.starts_with("HTTP/1.1 200"), "{answer}");
    assert!(answer.contains("tsoracle_ahead_of_wall_clock_seconds"), "{answer}");
}

#[test]
fn a_new_state_is_not_begun_without_a_clock() {
    let (directory, clock) = place();
    for seconds in [-now(), -now() - 10 * YEAR] {
        clock.shift(seconds).unwrap();
        let node = start(directory.path(), &clock, &["memory"]);
        let refused = node.ask(&["ts", "--timeout", "1s"]);
        assert_eq!(refused.status.code(), Some(1));
        clock.shift(0).unwrap();
        assert!(is_near(ahead(&node)));
    }
}

/// One that the peers of a node contradict, though the state would not.
#[cfg(feature = "openraft")]
#[test]
fn one_node_of_three_whose_clock_is_ahead_does_not_take_time_along() {
    let (directory, clock) = place();
    clock.shift(DAY).unwrap();
    let prepare = |id, command: &mut Command| {
        if id == 3 {
            command.envs(clock.environment());
        }
    };
    let nodes = openraft_nodes(directory.path(), str::to_owned, prepare);
    // It may lead from the start, or is made to.
    transfer(&nodes, 3);
    assert!(is_near(ahead(&nodes[2])));
    assert!(off(&nodes[2]) / 1_000 > DAY / 2);
    clock.shift(0).unwrap();
    wait_until_followed(&nodes[2]);
}
