//! The clusters of docs/OPERATIONS.md, copied and pasted; only the ports are others.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

#[allow(dead_code, reason = "it is shared with other test programs")]
#[path = "binary/node.rs"]
mod node;
#[allow(dead_code, reason = "it is shared with other test programs")]
#[path = "binary/ports.rs"]
mod ports;

use std::{
    collections::BTreeMap,
    fs,
    os::unix::{fs::PermissionsExt, process::CommandExt},
    process::{Child, Command, Output, Stdio},
};

use rustix::process::{Pid, Signal, kill_process_group};
#[cfg(feature = "openraft")]
use {
    rustix::process::kill_process,
    std::{
        path::Path,
        sync::{
            Arc,
            atomic::{AtomicBool, Ordering},
        },
        thread::{self, JoinHandle},
        time::Duration,
    },
    tsoracle_client::Client,
};

/// How long a call may take: an election is among them.
#[cfg(feature = "openraft")]
const PATIENCE: Duration = Duration::from_secs(60);

use node::{finished, first_line};
use tempfile::TempDir;

const TEXT: &str = include_str!("../../../docs/OPERATIONS.md");
const LOCAL: &str = "127.0.0.1:";

/// A reader with an empty folder, `tsoracle` on the PATH, and ports that are free.
struct Reader {
    home: TempDir,
    text: String,
    running: Vec<Program>,
}

/// What runs in a terminal. It ends with the reader.
struct Program {
    line: String,
    child: Child,
}

impl Drop for Program {
    fn drop(&mut self) {
        let _ = kill_process_group(Pid::from_child(&self.child), Signal::KILL);
        let _ = self.child.wait();
    }
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let tool = home.path().join("tsoracle");
        let script = format!("#!/bin/sh\nexec \"{}\" \"$@\"\n", env!("CARGO_BIN_EXE_tsoracle"));
        fs::write(&tool, script).unwrap();
        fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        Self { home, text: with_free_ports(TEXT), running: Vec::new() }
    }

    /// The code block that begins with this comment, a command a line.
    fn block(&self, title: &str) -> String {
        let (_, after) = self.text.split_once(&format!("# {title}")).expect(title);
        let (_, code) = after.split_once('\n').unwrap();
        code.split_once("```").unwrap().0.replace("\\\n", " ")
    }

    fn bash(&self, script: &str) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new("bash");
        command
            .args(["-euo", "pipefail", "-c", script])
            .current_dir(self.home.path())
            .env("PATH", format!("{}:{path}", self.home.path().display()))
            .env("TSORACLE_TIMEOUT", "60s")
            .stdin(Stdio::null())
            .stderr(Stdio::null());
        command
    }

    /// Runs each program of a block in a terminal of its own, until all servers say that they serve.
    fn start(&mut self, title: &str) {
        let block = self.block(title);
        let (settings, programs): (Vec<_>, Vec<_>) = block
            .lines()
            .filter(|line| !line.is_empty())
            .partition(|line| line.starts_with(char::is_uppercase));
        let first = self.running.len();
        for line in programs {
            let script = format!("{}\nexec {line}", settings.join("\n"));
            let mut command = self.bash(&script);
            let child = command.process_group(0).stdout(Stdio::piped()).spawn().unwrap();
            self.running.push(Program { line: line.into(), child });
        }
        for program in &mut self.running[first..] {
            if program.line.starts_with("tsoracle") {
                let said = first_line(&mut program.child);
                assert!(said.starts_with("tsoracle serving on"), "{}: {said:?}", program.line);
            }
        }
    }

    /// Runs a block to its end.
    fn run(&self, title: &str) -> String {
        let Output { status, stdout, .. } = finished(&mut self.bash(&self.block(title)));
        let stdout = String::from_utf8(stdout).unwrap();
        assert!(status.success(), "{title}: {status}, after\n{stdout}");
        stdout
    }

    /// That timestamps are served at once, and sequences once they are opened.
    fn goes_on(&self, title: &str) {
        let said = self.run(title);
        let lines: Vec<_> = said.lines().rev().take(4).collect();
        let [next, others, opened, timestamp] = lines[..] else { panic!("{said}") };
        let said = [opened, others, next];
        assert_eq!(said, ["orders 1000", "all others are closed", "1000"]);
        assert!(timestamp.parse::<u64>().is_ok(), "{timestamp}");
    }

    /// Takes a backup of a cluster that is gone then.
    #[cfg(feature = "openraft")]
    fn backed_up() -> Self {
        let mut reader = serves("openraft", "three");
        let said = reader.run("backup, with openraft");
        assert!(said.contains("whole: backup-1"), "{said}");
        reader.running.clear();
        reader
    }

    /// Stops what was started with this in its line, and waits for its end.
    #[cfg(feature = "openraft")]
    fn stop(&mut self, what: &str) {
        let at = self.running.iter().position(|program| program.line.contains(what)).expect(what);
        let mut program = self.running.remove(at);
        kill_process(Pid::from_child(&program.child), Signal::TERM).unwrap();
        let mut status = None;
        node::until("it stops", || {
            status = program.child.try_wait().unwrap();
            status.is_some()
        });
        assert!(status.unwrap().success(), "{what} stops without an error");
    }

    /// Kills what was started with this in its line.
    fn kill(&mut self, what: &str) {
        self.running.retain(|program| !program.line.contains(what));
    }
}

