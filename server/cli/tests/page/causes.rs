//! What keeps a node from serving, each made so on a process, and what its page and its status say of that.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use serde_json::Value;
use tempfile::TempDir;
use tsoracle_core::{Clock as _, SystemClock};
use tsoracle_testbed::{FaultyDisk, WallClock};

use crate::{
    DESK,
    browser::{self, Browser},
    cluster::{Cluster, load},
    node::{Node, run, shell, status, stdout, tsoracle},
    pictures,
    ports::free_port,
};

const DAY: i64 = 24 * 3_600;

/// Checks that the page of a node shows what its status says first, which is of this kind, and leaves both.
pub(crate) fn said(browser: &mut Browser, admin: &str, kind: &str, name: &str) -> Value {
    browser.wait_for(&format!("last?.problems[0]?.kind == '{kind}'"));
    let all = status(admin);
    let first = &all["problems"][0];
    assert_eq!(first["kind"], kind, "{all:#}");
    let remedy = first["do"].as_str().unwrap();
    browser.wait_for_text("problems", remedy);
    // Words that have numbers in them may have gone on.
    let words = first["what"].as_str().unwrap().split_inclusive(' ');
    let begin: String = words.take(5).collect();
    browser.wait_for_text("problems", begin.trim_end());
    assert!(first["lasts_ms"].as_u64().unwrap() < 60_000, "{all:#}");
    browser::leave(&format!("{name}.json"), &format!("{all:#}"));
    pictures(browser, name);
    all
}

fn serve(directory: &Path, arguments: &[&str]) -> (Command, String) {
    let admin = free_port();
    let always = ["serve", "--listen", "127.0.0.1:0", "--log", "off", "--admin-listen", &admin];
    (tsoracle(directory, &[&always, arguments].concat()), admin)
}

fn open(browser: &mut Browser, admin: &str) {
    browser.screen(DESK.0, DESK.1, "light");
    browser.open(&format!("http://{admin}/"));
}

fn canonical(directory: &TempDir) -> PathBuf {
    directory.path().canonicalize().unwrap()
}

#[test]
fn a_disk_that_hangs() {
    let directory = TempDir::new().unwrap();
    let state = canonical(&directory).join("state");
    let disk = FaultyDisk::new(directory.path(), &state).unwrap();
    let (mut command, admin) = serve(directory.path(), &[&format!("file:{}", state.display())]);
    command.envs(disk.environment());
    let node = Node::spawn(command);
    let _load = load(vec![node.address.clone()]);
    let mut browser = Browser::start();
    open(&mut browser, &admin);
    browser.wait_for_text("problems", "Nothing is wrong");
    browser.wait_for("PLOTS[4].values.filter(value => value > 0).length > 2");
    disk.hang().unwrap();
    browser.wait_for_text("phase", "lapsed");
    browser.wait_for_text("problems", "a write to the disk of this node has been under way for");
    let all = said(&mut browser, &admin, "disk_slow", "disk-slow");
    assert_eq!((&all["phase"], &all["ready"]), (&"lapsed".into(), &false.into()), "{all:#}");
    disk.be_sound().unwrap();
    browser.wait_for_text("phase", "leading");
}

#[test]
fn a_clock_that_was_never_set_or_leaps() {
    let directory = TempDir::new().unwrap();
    let clock = WallClock::new(directory.path()).unwrap();
    clock.shift(-(SystemClock.now().wall_ms / 1_000).cast_signed()).unwrap();
    let (mut command, admin) = serve(directory.path(), &["memory"]);
    command.envs(clock.environment());
    let _node = Node::spawn(command);
    let mut browser = Browser::start();
    open(&mut browser, &admin);
    let all = said(&mut browser, &admin, "clock_wrong", "clock-never-set");
    assert_eq!(all["ready"], false, "{all:#}");
    clock.shift(0).unwrap();
    browser.wait_for_text("phase", "leading");
    browser.wait_for_text("problems", "Nothing is wrong");
    clock.shift(40 * DAY + 3_600).unwrap();
    browser.wait_for_text("problems", "40 days ahead of what is believed, and not followed");
    said(&mut browser, &admin, "clock_wrong", "clock-ahead");
}

