//! `tsoracle verify`, against this server as it is.

use std::{
    fs,
    io::{Read, Write},
    net::TcpStream,
    path::Path,
    process::{Output, Stdio},
};

use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;
use tsoracle_core::Phase;

use crate::{
    common::{Running, driver::Scripted},
    node::{Node, error_line, run, stdout, tsoracle},
    ports::free_port,
};

/// What is promised for every history.
const HISTORY: [&str; 6] =
    ["G1 order", "G2 unique", "G3 gapless", "G3 order", "G3 exactly once", "epochs in time"];

fn statuses(report: &Value) -> Vec<(&str, &str)> {
    let checks = report["checks"].as_array().expect("a list");
    checks.iter().map(|check| (text(&check["name"]), text(&check["status"]))).collect()
}

fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_else(|| panic!("{value} is text"))
}

fn json(output: &Output) -> Value {
    serde_json::from_slice(&output.stdout).expect("one line of JSON")
}

#[test]
fn each_promise_is_named_and_the_history_can_be_checked_again() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &[]);
    let verify = ["verify", "--seconds", "1", "--history", "calls.jsonl"];
    let asked = [&verify[..], &["--endpoint", &node.address]].concat();
    let said = stdout(&run(directory.path(), &asked));
    assert!(said.contains("all keys begin with \"tsoracle-verify/"), "{said}");
    assert!(said.contains("16 callers for"), "{said}");
    for name in ["GetTs", "GetSeqBatch limits", "request ids", "StreamSeq"].iter().chain(&HISTORY) {
        assert!(
            said.lines().any(|line| line.starts_with(&format!("held         {name} "))),
            "{said}"
        );
    }

    let replay = ["verify", "--replay", "calls.jsonl", "--json"];
    let replayed = json(&run(directory.path(), &replay));
    assert_eq!(replayed["held"], json!(true));
    for name in HISTORY {
        assert!(statuses(&replayed).contains(&(name, "held")), "{name}: {replayed}");
    }

    // The last answer to a call for timestamps, on a later call.
    let path = directory.path().join("calls.jsonl");
    let mut history = fs::read_to_string(&path).unwrap();
    let last = history.lines().rfind(|line| line.contains(r#""get_ts""#)).unwrap();
    let mut again: Value = serde_json::from_str(last).unwrap();
    again["start_ns"] = (again["end_ns"].as_u64().unwrap() + 1).into();
    again["end_ns"] = (again["end_ns"].as_u64().unwrap() + 2).into();
    history.push_str(&again.to_string());
    fs::write(&path, history).unwrap();
    let replayed = run(directory.path(), &replay[..3]);
    assert_eq!(replayed.status.code(), Some(1));
    let line = String::from_utf8(replayed.stderr).unwrap();
    assert_eq!(line, "error: these promises do not hold: G1 order, G2 unique\n");
    let said = String::from_utf8(replayed.stdout).unwrap();
    let broken = said.lines().skip_while(|line| !line.starts_with("BROKEN       G1 order"));
    // What is wrong, and the two calls that show it.
    assert_eq!(broken.skip(2).take_while(|line| line.contains(": GetTs(")).count(), 2, "{said}");
}

#[tokio::test]
async fn a_follower_is_held_to_its_own_promises() {
    let leader = Running::in_memory().await;
    let address = leader.address.to_string();
    let follower = Running::over(Scripted::follower(&address, 1)).await;
    follower.reach(|phase| matches!(phase, Phase::Following(_))).await;
    let endpoints = format!("{},{address}", follower.address);
    let verify = move || {
        let asked = ["verify", "--seconds", "1", "--json", "--endpoint", &endpoints];
        run(Path::new("."), &asked)
    };
    let output = tokio::task::spawn_blocking(verify).await.expect("it does not panic");
    let report = json(&output);
    assert!(output.status.success() && report["held"] == json!(true), "{report}");
    assert!(statuses(&report).contains(&("a node without lead", "held")), "{report}");
    assert!(statuses(&report).contains(&("G3 refusals", "held")), "{report}");
}

/// How often a node has granted timestamps.
fn grants(metrics: &str) -> u64 {
    let mut asking = TcpStream::connect(metrics).expect("metrics are served");
    asking.write_all(b"GET /metrics HTTP/1.0\r\n\r\n").expect("it listens");
    let mut answer = String::new();
    asking.read_to_string(&mut answer).expect("text");
    let line = answer.lines().find_map(|line| line.strip_prefix("tsoracle_grants_total "));
    line.map_or(0, |count| count.parse().expect("a number"))
}

#[test]
fn a_server_that_is_killed_and_started_again_keeps_its_promises() {
    let directory = TempDir::new().unwrap();
    let (address, metrics) = (free_port(), free_port());
    let start = || {
        let arguments = ["serve", "--listen", &address, "--metrics-listen", &metrics];
        Node::spawn(tsoracle(directory.path(), &arguments))
    };
    let node = start();
    let asked = ["verify", "--seconds", "4", "--json", "--endpoint", &address];
    let mut verify = tsoracle(directory.path(), &asked);
    let mut verify = verify.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    // Single questions need fewer.
    while grants(&metrics) < 1_500 {
        assert_eq!(verify.try_wait().unwrap(), None, "the load is over already");
    }
    node.signal(Signal::KILL);
    node.ended();
    let _node = start();
    let output = verify.wait_with_output().unwrap();
    let report = json(&output);
    assert!(output.status.success(), "{report:#}");
    assert!(!report["failures"].as_object().unwrap().is_empty(), "it was not killed under load");
    for name in HISTORY {
        assert!(statuses(&report).contains(&(name, "held")), "{name}: {report:#}");
    }
}

#[test]
fn what_cannot_be_checked_is_an_error() {
    let directory = TempDir::new().unwrap();
    let run = |arguments: &[&str]| run(directory.path(), &[&["verify"], arguments].concat());
    let nobody = free_port();
    let line = error_line(&run(&["--endpoint", &nobody]), 1);
    assert!(line.contains(&nobody) && line.ends_with("is a server running there?"), "{line}");
    assert_eq!(run(&["--endpoint", "not an address"]).status.code(), Some(2));
    let line = error_line(&run(&["--replay", "missing.jsonl"]), 1);
    assert!(line.contains("missing.jsonl"), "{line}");
    fs::write(directory.path().join("bad.jsonl"), "\n{}\n").unwrap();
    let line = error_line(&run(&["--replay", "bad.jsonl"]), 1);
    assert!(line.contains("bad.jsonl: line 2: "), "{line}");
    assert_eq!(run(&["--replay", "bad.jsonl", "--seconds", "3"]).status.code(), Some(2));
}

#[test]
fn what_a_client_may_not_do_is_not_offered_to_it() {
    let directory = TempDir::new().unwrap();
    // Clients of this server lack the rights that its administrators have.
    let node = Node::start(directory.path(), &["memory", "--admin-listen", "127.0.0.1:0"]);
    let verify = ["verify", "--seconds", "1", "--json", "--endpoint", &node.address];
    let output = run(directory.path(), &verify);
    let report = json(&output);
    assert!(output.status.success(), "{report:#}");
    for name in ["SeedSeq", "DeleteSeq"] {
        assert!(statuses(&report).contains(&(name, "not_offered")), "{name}: {report:#}");
    }
    for name in ["GetTs", "GetSeq", "ReadSeq", "leases", "StreamSeq"].iter().chain(&HISTORY) {
        assert!(statuses(&report).contains(&(name, "held")), "{name}: {report:#}");
    }
}

/// Everyone has one right: all that takes another one is not offered, whichever it is.
#[test]
fn no_right_that_is_lacking_breaks_a_promise() {
    let directory = TempDir::new().unwrap();
    let rights = ["ts", "seq", "read", "list", "status", "lease", "seed", "delete"];
    let held = ["GetTs", "GetSeq", "", "", "", "", "", ""];
    for (right, name) in rights.iter().zip(held) {
        let policy = format!("[policy.identities]\nanonymous = ['{right}']\nops = ['admin']\n");
        fs::write(directory.path().join("config.toml"), policy).unwrap();
        let node = Node::start(directory.path(), &["memory", "--config", "config.toml"]);
        let verify = ["verify", "--seconds", "1", "--json", "--endpoint", &node.address];
        let output = run(directory.path(), &verify);
        let report = json(&output);
        let broken: Vec<_> =
            statuses(&report).into_iter().filter(|(_, status)| *status == "broken").collect();
        // Nothing at all can be checked with most of them alone.
        let nothing = [("rights", "broken")];
        assert!(broken.is_empty() || broken == nothing, "{right}: {broken:?}, {report:#}");
        assert_eq!(output.status.success(), broken.is_empty(), "{right}: {report:#}");
        if !name.is_empty() {
            assert!(statuses(&report).contains(&(name, "held")), "{right}: {report:#}");
        }
    }
}