/// The text with a free port in the place of each one that is in it.
fn with_free_ports(text: &str) -> String {
    let mut free = BTreeMap::new();
    let mut parts = text.split(LOCAL);
    let mut changed = parts.next().unwrap().to_owned();
    for part in parts {
        let port: String = part.chars().take_while(char::is_ascii_digit).collect();
        let other = free.entry(port.clone()).or_insert_with(ports::free_port);
        changed.push_str(&format!("{other}{}", &part[port.len()..]));
    }
    changed
}

#[test]
fn a_node_with_a_status_page_and_probes() {
    let mut reader = Reader::new();
    reader.start("probes, in one terminal");
    let said = reader.run("probes, asked");
    assert!(said.starts_with("alive\nleading, epoch 1\n"), "{said}");
    assert!(said.contains("  leading, epoch 1"), "{said}");
}

fn serves(driver: &str, terminals: &str) -> Reader {
    let mut reader = Reader::new();
    reader.start(&format!("{driver}, in {terminals} terminals"));
    let said = reader.run(&format!("{driver}, as a client"));
    assert!(said.contains("0 to 63 (64 values)"), "{said}");
    assert_eq!(said.matches("  leading, epoch").count(), 1, "{said}");
    reader
}

#[cfg(feature = "openraft")]
#[test]
fn three_nodes_with_openraft_of_which_one_is_replaced() {
    let mut reader = serves("openraft", "three");
    reader.kill("./raft-2?");
    reader.start("openraft, replacing node 2 by a new node 4");
    let members = reader.run("openraft, and then, anywhere");
    let last: Vec<_> = members.lines().rev().take(3).collect();
    for (line, id) in last.iter().rev().zip(["1  ", "3  ", "4  "]) {
        assert!(line.starts_with(id) && !line.contains("learns"), "{members}");
    }
}

#[cfg(feature = "omnipaxos")]
#[test]
fn three_nodes_with_omnipaxos() {
    serves("omnipaxos", "three");
}

#[cfg(feature = "openraft")]
#[test]
fn a_secure_cluster_that_goes_over_to_new_authorities() {
    let mut reader = Reader::new();
    let made = reader.run("secure, six commands");
    assert_eq!(made.matches("made tsoracle-certs/").count(), 7, "{made}");
    reader.run("secure, who may do what");
    reader.start("secure, in three terminals");
    let asks = |reader: &Reader, first: u32| {
        let said = reader.run("secure, as a client");
        assert!(said.contains(&format!("{first} to {} (64 values)", first + 63)), "{said}");
        assert_eq!(said.matches("  leading, epoch").count(), 1, "{said}");
    };
    asks(&reader, 0);
    let said = reader.run("secure, as an administrator");
    assert!(said.starts_with("1000\n"), "{said}");
    assert_eq!(reader.run("secure, as whoever only reads"), "1000\n");
    reader.run("secure, new authorities");
    for (step, first) in [
        ("secure, both authorities are trusted", 64),
        ("secure, the new certificates", 128),
        ("secure, the new authorities alone", 192),
    ] {
        reader.run(step);
        asks(&reader, first);
    }
}

#[cfg(feature = "openraft")]
#[test]
fn a_backup_is_restored_into_a_node_that_grows() {
    let mut reader = Reader::backed_up();
    let said = reader.run("restore, one node");
    assert!(said.contains("1 are open from their floors"), "{said}");
    let said = reader.run("restore, openraft: into one node");
    assert!(said.contains("all are closed until"), "{said}");
    reader.start("restore, openraft: that node, and two new ones, each on its machine");
    reader.goes_on("restore, openraft: the cluster grows, and sequences are opened");
}

#[cfg(all(feature = "openraft", feature = "omnipaxos"))]
#[test]
fn a_backup_is_restored_into_all_nodes() {
    let mut reader = Reader::backed_up();
    reader.run("restore, omnipaxos: into all nodes");
    reader.start("restore, omnipaxos: each on its machine");
    reader.goes_on("restore, omnipaxos: sequences are opened");
}

