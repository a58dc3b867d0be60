//! What a node says is wrong, with what is wrong made so: where a cluster does not serve, one page says why.
//!
//! A disk that is nearly full is in `space.rs`, beside what it refuses.

#[cfg(feature = "openraft")]
use std::process::Stdio;
use std::{path::Path, process::Command, time::Duration};

#[cfg(feature = "openraft")]
use rustix::process::Signal;
use serde_json::Value;
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};
use tsoracle_testbed::{FaultyDisk, WallClock};

use crate::{
    certificates::{SERVE, cert},
    node::{Node, get, problem, stdout, tsoracle, until, wait_until_sound},
    ports::free_port,
};
#[cfg(feature = "openraft")]
use crate::{
    node::{finished, openraft_nodes, run, shell},
    unfinished::Ends,
};

const DAY: i64 = 24 * 3_600;

fn serve(directory: &Path, arguments: &[&str]) -> (Command, String) {
    let admin = free_port();
    let always = ["serve", "--listen", "127.0.0.1:0", "--log", "off", "--admin-listen", &admin];
    (tsoracle(directory, &[&always, arguments].concat()), admin)
}

fn says(found: &Value, parts: &[&str]) {
    let what = found["what"].as_str().unwrap();
    assert!(parts.iter().all(|part| what.contains(part)), "{parts:?} in {found}");
    assert!(!found["do"].as_str().unwrap().is_empty(), "{found}");
    let (since_ms, lasts_ms) =
        (found["since_ms"].as_u64().unwrap(), found["lasts_ms"].as_u64().unwrap());
    assert!(since_ms > 0 && lasts_ms < 120_000, "{found}");
}

/// Three nodes, each with its address for administrators.
#[cfg(feature = "openraft")]
fn cluster(
    directory: &Path,
    prepare: impl Fn(usize, &mut Command),
) -> (Vec<Option<Node>>, Vec<String>) {
    let admins: Vec<_> = (0..3).map(|_| free_port()).collect();
    let nodes = openraft_nodes(directory, str::to_owned, |id, command| {
        command.args(["--admin-listen", &admins[id - 1]]);
        prepare(id, command);
    });
    (nodes.into_iter().map(Some).collect(), admins)
}

/// Has the first node lead, by asking any as an administrator.
#[cfg(feature = "openraft")]
fn lead_at_first(admins: &[String]) {
    let transfer = ["cluster", "transfer", "--to", "1", "--endpoint", &admins.join(",")];
    until("no transfer succeeds", || run(Path::new("."), &transfer).status.success());
}

/// Which one leads, by what it says itself.
#[cfg(feature = "openraft")]
fn leader(admins: &[String]) -> usize {
    let mut found = None;
    until("no node leads", || {
        let leads = |admin: &String| get(admin, "/readyz").body.starts_with("leading");
        found = admins.iter().position(leads);
        found.is_some()
    });
    found.unwrap()
}

#[cfg(feature = "openraft")]
#[test]
fn a_majority_that_is_lost_is_told_by_the_node_that_is_left_whether_it_led_or_not() {
    for led in [true, false] {
        let directory = TempDir::new().unwrap();
        let (mut nodes, admins) = cluster(directory.path(), |_, _| {});
        let leader = leader(&admins);
        let left = if led { leader } else { (leader + 1) % 3 };
        let gone: Vec<_> = (0..3).filter(|node| *node != left).collect();
        wait_until_sound(&admins[left]);
        gone.iter().for_each(|node| nodes[*node] = None);
        let found = problem(&admins[left], "majority_lost");
        let named =
            gone.iter().map(|node| format!("node {} at 127.0.0.1:", node + 1)).collect::<Vec<_>>();
        says(&found, &["1 of 3 voting nodes", "2 are needed", &named[0], &named[1]]);
        // A supervisor does not kill the one that is left, and sends it nobody.
        assert_eq!(get(&admins[left], "/livez").code, 200);
        let mut ready = None;
        until("it goes on being ready", || {
            let answer = get(&admins[left], "/readyz");
            ready = (answer.code == 503).then_some(answer);
            ready.is_some()
        });
        assert!(ready.as_ref().unwrap().body.contains("a majority is lost"), "{ready:?}");
        // The command says the same words.
        let text =
            String::from_utf8(nodes[left].as_ref().unwrap().ask(&["status"]).stdout).unwrap();
        assert!(text.contains("a majority is lost"), "{text}");
    }
}

