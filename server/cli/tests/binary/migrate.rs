//! A state moves from one driver to another, and is served from there.

use std::path::Path;

use rustix::process::Signal;
use serde_json::json;
use tempfile::TempDir;

use crate::{
    backup::has_counts,
    node::{Node, error_line, json, run, stdout},
};

fn take(node: &Node, number: u32) -> String {
    stdout(&node.ask(&[
        "seq",
        "orders",
        "--count",
        "3",
        "--request-id",
        &format!("order {number}"),
    ]))
}

/// A directory in which `file:./old` was served, and what was handed out from it.
struct Served {
    directory: TempDir,
    blocks: Vec<String>,
    last: u64,
    bound: u64,
    epoch: u128,
}

fn served(signal: Signal) -> Served {
    let directory = TempDir::new().expect("a temporary directory");
    drop(Node::start(directory.path(), &["file:./old"]));
    let node = Node::start(directory.path(), &["file:./old"]);
    let blocks = (0..40).map(|number| take(&node, number)).collect();
    stdout(&node.ask(&["seq-seed", "invoices", "1000"]));
    let lease = json(&node.ask(&["lease-acquire", "writer", "--ttl", "5m", "--json"]));
    let bound = lease["ts_upper_bound"].as_u64().expect("a number");
    let last: u64 = stdout(&node.ask(&["ts"])).parse().expect("a number");
    let epoch = epoch(&node);
    node.signal(signal);
    node.ended();
    Served { directory, blocks, last, bound, epoch }
}

fn epoch(node: &Node) -> u128 {
    json(&node.ask(&["frontier", "--json"]))["epoch"]
        .as_str()
        .expect("text")
        .parse()
        .expect("a number")
}

const FILE: &str = "file:./new";

fn migrate(directory: &Path, target: &str) -> std::process::Output {
    run(directory, &["migrate", "file:./old", target, "--json"])
}

fn everything_goes_on(signal: Signal, target: &str) {
    let Served { directory, blocks, last, bound, epoch: before } = served(signal);
    let report = json(&migrate(directory.path(), target));
    has_counts(&report);
    for (field, expected) in
        [("sequences", 2), ("named_requests", 40), ("leases", 1), ("high_water_ms", bound)]
    {
        assert_eq!(report[field], json!(expected), "{field}: {report}");
    }
    let node = Node::start(directory.path(), &[target]);
    for (number, block) in blocks.iter().enumerate() {
        assert_eq!(take(&node, number as u32), *block, "the same block as before");
    }
    assert_eq!(stdout(&node.ask(&["seq-list"])), "invoices 1000\norders 120");
    let first: u64 = stdout(&node.ask(&["ts"])).parse().expect("a number");
    assert!(first > last && first >> 18 > bound);
    let frontier: u64 = stdout(&node.ask(&["frontier"])).parse().expect("a number");
    assert_eq!(frontier, bound, "the lease still holds it");
    stdout(&node.ask(&["lease-renew", "1"]));
    assert!(epoch(&node) > before, "epochs do not fall");
}

#[test]
fn after_a_graceful_stop_everything_goes_on_elsewhere() {
    everything_goes_on(Signal::TERM, FILE);
}

#[test]
fn after_a_kill_everything_goes_on_elsewhere() {
    everything_goes_on(Signal::KILL, FILE);
}

/// A cluster begins as one node, which takes over what was there before it.
#[cfg(feature = "openraft")]
#[test]
fn a_single_node_becomes_the_first_of_a_cluster() {
    let peers = "peers=1=127.0.0.1:1/127.0.0.1:2&peer_listen=127.0.0.1:0";
    everything_goes_on(Signal::KILL, &format!("openraft:./new?node=1&{peers}"));
}

/// Nodes that lead only together are named together.
#[cfg(feature = "omnipaxos")]
#[test]
fn a_cluster_that_does_not_change_is_migrated_into_as_a_whole() {
    use crate::node::tsoracle;
    let Served { directory, blocks, last, .. } = served(Signal::TERM);
    let free = crate::ports::free_ports(6);
    let (peers, services) = free.split_at(3);
    let list = (0..3).map(|node| format!("{}={}/{}", node + 1, peers[node], services[node]));
    let list = list.collect::<Vec<_>>().join(",");
    let nodes: Vec<_> =
        (1..=3).map(|node| format!("omnipaxos:./n{node}?node={node}&peers={list}")).collect();
    let arguments = [&["migrate", "file:./old"], &*nodes.iter().map(|n| &**n).collect::<Vec<_>>()];
    stdout(&run(directory.path(), &arguments.concat()));
    let started = nodes.iter().zip(services).map(|(node, service)| {
        Node::spawn(tsoracle(directory.path(), &["serve", node, "--listen", service]))
    });
    let started: Vec<_> = started.collect();
    for (number, block) in blocks.iter().enumerate() {
        assert_eq!(take(&started[number % 3], number as u32), *block, "the same block as before");
    }
    let first: u64 = stdout(&started[0].ask(&["ts", "--timeout", "60s"])).parse().unwrap();
    assert!(first > last);
}

#[test]
fn what_is_in_use_or_was_used_is_left_alone() {
    let Served { directory, .. } = served(Signal::TERM);
    let node = Node::start(directory.path(), &["file:./old"]);
    let line = error_line(&migrate(directory.path(), FILE), 1);
    assert!(line.starts_with("the source: ") && line.contains("in use"), "{line}");
    node.signal(Signal::TERM);
    node.ended();
    let node = Node::start(directory.path(), &[FILE]);
    let line = error_line(&migrate(directory.path(), FILE), 1);
    assert!(line.starts_with("the target: ") && line.contains("in use"), "{line}");
    let next = take(&node, 1);
    node.signal(Signal::TERM);
    node.ended();
    let line = error_line(&migrate(directory.path(), FILE), 1);
    assert!(line.contains("holds state already"), "{line}");
    let node = Node::start(directory.path(), &[FILE]);
    assert_eq!(take(&node, 1), next, "it was left as it was");
    let line = error_line(&run(directory.path(), &["migrate", "file:./typo", "file:./other"]), 1);
    assert!(line.contains("no state in ./typo"), "{line}");
    assert!(!directory.path().join("typo").exists(), "no source is made");
    assert!(!directory.path().join("other").exists(), "no target without a source");
}

#[test]
fn a_state_is_not_migrated_into_itself() {
    let Served { directory, .. } = served(Signal::TERM);
    let again = directory.path().join("old");
    for target in ["file:./old", "file:old", &format!("file:{}", again.display())] {
        let line = error_line(&run(directory.path(), &["migrate", "file:./old", target]), 2);
        assert!(line.contains("are the same"), "{line}");
    }
}

#[test]
fn what_was_migrated_is_not_served_from_its_old_place() {
    let Served { directory, .. } = served(Signal::TERM);
    stdout(&migrate(directory.path(), "file:./new"));
    let again = run(directory.path(), &["serve", "file:./old", "--listen", "127.0.0.1:0"]);
    let line = error_line(&again, 1);
    assert!(line.contains("migrated to file") && line.contains("MOVED"), "{line}");
    drop(Node::start(directory.path(), &["file:./new"]));
    // Whoever knows better can.
    std::fs::remove_file(directory.path().join("old/MOVED")).unwrap();
    drop(Node::start(directory.path(), &["file:./old"]));
}
