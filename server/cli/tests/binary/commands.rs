//! Asking a server from the command line.

use std::{
    io::{Read, Write},
    net::TcpStream,
    path::Path,
};

use serde_json::{Value, json};
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};

use crate::{
    node::{Node, json, run, stdout, until},
    ports::free_port,
};

fn node() -> (TempDir, Node) {
    let directory = TempDir::new().expect("a temporary directory");
    let node = Node::start(directory.path(), &[]);
    (directory, node)
}

#[test]
fn what_others_choose_does_nothing_to_a_terminal() {
    let (_directory, node) = node();
    let key = "red\u{1b}[31m\u{9b}\u{202e} 1\nother";
    stdout(&node.ask(&["seq", key]));
    // Nor does it look like a line of another sequence.
    let shown = "red\\u{1b}[31m\\u{9b}\\u{202e} 1\\nother 1";
    assert_eq!(stdout(&node.ask(&["seq-list"])), shown);
    let listed = node.ask(&["seq-list", "--json"]);
    assert!(listed.stdout.is_ascii(), "{listed:?}");
    assert_eq!(json(&listed), json!({"key": key, "next": 1}));
    let refused = node.ask(&["seq-read", "\u{1b}[2J"]);
    assert!(!refused.stderr.contains(&0x1b), "{refused:?}");
}

#[test]
fn a_comma_too_many_names_no_server() {
    let (directory, node) = node();
    for endpoints in [format!("{},", node.address), format!(" {} ,,", node.address)] {
        stdout(&run(directory.path(), &["ts", "--endpoint", &endpoints]));
        stdout(&run(directory.path(), &["status", "--endpoint", &endpoints]));
    }
}

#[test]
fn timestamps() {
    let (_directory, node) = node();
    let one: u64 = stdout(&node.ask(&["ts"])).parse().unwrap();
    let answer = json(&node.ask(&["ts", "--json", "--count", "5"]));
    let timestamp = answer["timestamp"].as_u64().unwrap();
    assert!(timestamp > one);
    assert_eq!(answer["count"], 5);
    assert_eq!(answer["physical_ms"], timestamp >> 18);
    assert_eq!(answer["logical"], timestamp & ((1 << 18) - 1));
    assert!(answer["time"].as_str().unwrap().ends_with('Z'));
    let several = stdout(&node.ask(&["ts", "--count", "3"]));
    let first: u64 = several.split(' ').next().unwrap().parse().unwrap();
    assert!(first > timestamp + 4);
    assert_eq!(several, format!("{first} to {} (3 timestamps)", first + 2));
}

#[test]
fn sequences_by_the_prefix_of_their_keys() {
    let ((_first, main), (_second, invoices)) = (node(), node());
    let route = format!("invoices/={}", invoices.address);
    let ask = |arguments: &[&str]| {
        let routed = [arguments, &["--route", &route]].concat();
        stdout(&main.ask(&routed))
    };
    assert_eq!(ask(&["seq-seed", "invoices/a=b", "20001"]), "20001");
    assert_eq!(ask(&["seq", "invoices/a=b", "--count", "2"]), "20001 to 20002 (2 values)");
    assert_eq!(ask(&["seq-read", "invoices/a=b"]), "20003");
    assert_eq!(ask(&["seq", "orders"]), "0");
    assert_eq!(ask(&["seq-list"]), "invoices/a=b 20003\norders 1");
    assert_eq!(stdout(&main.ask(&["seq-list"])), "orders 1");
    assert_eq!(stdout(&invoices.ask(&["seq-list"])), "invoices/a=b 20003");
    for wrong in ["invoices/", "=db1", "invoices/=", "invoices/=not a host"] {
        let output = main.ask(&["seq", "orders", "--route", wrong]);
        assert_eq!(output.status.code(), Some(2), "{wrong}: {output:?}");
    }
}

#[test]
fn sequences() {
    let (_directory, node) = node();
    let answer = json(&node.ask(&["seq", "orders", "--count", "64", "--json"]));
    assert_eq!(answer, json!({"key": "orders", "start": 0, "count": 64}));
    assert_eq!(stdout(&node.ask(&["seq", "orders"])), "64");
    assert_eq!(stdout(&node.ask(&["seq", "orders", "--count", "3"])), "65 to 67 (3 values)");
    let same = json!({"key": "orders", "start": 68, "count": 2, "request_id": "order-17"});
    for _ in 0..3 {
        let asked = ["seq", "orders", "--count", "2", "--request-id", "order-17", "--json"];
        assert_eq!(json(&node.ask(&asked)), same);
    }
    assert_eq!(stdout(&node.ask(&["seq-read", "orders"])), "70");
    let answer = json(&node.ask(&["seq-read", "orders", "--json"]));
    assert_eq!(answer, json!({"key": "orders", "next": 70}));
}