/// What an alert looks at: no histogram has what has not ended.
fn wait_until_series_shows_it(admin: &str) {
    until("it is shown that a write has been under way for a second", || {
        let text = get(admin, "/metrics").body;
        let shown = text
            .lines()
            .find_map(|line| line.strip_prefix("tsoracle_store_sync_under_way_seconds "));
        shown.is_some_and(|seconds| seconds.parse::<f64>().unwrap() > 1.0)
    });
}

#[test]
fn a_disk_that_is_slow_or_hangs_is_told() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().canonicalize().unwrap().join("state");
    let disk = FaultyDisk::new(directory.path(), &state).unwrap();
    let driver = format!("file:{}", state.display());
    let (mut command, admin) = serve(directory.path(), &[&driver]);
    let node = Node::spawn({
        command.envs(disk.environment());
        command
    });
    stdout(&node.ask(&["seq", "orders"]));
    wait_until_sound(&admin);
    disk.slow_down(Duration::from_millis(400)).unwrap();
    for _ in 0..4 {
        node.ask(&["seq", "orders"]);
    }
    says(
        &problem(&admin, "disk_slow"),
        &["writes to the disk of this node are slow: half of the last"],
    );
    disk.hang().unwrap();
    node.ask(&["seq", "orders", "--timeout", "200ms"]);
    let mut found = Value::Null;
    until("it is not told that a write is under way", || {
        found = problem(&admin, "disk_slow");
        found["what"].as_str().unwrap().contains("under way")
    });
    says(&found, &["a write to the disk of this node has been under way for"]);
    assert!(found["do"].as_str().unwrap().contains("iostat"), "{found}");
    wait_until_series_shows_it(&admin);
    disk.be_sound().unwrap();
}

/// Each node tells of its own disk, also if it does not lead.
#[cfg(feature = "openraft")]
#[test]
fn the_disk_of_a_follower_is_told_by_that_one() {
    let directory = TempDir::new().unwrap();
    let state = directory.path().canonicalize().unwrap();
    let disk = FaultyDisk::new(directory.path(), &state).unwrap();
    let (nodes, admins) = cluster(&state, |id, command| {
        if id == 2 {
            command.envs(disk.environment());
        }
    });
    let nodes: Vec<_> = nodes.into_iter().flatten().collect();
    lead_at_first(&admins);
    stdout(&nodes[0].ask(&["seq", "orders"]));
    disk.hang().unwrap();
    // The others are enough.
    stdout(&nodes[0].ask(&["seq", "orders"]));
    says(&problem(&admins[1], "disk_slow"), &["under way for"]);
    wait_until_series_shows_it(&admins[1]);
    stdout(&nodes[0].ask(&["seq", "orders"]));
    disk.be_sound().unwrap();
}

/// A directory for a state that was served, and the wall clock of the servers over it.
fn served() -> (TempDir, WallClock) {
    let directory = TempDir::new().unwrap();
    let clock = WallClock::new(directory.path()).unwrap();
    let (mut command, _) = serve(directory.path(), &[]);
    command.envs(clock.environment());
    stdout(&Node::spawn(command).ask(&["ts"]));
    (directory, clock)
}

#[test]
fn a_clock_that_is_wrong_is_told_by_the_leader() {
    let (directory, clock) = served();
    clock.shift(40_000 * DAY).unwrap();
    let (mut command, admin) = serve(directory.path(), &[]);
    command.envs(clock.environment());
    let node = Node::spawn(command);
    stdout(&node.ask(&["ts"]));
    let found = problem(&admin, "clock_wrong");
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("days ahead of what is believed, and not followed"), "{found}");
    assert!(found["do"].as_str().unwrap().contains("--trust-clock-until"), "{found}");
    clock.shift(0).unwrap();
    wait_until_sound(&admin);
}

