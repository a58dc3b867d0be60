//! Restores and migrations that are killed: until their state is whole, nothing opens it.

use std::{
    fs,
    path::Path,
    process::{Child, Output, Stdio},
    time::Duration,
};

use tempfile::TempDir;

use crate::{
    backup::{backup, served},
    node::{Node, error_line, later, run, stdout, tsoracle, until},
};

/// A process that does not outlive the test.
pub(crate) struct Ends(pub(crate) Child);

impl Drop for Ends {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What a server that does not serve says.
fn serve(directory: &Path, target: &str) -> Output {
    let mut command = tsoracle(directory, &["serve", target, "--listen", "127.0.0.1:0"]);
    let log = directory.join("log");
    command.stdout(Stdio::null()).stderr(fs::File::create(&log).unwrap());
    let mut node = Ends(command.spawn().unwrap());
    let mut status = None;
    until("it does not serve", || {
        status = node.0.try_wait().unwrap();
        let said = fs::read_to_string(&log).unwrap();
        assert!(!said.contains("serving epoch"), "{said}");
        status.is_some()
    });
    Output { status: status.unwrap(), stdout: vec![], stderr: fs::read(&log).unwrap() }
}

/// That nothing opens a directory, and what is said is what to do.
fn is_opened_by_nothing(directory: &Path, target: &str) {
    for output in [
        serve(directory, target),
        run(directory, &["inspect", target]),
        run(directory, &["migrate", target, "file:./elsewhere"]),
        run(directory, &["raise", target, "--physical-ms", "2026-11-30T12:00:00Z"]),
        run(directory, &["init", target, "--seed-physical-ms", "2026-11-30T12:00:00Z"]),
    ] {
        let line = error_line(&output, 1);
        assert!(
            line.contains("is not finished") && line.contains("remove the directory"),
            "{line}"
        );
    }
    assert!(!directory.join("elsewhere").exists());
}

/// Starts a command, and kills it some time after it has begun. Returns whether it had ended before.
fn killed(here: &Path, command: &[&str], has_begun: impl Fn() -> bool, after: Duration) -> bool {
    let mut child = Ends(tsoracle(here, command).stderr(Stdio::null()).spawn().unwrap());
    until("it begins", has_begun);
    later(after);
    child.0.kill().unwrap();
    child.0.wait().unwrap().success()
}

/// A restore, or a migration, into drivers of one node, met at different points.
fn is_killed(command: &[&str], here: &Path, driver: &str) {
    let mut met = 0;
    for attempt in 0..16 {
        let (name, after) =
            (format!("new-{attempt}"), Duration::from_millis(attempt * attempt * 2));
        let (new, target) = (here.join(&name), format!("{driver}:./{name}"));
        let command = [command, &[&target]].concat();
        let begins = || new.join("UNFINISHED").exists() || new.join("LOCK").exists();
        let has_ended = killed(here, &command, begins, after);
        if !new.join("UNFINISHED").exists() {
            // It was whole before it was killed, or else this would serve as a new one.
            let node = Node::start(here, &[&target]);
            assert_eq!(stdout(&node.ask(&["seq-read", "b"])), "10", "{has_ended}");
            break;
        }
        met += 1;
        // What it was met at is the same for some in a row.
        if attempt % 4 != 0 {
            continue;
        }
        if driver == "file" {
            is_opened_by_nothing(here, &target);
        } else {
            serve(here, &target);
        }
        let again = run(here, &command);
        if !again.status.success() {
            let line = error_line(&again, 1);
            // The last moment is when it is whole, and still marked.
            assert!(line.contains("remove") || line.contains("take a new one"), "{line}");
            fs::remove_dir_all(&new).unwrap();
            stdout(&run(here, &command));
        }
        // So that there is something to be migrated the next time.
        let _ = fs::remove_file(here.join("data/MOVED"));
        let node = Node::start(here, &[&target]);
        assert_eq!(stdout(&node.ask(&["seq-read", "b"])), "10", "all is there");
    }
    assert!(met > 0, "none was met between its beginning and its end");
}

/// A directory in which a backup and a state are that take a while to be brought elsewhere.
fn prepared() -> TempDir {
    let (directory, node) = served();
    for key in 0..100 {
        stdout(&node.ask(&["seq", &format!("{key}{}", "-".repeat(100))]));
    }
    stdout(&backup(&node, directory.path(), &["copy"]));
    directory
}

#[test]
fn what_a_killed_restore_leaves_is_opened_by_nothing() {
    let directory = prepared();
    is_killed(&["restore", "copy"], directory.path(), "file");
}

#[cfg(feature = "rocksdb")]
#[test]
fn what_a_killed_restore_leaves_of_rocksdb_is_opened_by_nothing() {
    let directory = prepared();
    is_killed(&["restore", "copy"], directory.path(), "rocksdb");
}

#[test]
fn what_a_killed_migration_leaves_is_opened_by_nothing() {
    let directory = prepared();
    is_killed(&["migrate", "file:./data"], directory.path(), "file");
}

/// Nodes that do not lead alone have made nothing but an empty state when they are killed.
#[cfg(feature = "openraft")]
fn is_killed_before_it_leads(driver: &str) {
    let directory = prepared();
    let here = directory.path();
    let free = crate::ports::free_ports(3);
    let peers = (1..).zip(&free).map(|(id, peer)| format!("{id}={peer}/127.0.0.1:{id}"));
    let peers = peers.collect::<Vec<_>>().join(",");
    let node = |id: u8| format!("{driver}:./n{id}?node={id}&peers={peers}");
    let lock = here.join("n1/state.journal");
    killed(here, &["restore", "copy", &node(1)], || lock.exists(), Duration::ZERO);
    is_opened_by_nothing(here, &node(1));
    if driver == "omnipaxos" {
        stdout(&run(here, &["restore", "copy", &node(1), &node(2), &node(3)]));
        let found = stdout(&run(here, &["inspect", &node(1), "--keys"]));
        assert!(found.contains("b 10"), "{found}");
    }
}

#[cfg(feature = "openraft")]
#[test]
fn what_a_killed_restore_leaves_of_openraft_is_opened_by_nothing() {
    is_killed_before_it_leads("openraft");
}

#[cfg(all(feature = "openraft", feature = "omnipaxos"))]
#[test]
fn what_a_killed_restore_leaves_of_omnipaxos_is_opened_by_nothing() {
    is_killed_before_it_leads("omnipaxos");
}

/// What was never begun leaves nothing behind that would have to be removed.
#[test]
fn what_cannot_be_opened_is_not_begun() {
    let directory = prepared();
    let here = directory.path();
    for target in ["file:./new?none=1", "openraft:./new"] {
        error_line(&run(here, &["restore", "copy", target]), 2);
        assert!(!here.join("new").exists(), "{target}");
    }
    fs::create_dir(here.join("new")).unwrap();
    error_line(&run(here, &["restore", "copy", "file:./new?none=1"]), 2);
    stdout(&run(here, &["restore", "copy", "file:./new"]));
    assert!(!here.join("new/UNFINISHED").exists());
}
