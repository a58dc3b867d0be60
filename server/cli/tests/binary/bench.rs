//! Measuring a server. What is measured depends on the machine; that it fits together does not.

use std::{fs, path::Path};

use serde_json::Value;
use tempfile::TempDir;

use crate::node::{Node, error_line, run, stdout};

fn bench(node: &Node, arguments: &[&str]) -> Value {
    let arguments = [&["bench", "--seconds", "1", "--json"], arguments].concat();
    serde_json::from_str(&stdout(&node.ask(&arguments))).expect("one line of JSON")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

/// That counts, rates and latencies fit together.
fn check(report: &Value, batch: f64) {
    let (calls, rate) = (number(&report["calls"]), number(&report["calls_per_second"]));
    assert!(calls > 0.0, "{report}");
    assert!((rate * number(&report["seconds"]) - calls).abs() < 1.0, "{report}");
    assert!((number(&report["values_per_second"]) - rate * batch).abs() < batch, "{report}");
    let latencies = ["p50", "p90", "p99", "p99_9", "max"].map(|at| &report["latency_us"][at]);
    let latencies = latencies.map(number);
    assert!(latencies[0] > 0.0 && latencies.is_sorted(), "{report}");
    assert_eq!(report["errors"].as_object().expect("by kind").len(), 0, "{report}");
}

#[test]
fn timestamps_through_the_client_and_by_unary_calls() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["memory"]);
    check(&bench(&node, &[]), 1.0);
    let unary = ["--unary", "--callers", "8", "--connections", "4", "--batch", "100"];
    let report = bench(&node, &unary);
    check(&report, 100.0);
    assert_eq!((&report["unary"], &report["connections"]), (&true.into(), &4.into()));
}

#[test]
fn sequences_are_drawn_from_so_many_keys() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["memory"]);
    let report = bench(&node, &["--op", "seq", "--keys", "2", "--batch", "3"]);
    check(&report, 3.0);
    let used = |key: &str| stdout(&node.ask(&["seq-read", key])).parse::<u64>().unwrap();
    // What was asked for while it warmed up is not counted.
    let (spent, calls) = (used("bench-0") + used("bench-1"), report["calls"].as_u64().unwrap());
    assert!(spent >= 3 * calls && spent % 3 == 0, "{spent} values for {calls} calls");
    assert_eq!(node.ask(&["seq-read", "bench-2"]).status.code(), Some(1));
}

#[test]
fn the_baseline_comes_with_ratios() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["file:./data"]);
    let disk = directory.path().to_str().unwrap();
    let baseline = ["--op", "seq", "--callers", "4", "--baseline", "--dir", disk];
    let report = bench(&node, &baseline);
    check(&report, 1.0);
    let compared = &report["baseline"];
    for beside in ["echo", "fdatasync"] {
        assert!(number(&compared[beside]["calls_per_second"]) > 0.0, "{report}");
        assert!(number(&compared[beside]["latency_us"]["p50"]) > 0.0, "{report}");
    }
    let ratios = &compared["ratios"];
    let turns = ratios["turns"].as_array().unwrap();
    assert_eq!(turns.len(), 5);
    let at_most = |limit: f64| turns.iter().filter(|turn| number(turn) <= limit).count();
    assert!(at_most(number(&ratios["calls_per_second"])) >= 3, "the median: {report}");
    for ratio in ["p50", "p99_9", "p50_over_echo_and_two_fdatasyncs"] {
        assert!(number(&ratios[ratio]) > 0.0, "{report}");
    }
    let arguments = ["bench", "--seconds", "0.5", "--callers", "4", "--baseline", "--dir", disk];
    let text = stdout(&node.ask(&arguments));
    for word in ["timestamps: 4 callers, 1 connection", "calls/s", "p99.9", "echo", "fdatasync"] {
        assert!(text.contains(word), "{word}: {text}");
    }
    let left: Vec<_> = fs::read_dir(directory.path()).unwrap().collect();
    assert_eq!(left.len(), 1, "only the server's data is left: {left:?}");
}

#[test]
fn no_server_to_measure() {
    let here = Path::new(".");
    for mode in [&[][..], &["--unary"]] {
        let asked = ["bench", "--endpoint", "127.0.0.1:1", "--timeout", "200ms"];
        let line = error_line(&run(here, &[&asked[..], mode].concat()), 1);
        assert!(line.contains("cannot reach 127.0.0.1:1"), "{line}");
    }
    for wrong in [&["--callers", "0"][..], &["--seconds", "never"], &["--op", "dance"]] {
        let output = run(here, &[&["bench"][..], wrong].concat());
        assert_eq!(output.status.code(), Some(2), "{wrong:?}");
    }
}
