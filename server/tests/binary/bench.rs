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
fn callers_on_runtimes_of_their_own() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["memory"]);
    for op in ["ts", "seq"] {
        let report = bench(&node, &["--op", op, "--callers", "16", "--runtimes", "3"]);
        check(&report, 1.0);
        assert_eq!(report["runtimes"], 3);
    }
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
fn the_suite_writes_its_table() {
    let directory = TempDir::new().unwrap();
    let quick = [
        "--slice=0.1",
        "--tail=0.1",
        "--idle=0.1",
        "--stored-keys=1000",
        "--spread=0.2",
        "--wait=0",
    ];
    let suite = [&["bench", "suite", "--rounds", "2", "--write", "P.md"], &quick[..]].concat();
    let line = error_line(&run(directory.path(), &suite), 2);
    assert!(line.contains("P.md"), "{line}");
    let page = "# P\n\n<!-- measured: begin -->\n<!-- measured: end -->\nThe end.\n";
    fs::write(directory.path().join("P.md"), page).unwrap();
    stdout(&run(directory.path(), &suite));
    let page = fs::read_to_string(directory.path().join("P.md")).unwrap();
    assert!(page.starts_with("# P\n") && page.ends_with("\nThe end.\n"), "{page}");
    for row in [
        "GetTs, unary, 256 callers, 4 connections",
        "`get_seq`, 1024 callers",
        "all keys of a large store drawn, for 0.2 s",
        "the longest time in which no call was answered",
        "Idle server",
    ] {
        assert!(page.contains(row), "{row}: {page}");
    }
    assert!(page.contains("Other programs took"), "{page}");
    // What is not there is named, and everything else is measured.
    let missing = page.lines().filter_map(|line| line.strip_prefix("Not measured: "));
    let mut why: Vec<_> = missing.map(|line| line.split_once(": ").unwrap()).collect();
    why.retain(|(_, why)| !why.ends_with("not found") && !why.contains("this build has no driver"));
    let public = ["the public client and server"];
    assert_eq!(why.iter().map(|(what, _)| *what).collect::<Vec<_>>(), public, "{page}");
    for (driver, is_there) in
        [("openraft", cfg!(feature = "openraft")), ("omnipaxos", cfg!(feature = "omnipaxos"))]
    {
        let row =
            format!("| `get_seq`, 64 callers, 1 connection, 64 keys, three nodes of {driver} |");
        assert_eq!(page.contains(&row), is_there, "{page}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no state is left behind");
}

#[test]
fn a_build_is_measured_beside_another() {
    let directory = TempDir::new().unwrap();
    let program = env!("CARGO_BIN_EXE_tsoracle");
    let quick = ["--rounds=1", "--slice=0.2", "--least=0.01", "--json"];
    let against =
        |other: &str| run(directory.path(), &[&["bench", "against", other], &quick[..]].concat());
    let compared: Value = serde_json::from_str(&stdout(&against(program))).unwrap();
    let compared = compared.as_array().unwrap();
    assert_eq!(compared.len(), 8);
    for load in compared {
        let ratios: Vec<_> = load["ratios"].as_array().unwrap().iter().map(number).collect();
        assert!(ratios.len() == 1 && ratios.iter().all(|ratio| *ratio > 0.0), "{load}");
        let [lowest, median, highest] = ["lowest", "median", "highest"].map(|at| number(&load[at]));
        assert!(lowest <= median && median <= highest, "{load}");
        assert_eq!(load["is_slower"], false, "{load}");
    }
    let line = error_line(&against("./nowhere"), 1);
    assert!(line.contains("nowhere"), "{line}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no state is left behind");
}

#[test]
fn a_build_that_is_slower_is_told_so() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    // A build whose reports are those of a much faster one.
    let other = directory.path().join("faster");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nserve) exec \"{}\" \"$@\";;\n\
         *) echo '{{\"calls_per_second\":1e12}}';;\nesac\n",
        env!("CARGO_BIN_EXE_tsoracle")
    );
    fs::write(&other, script).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    let quick = ["bench", "against", "./faster", "--rounds=3", "--slice=0.1"];
    let output = run(directory.path(), &quick);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    assert_eq!(text.matches("SLOWER").count(), 8, "{text}");
    let error = String::from_utf8(output.stderr).unwrap();
    assert!(error.contains("by more than the spread explains: GetTs, unary"), "{error}");
}

#[test]
fn nobody_there() {
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
