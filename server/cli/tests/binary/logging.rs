//! The log is never in the way.

use std::net::TcpStream;

use rustix::{
    fs::{CWD, FileType, Mode, mknodat},
    process::Signal,
};
use tempfile::TempDir;

use crate::node::{Node, error_line, run, stdout, tsoracle};

/// So many calls as log more than a pipe and the queue hold.
fn calls(node: &Node) {
    for _ in 0..20 {
        stdout(&node.ask(&["ts", "--timeout", "10s"]));
        stdout(&node.ask(&["seq", "k", "--timeout", "10s"]));
    }
}

#[test]
fn it_serves_and_stops_though_nobody_reads_its_log() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["--log", "trace"]);
    // More lines than the pipe takes, before anybody has called.
    (0..200).for_each(|_| drop(TcpStream::connect(&node.address).unwrap()));
    calls(&node);
    node.signal(Signal::TERM);
    let status = node.ended_unread();
    assert_eq!(status.code(), Some(0));
}

#[test]
fn it_serves_and_stops_though_the_reader_of_its_log_is_gone() {
    let directory = TempDir::new().unwrap();
    let mut node = Node::start(directory.path(), &["--log", "trace"]);
    node.close_log();
    calls(&node);
    node.signal(Signal::TERM);
    assert_eq!(node.ended_unread().code(), Some(0));
}

#[test]
fn it_says_how_many_lines_were_lost() {
    let directory = TempDir::new().unwrap();
    let mut node = Node::start(directory.path(), &["--log", "trace"]);
    (0..2_000).for_each(|_| drop(TcpStream::connect(&node.address).unwrap()));
    node.wait_for_log("lines of the log were lost");
    node.signal(Signal::TERM);
    let (status, log) = node.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    assert!(log.contains("ended=Stopped"), "what comes later is written again: {log}");
}

#[test]
fn a_failure_is_told_by_the_exit_code_though_nobody_reads_why() {
    let directory = TempDir::new().unwrap();
    let (reader, writer) = std::io::pipe().unwrap();
    drop(reader);
    for arguments in
        [&["serve", "nothing:here"][..], &["ts", "--endpoint", "127.0.0.1:1", "--timeout", "1s"]]
    {
        let mut command = tsoracle(directory.path(), arguments);
        let status = command.stderr(writer.try_clone().unwrap()).status().unwrap();
        assert!(matches!(status.code(), Some(1 | 2)), "{arguments:?}: {status}");
    }
}

/// Nobody has to read an audit log for the server to start, and to stop.
#[test]
fn an_audit_log_that_nobody_reads_is_refused() {
    let directory = TempDir::new().unwrap();
    let fifo = directory.path().join("audit");
    mknodat(CWD, &fifo, FileType::Fifo, Mode::RUSR | Mode::WUSR, 0).unwrap();
    let serve = ["serve", "memory", "--listen", "127.0.0.1:0", "--audit-log", "audit"];
    let line = error_line(&run(directory.path(), &serve), 2);
    assert!(line.contains("cannot write to audit"), "{line}");
}

#[test]
fn a_level_that_does_not_exist_is_refused() {
    let directory = TempDir::new().unwrap();
    for level in ["json", "inof", "info,wran", "tsoracle_core=loud"] {
        let refused = error_line(&run(directory.path(), &["serve", "--log", level]), 2);
        assert!(refused.contains("is no log"), "{refused}");
    }
}