/// Nothing is served then, which the page says, and the probe: without a date, since there is none before 1970.
#[test]
fn a_clock_that_was_never_set_is_told_before_1970_too() {
    for before_1970 in [0, 10 * 365 * DAY] {
        let directory = TempDir::new().unwrap();
        let clock = WallClock::new(directory.path()).unwrap();
        let now = (SystemClock.now().wall_ms / 1_000).cast_signed();
        clock.shift(-now - before_1970).unwrap();
        let (mut command, admin) = serve(directory.path(), &["memory"]);
        command.envs(clock.environment());
        let _node = Node::spawn(command);
        let found = problem(&admin, "clock_wrong");
        assert!(found["what"].as_str().unwrap().contains("was never set"), "{found}");
        let ready = get(&admin, "/readyz");
        assert!(ready.code == 503 && ready.body.contains("was never set"), "{ready:?}");
        assert_eq!(get(&admin, "/livez").code, 200);
        assert_eq!(get(&admin, "/nothing").code, 404);
        assert!(get(&admin, "/").body.contains("<title>tsoracle</title>"));
    }
}

#[cfg(feature = "openraft")]
#[test]
fn a_follower_tells_that_its_clock_is_not_that_of_the_others() {
    let directory = TempDir::new().unwrap();
    let clock = WallClock::new(directory.path()).unwrap();
    let (_nodes, admins) = cluster(directory.path(), |id, command| {
        if id == 3 {
            command.envs(clock.environment());
        }
    });
    lead_at_first(&admins);
    wait_until_sound(&admins[2]);
    clock.shift(-DAY).unwrap();
    says_side(&admins[2], "behind those of most nodes");
    clock.shift(DAY).unwrap();
    says_side(&admins[2], "ahead of those of most nodes");
    // The others are right, and say nothing.
    wait_until_sound(&admins[0]);
    clock.shift(0).unwrap();
    wait_until_sound(&admins[2]);
}

#[cfg(feature = "openraft")]
fn says_side(admin: &str, side: &str) {
    until(side, || problem(admin, "clock_wrong")["what"].as_str().unwrap().contains(side));
}

#[test]
fn a_certificate_that_expires_and_has_expired_is_told_with_its_file() {
    let directory = TempDir::new().unwrap();
    cert(directory.path(), &["ca"]);
    cert(directory.path(), &["node", "1", "--address", "127.0.0.1", "--days", "60"]);
    let clock = WallClock::new(directory.path()).unwrap();
    let (mut command, admin) = serve(directory.path(), &[&["memory"], &SERVE[..]].concat());
    command.envs(clock.environment());
    let _node = Node::spawn(command);
    wait_until_sound(&admin);
    let status = crate::node::status(&admin);
    let certificates = status["certificates"].as_array().unwrap();
    assert_eq!(certificates.len(), 2, "its own chain, and the authorities of clients: {status:#}");
    let first =
        certificates.iter().map(|one| one["expires_in_ms"].as_i64().unwrap()).min().unwrap();
    assert_eq!(first / 1_000 / DAY, 59);
    clock.shift(40 * DAY).unwrap();
    let found = problem(&admin, "certificate_expiring");
    assert!(
        found["what"]
            .as_str()
            .unwrap()
            .contains("TLS of clients: the certificate in tsoracle-certs/node-1.pem"),
        "{found}"
    );
    clock.shift(61 * DAY).unwrap();
    let found = problem(&admin, "certificate_expired");
    let what = found["what"].as_str().unwrap();
    assert!(what.contains("node-1.pem") && what.contains("expired on 20"), "{found}");
    assert!(found["do"].as_str().unwrap().contains("without a restart"), "{found}");
}