#[test]
fn sequences_are_listed_and_seeded() {
    let (_directory, node) = node();
    let seeded = json(&node.ask(&["seq-seed", "orders-b", "1000", "--json"]));
    assert_eq!(seeded, json!({"key": "orders-b", "next": 1000}));
    let again = node.ask(&["seq-seed", "orders-b", "1000"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("goes on at 1000"), "{again:?}");
    assert_eq!(stdout(&node.ask(&["seq-seed", "invoices", "7"])), "7");
    node.ask(&["seq", "orders-a", "--count", "3"]);
    assert_eq!(stdout(&node.ask(&["seq-list"])), "invoices 7\norders-a 3\norders-b 1000");
    assert_eq!(stdout(&node.ask(&["seq-list", "orders-", "--limit", "1"])), "orders-a 3");
    let last = node.ask(&["seq-list", "orders-", "--after", "orders-a", "--json"]);
    assert_eq!(json(&last), json!({"key": "orders-b", "next": 1000}));
    assert_eq!(stdout(&node.ask(&["seq-list", "nothing"])), "");
    let deleted = json(&node.ask(&["seq-delete", "orders-b", "--json"]));
    assert_eq!(deleted, json!({"key": "orders-b", "next": 1000}));
    assert_eq!(node.ask(&["seq-delete", "orders-b"]).status.code(), Some(1));
    assert_eq!(stdout(&node.ask(&["seq", "orders-b"])), "0");
}

#[test]
fn stamping_leases() {
    let (_directory, node) = node();
    let lease = json(&node.ask(&["lease-acquire", "writer", "--ttl", "5m", "--json"]));
    assert_eq!(lease["lease_id"], 1);
    assert!((1..=300_000).contains(&lease["remaining_ms"].as_u64().unwrap()), "{lease}");
    let bound = lease["ts_upper_bound"].as_u64().unwrap();
    let frontier = json(&node.ask(&["frontier", "--json"]));
    assert_eq!(frontier, json!({"frontier_physical_ms": bound, "epoch": "1"}));
    let renewed = json(&node.ask(&["lease-renew", "1", "--json"]));
    assert!(renewed["ts_upper_bound"].as_u64().unwrap() >= bound);
    assert_eq!(stdout(&node.ask(&["lease-release", "1"])), "lease 1: released");
    let again = node.ask(&["lease-release", "1", "--json"]);
    assert_eq!(json(&again), json!({"lease_id": 1}));
    let over = node.ask(&["lease-renew", "1"]);
    assert_eq!(over.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&over.stderr).contains("lease 1"), "{over:?}");
    let text = stdout(&node.ask(&["lease-acquire", "writer", "--holder-epoch", "2"]));
    assert!(text.starts_with("lease 2: stamp up to "), "{text}");
    let stale = node.ask(&["lease-acquire", "writer"]);
    assert!(String::from_utf8_lossy(&stale.stderr).contains("epoch 2"), "{stale:?}");
    let frontier: u64 = stdout(&node.ask(&["frontier"])).parse().unwrap();
    assert!(frontier >= bound);
}

#[test]
fn status() {
    let (_directory, node) = node();
    let answer = json(&node.ask(&["status", "--json"]));
    assert_eq!(answer["endpoint"], node.address);
    assert_eq!((&answer["phase"], &answer["health"]), (&json!("leading"), &json!("SERVING")));
    assert_eq!((&answer["leader"], &answer["epoch"]), (&json!(node.address), &json!("1")));
    assert_ne!(answer["max_safe_physical_ms"], 0);
    let output = node.ask(&["status", "--endpoint", "127.0.0.1:1", "--json"]);
    let text = stdout(&output);
    let phases: Vec<Value> = text
        .lines()
        .map(|line| serde_json::from_str::<Value>(line).unwrap()["phase"].clone())
        .collect();
    assert_eq!(phases, ["unreachable", "leading"]);
    let text = stdout(&node.ask(&["status"]));
    assert!(text.starts_with(&format!("{}  leading, epoch 1, max safe 2", node.address)), "{text}");
}

