//! Logs for machines: `--log-format json`.

use std::{fs, net::TcpStream, path::Path, process::Output};

use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tsoracle_testbed::WallClock;

use crate::node::{Node, finished, run, stdout, tsoracle};

/// The lines of a log, each of which is an object with what every line has.
fn objects(log: &str) -> Vec<Value> {
    let objects = log.lines().map(|line| {
        let object: Value =
            serde_json::from_str(line).unwrap_or_else(|_| panic!("no JSON: {line}"));
        for name in ["timestamp", "level"] {
            assert!(object[name].is_string(), "without {name}: {line}");
        }
        assert!(object["timestamp"].as_str().unwrap().ends_with('Z'), "{line}");
        object
    });
    objects.collect()
}

fn ended(node: Node) -> Vec<Value> {
    node.signal(Signal::TERM);
    let (status, log) = node.ended();
    assert_eq!(status.code(), Some(0), "{log}");
    objects(&log)
}

#[test]
fn each_line_is_an_object() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["file", "--log-format", "json", "--log", "debug"]);
    stdout(&node.ask(&["seq", "k\n\u{1b}[31m\"\\"]));
    let lines = ended(node);
    let said = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
    let serving = said("serving");
    assert_eq!((&serving["level"], &serving["epoch"]), (&"INFO".into(), &"1".into()));
    assert!(serving["target"].as_str().unwrap().starts_with("tsoracle_core::engine"), "{serving}");
    assert!(said("the reign has ended")["claim"].is_u64());
}

#[test]
fn an_entry_of_the_audit_log_is_an_object_within_the_line() {
    let directory = TempDir::new().unwrap();
    let arguments = ["file", "--log-format", "json"];
    let node = Node::start(directory.path(), &arguments);
    stdout(&node.ask(&["seq-seed", "orders", "7"]));
    let lines = ended(node);
    let entry = lines.iter().find(|line| line["target"] == "tsoracle::audit").expect("an entry");
    let fields = ["event", "right", "object", "outcome"].map(|name| entry["audit"][name].clone());
    assert_eq!(fields, ["done", "seed", "orders", "OK"].map(Value::from), "{entry}");
    // The filter of the log is for it, too.
    let directory = TempDir::new().unwrap();
    let silent = [&arguments[..], &["--log", "info,tsoracle::audit=off"]].concat();
    let node = Node::start(directory.path(), &silent);
    stdout(&node.ask(&["seq-seed", "orders", "7"]));
    assert!(ended(node).iter().all(|line| line["target"] != "tsoracle::audit"));
}

#[test]
fn lines_that_were_lost_are_said_to_be_in_an_object() {
    let directory = TempDir::new().unwrap();
    let arguments = ["file", "--log-format", "json", "--log", "trace"];
    let node = Node::start(directory.path(), &arguments);
    (0..4_000).for_each(|_| drop(TcpStream::connect(&node.address).unwrap()));
    let lines = ended(node);
    let lost = lines.iter().find(|line| line["lines"].is_u64()).expect("lines were lost");
    assert_eq!(lost["level"], "WARN");
    assert!(lost["message"].as_str().unwrap().contains("lines of the log were lost"), "{lost}");
}

#[test]
fn why_a_server_has_failed_is_said_in_an_object() {
    let directory = TempDir::new().unwrap();
    fs::write(directory.path().join("taken"), "no directory").unwrap();
    let failed = |output: Output| {
        let lines = objects(&String::from_utf8(output.stderr).unwrap());
        let last = lines.last().unwrap();
        assert_eq!(last["level"], "ERROR", "{last}");
        assert!(last["message"].as_str().unwrap().contains("taken"), "{last}");
    };
    failed(run(directory.path(), &["serve", "file:taken", "--log-format", "json"]));
    let mut by_variable = tsoracle(directory.path(), &["serve", "file:taken"]);
    failed(finished(by_variable.env("TSORACLE_LOG_FORMAT", "json")));
    let config = "driver = \"file:taken\"\nlog-format = \"json\"\n";
    fs::write(directory.path().join("tsoracle.toml"), config).unwrap();
    failed(run(directory.path(), &["serve", "--config", "tsoracle.toml"]));
}

#[test]
fn a_reason_of_several_lines_is_one_object() {
    let directory = TempDir::new().unwrap();
    let name = "two\nlines";
    fs::write(directory.path().join(name), "no directory").unwrap();
    let serve = ["serve", &format!("file:{name}"), "--log-format", "json"];
    let failed = run(directory.path(), &serve);
    let lines = objects(&String::from_utf8(failed.stderr).unwrap());
    let last = lines.last().unwrap();
    assert!(
        last["level"] == "ERROR" && last["message"].as_str().unwrap().contains("lines"),
        "{last}"
    );
}

#[test]
fn a_panic_is_an_object_with_its_backtrace() {
    let directory = TempDir::new().unwrap();
    let clock = WallClock::new(directory.path()).unwrap();
    // The first task that reads the clock on such a thread is the engine.
    clock.fail_once_in("tokio-rt-worker").unwrap();
    let serve = ["serve", "memory", "--listen", "127.0.0.1:0", "--log-format", "json"];
    let mut command = tsoracle(directory.path(), &serve);
    command.envs(clock.environment()).env("RUST_BACKTRACE", "1");
    let ended = finished(&mut command);
    assert_eq!(ended.status.code(), Some(1));
    let lines = objects(&String::from_utf8(ended.stderr).unwrap());
    let panicked =
        |line: &&Value| line["message"].as_str().is_some_and(|it| it.contains("panicked at"));
    let panic = lines.iter().find(panicked).expect("the panic is logged");
    assert_eq!(panic["level"], "ERROR", "{panic}");
    assert!(panic["message"].as_str().unwrap().contains("thread tokio-rt-worker"), "{panic}");
    assert!(panic["backtrace"].as_str().unwrap().lines().count() > 1, "{panic}");
}

#[cfg(not(feature = "otlp"))]
#[test]
fn a_build_without_traces_says_so() {
    let refused =
        run(Path::new("."), &["serve", "memory", "--otlp-endpoint", "http://127.0.0.1:1"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    assert!(String::from_utf8(refused.stderr).unwrap().contains("--features otlp"));
}

#[test]
fn an_unknown_format_is_refused_by_name() {
    let directory = TempDir::new().unwrap();
    let refused = run(Path::new("."), &["serve", "--log-format", "xml"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    fs::write(directory.path().join("tsoracle.toml"), "log-format = \"xml\"\n").unwrap();
    let refused = run(directory.path(), &["serve", "--config", "tsoracle.toml"]);
    assert_eq!(refused.status.code(), Some(2), "{refused:?}");
    let said = String::from_utf8(refused.stderr).unwrap();
    assert!(said.contains("xml") && said.contains("json"), "{said}");
}