#[test]
fn certificates_that_are_of_no_use_are_told() {
    let directory = TempDir::new().unwrap();
    cert(directory.path(), &["ca"]);
    cert(directory.path(), &["node", "1", "--address", "127.0.0.1", "--days", "60"]);
    let (command, admin) = serve(directory.path(), &[&["memory"], &SERVE[..]].concat());
    let _node = Node::spawn(command);
    wait_until_sound(&admin);
    let file = directory.path().join("tsoracle-certs/node-1.pem");
    let good = std::fs::read(&file).unwrap();
    std::fs::write(&file, "nothing").unwrap();
    let found = problem(&admin, "certificates_not_in_use");
    says(
        &found,
        &["TLS of clients: older certificates are in use than in the files", "node-1.pem"],
    );
    std::fs::write(&file, good).unwrap();
    wait_until_sound(&admin);
}

/// Of a driver with peers, the driver itself tells.
#[cfg(feature = "openraft")]
#[test]
fn a_cluster_that_is_not_formed_is_told_with_the_node_that_is_missing() {
    let directory = TempDir::new().unwrap();
    let (own, missing) = (free_port(), free_port());
    for driver in ["openraft", "omnipaxos"] {
        if cfg!(not(feature = "omnipaxos")) && driver == "omnipaxos" {
            continue;
        }
        let config = format!("{driver}:./{driver}?node=1&peers=1={own}/a:1,2={missing}/b:1");
        let (command, admin) = serve(directory.path(), &[&config, "--advertise", "a:1"]);
        let _node = Node::spawn(command);
        let found = problem(&admin, "cluster_not_formed");
        says(&found, &[&format!("waiting for node 2 at {missing}")]);
    }
}

#[cfg(feature = "openraft")]
#[test]
fn a_node_that_runs_twice_is_told_with_both_addresses() {
    let directory = TempDir::new().unwrap();
    let third = std::cell::RefCell::new(String::new());
    let (mut nodes, admins) = cluster(directory.path(), |id, command| {
        if id == 3 {
            *third.borrow_mut() = command.get_args().nth(1).unwrap().to_str().unwrap().into();
        }
    });
    lead_at_first(&admins);
    let node = nodes[2].take().unwrap();
    node.signal(Signal::TERM);
    assert_eq!(node.ended().0.code(), Some(0));
    // As a backup of the machine would, which is started besides.
    let copy = "cp -r raft-3 copy";
    assert!(finished(&mut shell(directory.path(), copy)).status.success());
    let third = third.into_inner();
    let again = ["serve", &third, "--listen", "127.0.0.1:0", "--log", "off"];
    let _node = Node::spawn(tsoracle(directory.path(), &again));
    wait_until_sound(&admins[0]);
    let beside = free_port();
    let double = third.replace("./raft-3", "./copy") + &format!("&moved=true&peer_listen={beside}");
    let double = ["serve", &double, "--listen", "127.0.0.1:0", "--log", "off"];
    let mut double = tsoracle(directory.path(), &double);
    let double = double.stdout(Stdio::null()).stderr(Stdio::null()).spawn().unwrap();
    let _double = Ends(double);
    let found = problem(&admins[0], "node_runs_twice");
    says(&found, &["node 3 runs twice, at ", " and at ", "which is refused"]);
    assert!(found["do"].as_str().unwrap().contains("stop one of the two"), "{found}");
}

#[test]
fn a_cap_that_is_nearly_reached_is_told_with_its_option() {
    let directory = TempDir::new().unwrap();
    let (command, admin) = serve(directory.path(), &["memory", "--max-keys", "4"]);
    let node = Node::spawn(command);
    for key in ["a", "b", "c"] {
        stdout(&node.ask(&["seq", key]));
    }
    let found = problem(&admin, "cap_nearly_reached");
    says(&found, &["3 of at most 4 sequences"]);
    assert!(found["do"].as_str().unwrap().contains("--max-keys"), "{found}");
}

#[test]
fn lines_of_the_log_that_nobody_reads_are_told() {
    let directory = TempDir::new().unwrap();
    let admin = free_port();
    let arguments = ["memory", "--admin-listen", &admin, "--log", "trace"];
    let mut node = Node::start(directory.path(), &arguments);
    node.close_log();
    stdout(&node.ask(&["ts"]));
    says(&problem(&admin, "log_lines_lost"), &["lines of the log were lost"]);
}