#[cfg(all(feature = "openraft", feature = "etcd"))]
#[test]
fn a_backup_is_restored_into_etcd() {
    let mut reader = Reader::backed_up();
    reader.start("etcd, in four terminals");
    reader.run("restore, etcd: once");
    reader.start("restore, etcd: in two terminals");
    reader.goes_on("restore, etcd: sequences are opened");
}

#[cfg(feature = "openraft")]
#[test]
fn what_one_node_holds_is_rescued() {
    let reader = Reader::backed_up();
    let said = reader.run("inspect, and restore from what a node holds");
    assert!(said.contains("note: this is what one node of the cluster holds"), "{said}");
    assert!(said.contains("\norders 64\n"), "{said}");
    assert!(said.contains("exported to last-copy") && said.contains("restored, as of"), "{said}");
}

#[test]
fn a_socket_of_this_machine() {
    let mut reader = Reader::new();
    reader.start("socket, in a terminal");
    let said = reader.run("socket, as a client");
    assert!(said.contains("0 to 63 (64 values)") && said.contains("health SERVING"), "{said}");
}

/// A client that makes calls until it is told to end, and whose first failure ends it.
#[cfg(feature = "openraft")]
fn calls_on(endpoint: String, ends: Arc<AtomicBool>) -> JoinHandle<u64> {
    thread::spawn(move || {
        let runtime = tokio::runtime::Runtime::new().unwrap();
        runtime.block_on(async {
            let client = Client::builder().endpoints(endpoint.split(',')).timeout(PATIENCE);
            let client = client.connect().await.unwrap();
            let (mut made, mut last) = (0, None);
            while !ends.load(Ordering::Relaxed) {
                let timestamp = client.get_ts().await.expect("no call is lost");
                assert!(last < Some(timestamp));
                last = Some(timestamp);
                let block = client.get_seq("calls", 1).await.expect("no call is lost");
                assert_eq!(block.start, made);
                made += 1;
            }
            made
        })
    })
}

/// The release before is what `TSORACLE_PREVIOUS` names. There is none yet: without it, it is another copy of this one.
#[cfg(feature = "openraft")]
#[test]
fn a_cluster_goes_over_to_the_next_release_and_no_call_is_lost() {
    let mut reader = Reader::new();
    let (previous, next) = (reader.home.path().join("previous"), reader.home.path().join("next"));
    let built = env!("CARGO_BIN_EXE_tsoracle");
    fs::copy(std::env::var("TSORACLE_PREVIOUS").unwrap_or_else(|_| built.into()), &previous)
        .unwrap();
    fs::copy(built, &next).unwrap();
    let install = |reader: &Reader, binary: &Path| {
        // Another file of that name, so that what runs goes on.
        let tool = reader.home.path().join("tsoracle");
        let script = format!("#!/bin/sh\nexec \"{}\" \"$@\"\n", binary.display());
        fs::write(tool.with_extension("new"), script).unwrap();
        let executable = fs::Permissions::from_mode(0o755);
        fs::set_permissions(tool.with_extension("new"), executable).unwrap();
        fs::rename(tool.with_extension("new"), tool).unwrap();
    };
    install(&reader, &previous);
    reader.start("upgrade, the release before, in three terminals");
    let said = reader.run("upgrade, is all well?");
    assert_eq!(said.matches("  votes ").count() + said.matches("  leads ").count(), 3, "{said}");
    let ends = Arc::new(AtomicBool::new(false));
    let block = reader.block("upgrade, is all well?");
    let endpoint = block.lines().next().unwrap().split_once('=').unwrap().1.to_owned();
    let calling = calls_on(endpoint, ends.clone());
    install(&reader, &next);
    for node in 1..=3 {
        reader.stop(&format!("./upgrade-{node}?"));
        reader.start(&format!("upgrade, node {node} again"));
        reader.run(&format!("upgrade, until node {node} takes part"));
    }
    ends.store(true, Ordering::Relaxed);
    assert!(calling.join().unwrap() > 0);
    for program in &reader.running {
        let runs = fs::read_link(format!("/proc/{}/exe", program.child.id())).unwrap();
        assert_eq!(runs, next, "{}", program.line);
    }
    // The leader tells once it has counted what there is, which is soon after it began.
    let says = || reader.run("upgrade, and back?").contains("can go back to the release before");
    assert!((0..1_000).any(|_| says()), "it never says that it can go back");
}

#[cfg(feature = "file")]
#[test]
fn a_log_for_machines() {
    let mut reader = Reader::new();
    reader.start("json, in a terminal");
    // The line on standard output comes with the first of the log, which a thread writes.
    let says = || reader.run("json, and then").lines().any(|line| line == "serving");
    assert!((0..1_000).any(|_| says()), "it never says that it serves");
}

#[cfg(feature = "etcd")]
#[test]
fn three_nodes_over_etcd() {
    serves("etcd", "four");
}