#[test]
fn status_tells_how_much_space_is_left() {
    let directory = tempfile::tempdir().unwrap();
    let reserve = 1_u64 << 60;
    let options = ["file:./data", "--reserve-bytes", &reserve.to_string()];
    let node = Node::start(directory.path(), &options);
    // It is looked at once a second.
    let mut answer = Value::Null;
    until("it does not tell what is free", || {
        answer = json(&node.ask(&["status", "--json"]));
        answer["free_bytes"].is_u64()
    });
    assert_eq!(answer["reserve_bytes"], reserve);
    let trouble = answer["troubles"][0].as_str().unwrap();
    let free = answer["free_bytes"].as_u64().unwrap();
    assert!((1..reserve).contains(&free) && trouble.contains("little space is left"), "{answer}");
    let text = stdout(&node.ask(&["status"]));
    assert!(
        text.contains(" GB free") && text.contains(trouble.split(':').next().unwrap()),
        "{text}"
    );
}

#[test]
fn decode() {
    let here = Path::new(".");
    let decoded = json(&run(here, &["decode", "470642596465082370", "--json"]));
    let time = "2026-11-22T14:50:25.822Z";
    let expected = json!({
        "timestamp": 470_642_596_465_082_370_u64,
        "physical_ms": 1_795_359_025_822_u64,
        "logical": 2,
        "time": time,
    });
    assert_eq!(decoded, expected);
    let text = stdout(&run(here, &["decode", "470642596465082370"]));
    assert!(text.contains("1795359025822") && text.contains(time), "{text}");
}

#[test]
fn drivers() {
    let here = Path::new(".");
    let listed = json(&run(here, &["drivers", "--json"]));
    let names: Vec<_> = listed.as_array().unwrap().iter().map(|driver| &driver["name"]).collect();
    let mut expected = vec!["file", "memory"];
    expected.extend(cfg!(feature = "etcd").then_some("etcd"));
    expected.extend(cfg!(feature = "omnipaxos").then_some("omnipaxos"));
    expected.extend(cfg!(feature = "openraft").then_some("openraft"));
    expected.extend(cfg!(feature = "rocksdb").then_some("rocksdb"));
    expected.sort_unstable();
    assert_eq!(names, expected);
    let text = stdout(&run(here, &["drivers"]));
    assert!(text.contains("file\n    ") && text.contains("./tsoracle-data"), "{text}");
    if cfg!(feature = "rocksdb") {
        assert!(text.contains("rocksdb\n    ") && text.contains("write_buffer_mb"), "{text}");
    }
}

#[test]
fn a_timestamp_is_made_of_its_parts_and_taken_apart() {
    let here = Path::new(".");
    let made = stdout(&run(here, &["encode", "2026-11-22T13:30:25.822Z", "--logical", "2"]));
    assert_eq!(made, (1_795_354_225_822_u64 << 18 | 2).to_string());
    let parts = json(&run(here, &["decode", &made, "--json"]));
    let time = "2026-11-22T13:30:25.822Z";
    let expected = json!({"timestamp": 470_641_338_173_882_370_u64, "physical_ms": 1_795_354_225_822_u64, "logical": 2, "time": time});
    assert_eq!(parts, expected);
    assert_eq!(
        json(&run(here, &["encode", "1795354225822", "--logical", "2", "--json"])),
        expected
    );
    for wrong in
        [&["encode", "soon"][..], &["encode", "1", "--logical", "262144"], &["encode", "-1"]]
    {
        assert_eq!(run(here, wrong).status.code(), Some(2), "{wrong:?}");
    }
}

