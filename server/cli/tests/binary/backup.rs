//! Backups of a server that serves, and what is restored from them.

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::Path,
    process::Output,
    thread,
    time::{Duration, Instant},
};

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::node::{Node, error_line, json, run, stdout, tsoracle};

fn backup(node: &Node, directory: &Path, more: &[&str]) -> Output {
    let arguments = [&["backup", "--endpoint", &node.address], more].concat();
    run(directory, &arguments)
}

/// A directory in which `file:./data` is served, with some of everything.
fn served() -> (TempDir, Node) {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["file:./data"]);
    for key in ["a", "b", "c"] {
        stdout(&node.ask(&["seq", key, "--count", "10"]));
    }
    stdout(&node.ask(&["seq", "a", "--request-id", "order 1"]));
    stdout(&node.ask(&["lease-acquire", "writer", "--ttl", "1m"]));
    (directory, node)
}

#[test]
fn a_backup_is_taken_verified_and_restored() {
    let (directory, node) = served();
    let here = directory.path();
    let taken = json(&backup(&node, here, &["copy", "--json"]));
    for (field, expected) in
        [("sequences", json!(3)), ("named_requests", json!(1)), ("leases", json!(1))]
    {
        assert_eq!(taken[field], expected, "{taken}");
    }
    let metadata = fs::metadata(here.join("copy")).unwrap();
    assert_eq!(metadata.permissions().mode() & 0o777, 0o600);
    assert!(!here.join("copy.part").exists());
    assert_eq!(json(&run(here, &["backup", "verify", "copy", "--json"])), taken);
    // What exists is not replaced without a word.
    let before = fs::read(here.join("copy")).unwrap();
    let line = error_line(&backup(&node, here, &["copy"]), 1);
    assert!(line.contains("--force"), "{line}");
    assert_eq!(fs::read(here.join("copy")).unwrap(), before);
    let last: u64 = stdout(&node.ask(&["ts"])).parse().unwrap();
    stdout(&backup(&node, here, &["copy", "--force"]));

    // Over the state that there is nothing is restored, in use or not.
    let line = error_line(&run(here, &["restore", "copy", "file:./data"]), 1);
    assert!(line.contains("left as it is"), "{line}");
    node.signal(Signal::TERM);
    node.ended();
    let line = error_line(&run(here, &["restore", "copy", "file:./data"]), 1);
    assert!(line.contains("left as it is"), "{line}");

    fs::write(here.join("floors"), "b=200\n\nnew=7\n").unwrap();
    let arguments = ["restore", "copy", "file:./new", "--floor", "a=100", "--floors", "floors"];
    let restored = json(&run(here, &[&arguments[..], &["--json"]].concat()));
    assert_eq!((&restored["sequences"], &restored["sequences_closed"]), (&json!(4), &json!(true)));
    let node = Node::start(here, &["file:./new"]);
    let first: u64 = stdout(&node.ask(&["ts"])).parse().unwrap();
    assert!(first > last && first >> 18 > restored["high_water_ms"].as_u64().unwrap());
    for (key, next) in [("a", "100"), ("b", "200"), ("new", "7")] {
        assert_eq!(stdout(&node.ask(&["seq", key])), next, "{key}");
    }
    assert_eq!(stdout(&node.ask(&["seq", "a", "--request-id", "order 1"])), "10", "as before");
    let line = error_line(&node.ask(&["seq", "c"]), 1);
    assert!(line.contains("restored from a backup") && line.contains("seq-open"), "{line}");
    assert_eq!(stdout(&node.ask(&["seq-read", "c"])), "10", "to be looked at");
    let opened = node.ask(&["seq-open", "--floor", "c=30", "--json"]);
    let expected =
        json!({"entries": [{"key": "c", "next": 30, "next_text": "30"}], "closed": true});
    assert_eq!(json(&opened), expected);
    assert_eq!(stdout(&node.ask(&["seq", "c"])), "30");
    error_line(&node.ask(&["seq", "others"]), 1);
    assert_eq!(stdout(&node.ask(&["seq-open", "--accept-sequence-loss"])), "all are open");
    assert_eq!(stdout(&node.ask(&["seq", "others"])), "0");
    let line = error_line(&node.ask(&["seq-open", "--floor", "c=3000"]), 1);
    assert!(line.contains("no sequence is closed"), "{line}");
}