#[test]
fn a_certificate_that_expires() {
    /// For how long it is still valid when the node starts.
    const LEFT: i64 = 8;
    let directory = TempDir::new().unwrap();
    let cert = |arguments: &[&str]| {
        stdout(&run(directory.path(), &[&["cert"], arguments].concat()));
    };
    cert(&["ca"]);
    cert(&["node", "1", "--address", "127.0.0.1", "--days", "60"]);
    let clock = WallClock::new(directory.path()).unwrap();
    clock.shift(60 * DAY - LEFT).unwrap();
    let tls = ["tsoracle-certs/node-1.pem", "tsoracle-certs/node-1.key"];
    let arguments = ["memory", "--tls-cert", tls[0], "--tls-key", tls[1]];
    let (mut command, admin) = serve(directory.path(), &arguments);
    command.envs(clock.environment());
    let _node = Node::spawn(command);
    let mut browser = Browser::start();
    open(&mut browser, &admin);
    browser.wait_for_text("problems", "node-1.pem");
    browser.wait_for_text("problems", "expired on 20");
    said(&mut browser, &admin, "certificate_expired", "certificate-expired");
    browser.wait_for_text("certificates", "expired");
}

#[test]
fn a_disk_that_is_nearly_full() {
    const RESERVE: usize = 16 << 20;
    let directory = TempDir::new().unwrap();
    fs::create_dir(directory.path().join("disk")).unwrap();
    let admin = free_port();
    let line = "exec unshare -rm sh -c 'mount -t tmpfs -o size=32m none disk && exec \"$TSORACLE\" serve \
                file:disk/state --listen 127.0.0.1:0 --admin-listen $ADMIN --reserve-bytes $RESERVE --log off'";
    let mut command = shell(directory.path(), line);
    command.env("TSORACLE", env!("CARGO_BIN_EXE_tsoracle")).env("ADMIN", &admin);
    command.env("RESERVE", RESERVE.to_string());
    let node = Node::spawn(command);
    let mut browser = Browser::start();
    open(&mut browser, &admin);
    browser.wait_for_text("problems", "Nothing is wrong");
    // The file system is seen through the process.
    let root = Path::new("/proc").join(node.id().to_string()).join("root");
    let disk = canonical(&directory).join("disk");
    let filler = root.join(disk.strip_prefix("/").unwrap()).join("filler");
    fs::write(&filler, vec![1; RESERVE]).unwrap();
    browser.wait_for_text("problems", "little space is left");
    said(&mut browser, &admin, "disk_nearly_full", "disk-nearly-full");
    fs::remove_file(&filler).unwrap();
    browser.wait_for_text("problems", "Nothing is wrong");
}

/// Nobody has renewed them: nodes that start again refuse to, and the one that is left says why.
#[test]
fn certificates_of_peers_that_have_expired() {
    let mut cluster = Cluster::certified();
    let leader = cluster.leader();
    let (left, other) = ((leader + 1) % 3, (leader + 2) % 3);
    let mut browser = Browser::start();
    open(&mut browser, cluster.admin(left));
    browser.wait_for_text("problems", "expires in 19 days");
    cluster.pass(21 * DAY);
    browser.wait_for_text("problems", "expired on 20");
    for node in [leader, other] {
        cluster.kill(node);
        let reason = cluster.fail_to_start(node);
        assert!(reason.contains("expired on 20"), "{reason}");
    }
    browser.wait_for_text("problems", "a majority is lost");
    let admin = cluster.admin(left);
    let all = said(&mut browser, admin, "certificate_expired", "certificate-of-peers-expired");
    assert_eq!(all["problems"][1]["kind"], "majority_lost", "{all:#}");
    // What the page says to do is enough.
    cluster.renew();
    cluster.restart(leader);
    cluster.restart(other);
    browser.wait_for_text("problems", "Nothing is wrong");
}