#[test]
fn init_sets_where_timestamps_begin() {
    let directory = TempDir::new().unwrap();
    let init = |time: &str, more: &[&str]| {
        let arguments = ["init", "file:./data", "--json", "--seed-physical-ms", time];
        run(directory.path(), &[&arguments, more].concat())
    };
    // In seconds, by the wrong century, and beyond what leaves anything to serve.
    for (absurd, why) in [
        ("1792000000", "1970-01-21"),
        ("2100-01-01T00:00:00Z", "more than a year away"),
        ("70368744177661", "beyond the timestamp space"),
    ] {
        let refused = init(absurd, &[]);
        let line = String::from_utf8_lossy(&refused.stderr).into_owned();
        assert_eq!(refused.status.code(), Some(2), "{line}");
        assert!(line.contains(why), "{line}");
    }
    assert_eq!(init("70368744177661", &["--force"]).status.code(), Some(2), "it would be dead");
    let seed = 4_102_444_800_000_u64;
    let answer = json(&init("2100-01-01T00:00:00Z", &["--force"]));
    assert_eq!(answer, json!({"driver": "file:./data", "seed_physical_ms": seed}));
    let again = init("2100-01-01T00:00:00Z", &["--force"]);
    assert_eq!(again.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&again.stderr).contains("holds state already"), "{again:?}");
    let node = Node::start(directory.path(), &["file:./data"]);
    let first: u64 = stdout(&node.ask(&["ts"])).parse().unwrap();
    assert_eq!(first >> 18, seed + 1);
}

#[test]
fn raise_lifts_the_time_of_a_state_and_leaves_the_rest() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["file:./data"]);
    assert_eq!(stdout(&node.ask(&["seq", "orders"])), "0");
    drop(node);
    let raise = |time: &str, more: &[&str]| {
        let arguments = ["raise", "file:./data", "--json", "--physical-ms", time];
        run(directory.path(), &[&arguments, more].concat())
    };
    let refused = |time: &str, code: i32, why: &str| {
        let output = raise(time, &[]);
        let line = String::from_utf8_lossy(&output.stderr).into_owned();
        assert_eq!(output.status.code(), Some(code), "{line}");
        assert!(line.contains(why), "{line}");
    };
    let now_ms = SystemClock.now().wall_ms;
    refused(&(now_ms / 1_000).to_string(), 2, "more than a year away");
    refused("2539-01-01T00:00:00Z", 2, "--force");
    refused(&(now_ms - 3_600_000).to_string(), 1, "nothing to raise: it is at 20");
    refused("70368744177661", 2, "beyond the timestamp space");
    let year_2100 = 4_102_444_800_000_u64;
    let answer = json(&raise("4102444800000", &["--force"]));
    assert_eq!(answer, json!({"driver": "file", "high_water_ms": year_2100}));
    // A lower one never lowers it.
    let answer = json(&raise("1", &["--force"]));
    assert_eq!(answer["high_water_ms"], json!(year_2100));
    let node = Node::start(directory.path(), &["file:./data"]);
    let first: u64 = stdout(&node.ask(&["ts"])).parse().unwrap();
    assert!(first >> 18 > year_2100);
    assert_eq!(stdout(&node.ask(&["seq", "orders"])), "1");
}

#[test]
fn metrics_are_counted() {
    let directory = TempDir::new().unwrap();
    let free = free_port();
    let node = Node::start(directory.path(), &["memory", "--metrics-listen", &free]);
    stdout(&node.ask(&["ts", "--count", "5"]));
    // Those who say nothing have their share of connections, and the next ones are closed.
    let mut silent: Vec<_> = (0..40).map(|_| TcpStream::connect(&free).unwrap()).collect();
    for closed in &mut silent[32..] {
        let read = closed.read(&mut [0; 1]);
        assert!(matches!(read, Ok(0) | Err(_)), "{read:?}");
    }
    drop(silent);
    let scrape = || {
        let mut asking = TcpStream::connect(&free)?;
        asking.write_all(b"GET /metrics HTTP/1.0\r\n\r\n")?;
        let mut metrics = String::new();
        asking.read_to_string(&mut metrics)?;
        std::io::Result::Ok(metrics)
    };
    // Until it has noticed that they are gone.
    let mut metrics = String::new();
    until("it is never answered", || {
        metrics = scrape().unwrap_or_default();
        !metrics.is_empty()
    });
    for line in
        ["tsoracle_timestamps_total 5", "tsoracle_grants_total 1", "tsoracle_reigns_total 1"]
    {
        assert!(metrics.lines().any(|counted| counted == line), "{line}: {metrics}");
    }
}

#[test]
fn help_teaches() {
    let here = Path::new(".");
    let help = stdout(&run(here, &["--help"]));
    for word in ["serve", "seq-read", "init", "Examples:", "Exit codes:"] {
        assert!(help.contains(word), "{word}: {help}");
    }
    let help = stdout(&run(here, &["serve", "--help"]));
    for word in ["--window-ahead", "TSORACLE_WINDOW_AHEAD", "127.0.0.1:50551", "[driver]"] {
        assert!(help.contains(word), "{word}: {help}");
    }
}