#[test]
fn what_is_no_whole_backup_restores_nothing() {
    let (directory, node) = served();
    let here = directory.path();
    stdout(&backup(&node, here, &["copy"]));
    let bytes = fs::read(here.join("copy")).unwrap();
    let altered = |at: usize| {
        let mut bytes = bytes.clone();
        bytes[at] ^= 1;
        bytes
    };
    let wrong = [
        ("empty", vec![], "cut short"),
        ("cut", bytes[..bytes.len() / 2].into(), "cut short"),
        ("short", bytes[..bytes.len() - 1].into(), "cut short"),
        ("altered", altered(bytes.len() / 2), "is not what was written"),
        ("other", b"something else altogether".into(), "no backup"),
        ("newer", altered(18), "newer release"),
    ];
    for (name, content, said) in wrong {
        fs::write(here.join(name), content).unwrap();
        for arguments in [&["backup", "verify", name][..], &["restore", name, "file:./new"]] {
            let line = error_line(&run(here, arguments), 1);
            assert!(line.contains(name) && line.contains(said), "{arguments:?}: {line}");
        }
        assert!(!here.join("new").exists(), "{name}: nothing is made");
    }
    for name in ["missing", "."] {
        error_line(&run(here, &["backup", "verify", name]), 1);
        error_line(&run(here, &["restore", name, "file:./new"]), 1);
    }
    for name in ["none/copy", ".", "data"] {
        error_line(&backup(&node, here, &[name]), 1);
    }
    let line =
        error_line(&run(here, &["backup", "x", "--endpoint", "127.0.0.1:1", "--timeout", "1s"]), 1);
    assert!(line.contains("127.0.0.1:1 cannot be reached"), "{line}");
    assert!(!here.join("x").exists() && !here.join("x.part").exists());
}

/// A restore that is killed leaves something that says why it does not serve.
#[test]
fn a_restore_that_was_killed_is_not_served() {
    let (directory, node) = served();
    let here = directory.path();
    // So much that it takes a while.
    let keys: Vec<String> = (0..100).map(|key| format!("{key}{}", "-".repeat(100))).collect();
    for key in &keys {
        stdout(&node.ask(&["seq", key]));
    }
    stdout(&backup(&node, here, &["copy"]));
    let mut killed = false;
    for attempt in 0..50 {
        let target = format!("file:./new-{attempt}");
        let mut child = tsoracle(here, &["restore", "copy", &target]).spawn().unwrap();
        let journal = here.join(format!("new-{attempt}/state.journal"));
        let deadline = Instant::now() + Duration::from_secs(20);
        while !journal.exists() && Instant::now() < deadline {
            thread::yield_now();
        }
        // A little later each time, to meet it between its beginning and its end.
        thread::sleep(Duration::from_millis(attempt));
        child.kill().unwrap();
        if child.wait().unwrap().success() {
            break;
        }
        let mut node = tsoracle(here, &["serve", &target, "--listen", "127.0.0.1:0"]);
        let log = here.join(format!("log-{attempt}"));
        let mut node = node
            .stdout(std::process::Stdio::null())
            .stderr(fs::File::create(&log).unwrap())
            .spawn()
            .unwrap();
        let deadline = Instant::now() + Duration::from_secs(20);
        let said = loop {
            let said = fs::read_to_string(&log).unwrap();
            let is_told = said.contains("is not whole") || said.contains("serving");
            if is_told || Instant::now() > deadline {
                break said;
            }
            thread::sleep(Duration::from_millis(10));
        };
        node.kill().unwrap();
        node.wait().unwrap();
        if said.contains("is not whole") {
            killed = true;
            break;
        }
    }
    assert!(killed, "no restore was met between its beginning and its end");
}
