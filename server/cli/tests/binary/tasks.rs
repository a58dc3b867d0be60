//! A task that others count on panics: the process says which one, and ends.

use std::path::Path;

use tempfile::TempDir;
use tsoracle_testbed::WallClock;

use crate::node::{Node, finished, tsoracle};

/// A directory for a state, and a clock that fails where it is told to.
fn place() -> (TempDir, WallClock) {
    let directory = TempDir::new().expect("a temporary directory");
    let clock = WallClock::new(directory.path()).expect("a C compiler");
    (directory, clock)
}

fn command(directory: &Path, clock: &WallClock, driver: &str) -> std::process::Command {
    let serve = ["serve", driver, "--listen", "127.0.0.1:0", "--log", "error"];
    let mut command = tsoracle(directory, &serve);
    command.envs(clock.environment());
    command
}

/// The first task that reads the clock on one of the runtime's threads is the engine, which takes over.
#[test]
fn the_engine() {
    let (directory, clock) = place();
    clock.fail_once_in("tokio-rt-worker").unwrap();
    let output = finished(&mut command(directory.path(), &clock, "file:./data"));
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    let last = log.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("a panic in the engine"), "{log}");
    drop(Node::start(directory.path(), &["file:./data"]));
}

#[cfg(feature = "openraft")]
#[test]
fn a_task_of_openraft() {
    let peers = "1=127.0.0.1:1/127.0.0.1:2&peer_listen=127.0.0.1:0";
    ends_once_a_task_panics(&format!("openraft:./data?node=1&peers={peers}"), "tsoracle-raft");
}

/// Without its peer it leads nobody, and works all the same.
#[cfg(feature = "omnipaxos")]
#[test]
fn a_task_of_omnipaxos() {
    let peers = "1=127.0.0.1:1/127.0.0.1:2,2=127.0.0.1:3/127.0.0.1:4&peer_listen=127.0.0.1:0";
    ends_once_a_task_panics(&format!("omnipaxos:./data?node=1&peers={peers}"), "tsoracle-paxos");
}

/// What the server does besides the oracle is polled by the first thread: connections, policy, metrics, the service
/// manager, the line that says where it serves.
#[test]
fn a_task_of_the_server() {
    ends_once_a_task_panics("file:./data", "tsoracle");
}

#[test]
fn a_command_that_panics_has_failed() {
    let (directory, clock) = place();
    clock.fail_once_in("tsoracle").unwrap();
    let init = ["init", "file:./data", "--seed-physical-ms", "2026-11-30T12:00:00Z"];
    let output = finished(tsoracle(directory.path(), &init).envs(clock.environment()));
    let log = String::from_utf8(output.stderr).unwrap();
    assert_eq!(output.status.code(), Some(1), "{log}");
    assert!(log.contains("error: the task for this command has panicked"), "{log}");
}

fn ends_once_a_task_panics(driver: &str, thread: &str) {
    let (directory, clock) = place();
    let node = Node::spawn(command(directory.path(), &clock, driver));
    clock.fail_once_in(thread).unwrap();
    let (status, log) = node.ended();
    assert_eq!(status.code(), Some(1), "{log}");
    let last = log.trim_end().lines().last().unwrap_or_default();
    assert!(last.starts_with("error: ") && last.contains("task for"), "{log}");
}
