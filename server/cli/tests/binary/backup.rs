//! Backups of a server that serves, and what is restored from them.

use std::{
    fs,
    os::unix::{
        fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt, symlink},
        net::UnixListener,
    },
    path::Path,
    process::Output,
    time::{Duration, SystemTime},
};

use rustix::{
    fs::{CWD, FileType, FlockOperation, Mode, flock, mknodat},
    process::Signal,
};
use serde_json::{Value, json};
use tempfile::TempDir;

use crate::node::{Node, error_line, json, run, stdout, until};
#[cfg(feature = "openraft")]
use crate::{node::openraft_nodes, ports::free_ports};

pub(crate) fn backup(node: &Node, directory: &Path, more: &[&str]) -> Output {
    let arguments = [&["backup", "--endpoint", &node.address], more].concat();
    run(directory, &arguments)
}

/// What every command that handles a whole state says of it, under the same names.
pub(crate) fn has_counts(report: &Value) {
    for field in ["entries", "sequences", "sessions", "named_requests", "leases", "high_water_ms"] {
        assert!(report[field].is_u64(), "{field}: {report}");
    }
}

/// A directory in which `file:./data` is served, with some of everything.
pub(crate) fn served() -> (TempDir, Node) {
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
    has_counts(&taken);
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

    for (text, named) in [("b=200\nnew =7", "line 2"), (" b=200", "\" b\"")] {
        fs::write(here.join("floors"), text).unwrap();
        let arguments = ["restore", "copy", "file:./new", "--floors", "floors"];
        let line = error_line(&run(here, &arguments), 2);
        assert!(line.contains(named) && line.contains("begins or ends with a space"), "{line}");
    }
    fs::write(here.join("floors"), "\u{feff}b=200\n\nnew=7\n").unwrap();
    let arguments = ["restore", "copy", "file:./new", "--floor", "a=100", "--floors", "floors"];
    let restored = json(&run(here, &[&arguments[..], &["--json"]].concat()));
    has_counts(&restored);
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
    let says_so = || stdout(&node.ask(&["status"])).contains("sequences are closed");
    until("it is said that sequences are closed", &says_so);
    let opened = node.ask(&["seq-open", "--floor", "c=30", "--json"]);
    let expected =
        json!({"entries": [{"key": "c", "next": 30, "next_text": "30"}], "closed": true});
    assert_eq!(json(&opened), expected);
    assert_eq!(stdout(&node.ask(&["seq", "c"])), "30");
    error_line(&node.ask(&["seq", "others"]), 1);
    assert_eq!(stdout(&node.ask(&["seq-open", "--accept-sequence-loss"])), "all are open");
    assert!(!says_so());
    assert_eq!(stdout(&node.ask(&["seq", "others"])), "0");
    let line = error_line(&node.ask(&["seq-open", "--floor", "c=3000"]), 1);
    assert!(line.contains("no sequence is closed"), "{line}");
}

/// Before anybody has to know: whether the release before would lead over the state.
#[test]
fn the_leader_says_whether_the_release_before_can_be_put_back() {
    let (directory, node) = served();
    let here = directory.path();
    let said = |node: &Node| {
        let said = json(&node.ask(&["status", "--json"]));
        ["rules", "newest_rules", "release_before", "release_before_reason"]
            .map(|name| said[name].clone())
    };
    stdout(&node.ask(&["seq", "a"]));
    // Leases have raised it, and names further.
    assert_eq!(said(&node), [json!(4), json!(6), json!(true), Value::Null]);
    let text = stdout(&node.ask(&["status"]));
    assert!(text.contains("rules 4 of 6, can go back to the release before"), "{text}");
    stdout(&backup(&node, here, &["copy"]));
    for (target, more, expected) in [
        (
            "file:./closed",
            "--floor=a=100",
            [json!(6), json!(6), json!(false), json!("sequences were restored")],
        ),
        ("file:./open", "--accept-sequence-loss", [json!(4), json!(6), json!(true), Value::Null]),
    ] {
        stdout(&run(here, &["restore", "copy", target, more]));
        let node = Node::start(here, &[target]);
        stdout(&node.ask(&["seq", "a"]));
        assert_eq!(said(&node), expected, "{target}");
        // That all are open again takes nothing back.
        node.ask(&["seq-open", "--accept-sequence-loss"]);
        assert_eq!(said(&node), expected, "{target}");
    }
}

#[test]
fn a_restore_on_absurd_terms_makes_nothing() {
    let (directory, node) = served();
    let here = directory.path();
    stdout(&backup(&node, here, &["copy"]));
    for (terms, said) in [
        (&["file:./new", "--physical-ms", "1796054807"][..], "milliseconds since 1970"),
        (&["file:./new", "--physical-ms", "2026-01-01T00:00:00Z"], "may have been given out"),
        (&["file:./new", "file:./other"], "one cluster"),
        (&["memory:", "memory:"], "one cluster"),
    ] {
        let line = error_line(&run(here, &[&["restore", "copy"], terms].concat()), 2);
        assert!(line.contains(said), "{terms:?}: {line}");
        assert!(!here.join("new").exists() && !here.join("other").exists(), "{terms:?}");
    }
    let insisted = ["restore", "copy", "file:./new", "--physical-ms", "2026-01-01T00:00:00Z"];
    stdout(&run(here, &[&insisted[..], &["--force"]].concat()));
}

#[cfg(feature = "openraft")]
#[test]
fn several_targets_are_all_nodes_of_one_cluster() {
    let (directory, node) = served();
    let here = directory.path();
    stdout(&backup(&node, here, &["copy"]));
    let peers = "1=127.0.0.1:1/127.0.0.1:2,2=127.0.0.1:3/127.0.0.1:4";
    let place = |name: &str, node: u32| format!("openraft:./{name}?node={node}&peers={peers}");
    let alone = |name: &str| format!("openraft:./{name}?node=1&peers=1=127.0.0.1:1/127.0.0.1:2");
    for targets in [
        [alone("a"), alone("b")].to_vec(),
        [place("a", 1), place("b", 1)].to_vec(),
        [place("a", 1), alone("b")].to_vec(),
        [place("a", 1), place("b", 2), place("c", 3)].to_vec(),
        [place("a", 1), place("b", 2).replace("openraft", "omnipaxos")].to_vec(),
    ] {
        let targets: Vec<_> = targets.iter().map(String::as_str).collect();
        let line = error_line(&run(here, &[&["restore", "copy"], &targets[..]].concat()), 2);
        assert!(line.contains("one cluster"), "{targets:?}: {line}");
        assert!(!here.join("a").exists() && !here.join("b").exists(), "{targets:?}");
    }
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

/// What a directory holds, to the byte.
fn held(directory: &Path) -> Vec<(std::path::PathBuf, Vec<u8>)> {
    let mut held = vec![];
    let mut directories = vec![directory.to_owned()];
    while let Some(directory) = directories.pop() {
        for entry in fs::read_dir(directory).unwrap() {
            let path = entry.unwrap().path();
            match path.is_dir() {
                true => directories.push(path),
                false => held.push((path.clone(), fs::read(path).unwrap())),
            }
        }
    }
    held.sort_unstable();
    held
}

/// A stopped node that holds thirty numbers of `a`, and what it holds as a backup.
fn is_looked_at(here: &Path, name: &str, path: &str) {
    let short = format!("{name}:{path}");
    written_at(&here.join(path), SystemTime::UNIX_EPOCH + Duration::from_secs(1_790_000_000));
    let before = held(&here.join(path));
    let found = json(&run(here, &["inspect", &short, "--json"]));
    has_counts(&found);
    let fields = [
        ("driver", json!(name)),
        ("sequences", json!(1)),
        ("leases", json!(1)),
        ("stage", json!("open")),
        ("sequences_closed", json!(false)),
    ];
    for (field, expected) in fields {
        assert_eq!(found[field], expected, "{field}: {found}");
    }
    assert_eq!(stdout(&run(here, &["inspect", &short, "--keys"])), "a 30");
    stdout(&run(here, &["inspect", &short, "--export", "exported"]));
    assert_eq!(held(&here.join(path)), before, "nothing is changed");
    let line = error_line(&run(here, &["inspect", &short, "--export", "exported"]), 1);
    assert!(line.contains("--force"), "{line}");
    let verified = json(&run(here, &["backup", "verify", "exported", "--json"]));
    assert_eq!(verified["number"], found["number"]);
    assert_eq!(verified["taken"], "2026-09-21T14:13:20.000Z", "when it was written last");
}

/// Has all files of a directory look as if nothing had been written since then.
fn written_at(directory: &Path, time: SystemTime) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        match path.is_dir() {
            true => written_at(&path, time),
            false => {
                let file = fs::File::options().append(true).open(&path).unwrap();
                file.set_modified(time).unwrap();
            }
        }
    }
}

/// A driver of one node, killed as it is, so that what it holds lies in its log.
fn inspected(driver: &str) {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    let (name, path) = driver.split_once(':').unwrap();
    let path = path.split('?').next().unwrap();
    let node = Node::start(here, &[driver]);
    for _ in 0..30 {
        stdout(&node.ask(&["seq", "a"]));
    }
    stdout(&node.ask(&["lease-acquire", "writer", "--ttl", "1m"]));
    let short = format!("{name}:{path}");
    let line = error_line(&run(here, &["inspect", &short]), 1);
    assert!(line.contains("in use by another process"), "{line}");
    stdout(&backup(&node, here, &["copy"]));
    node.signal(Signal::KILL);
    node.ended();
    is_looked_at(here, name, path);
    // It can be opened as before, and what was exported be restored.
    let node = Node::start(here, &[driver]);
    assert_eq!(stdout(&node.ask(&["seq", "a"])), "30");
    stdout(&run(here, &["restore", "exported", "file:./new", "--floor", "a=40"]));
    let node = Node::start(here, &["file:./new"]);
    assert_eq!(stdout(&node.ask(&["seq", "a"])), "40");
}

#[test]
fn a_stopped_state_is_looked_at_and_left_as_it_is() {
    inspected("file:./data");
}

#[cfg(feature = "openraft")]
#[test]
fn a_stopped_node_of_a_cluster_is_looked_at_with_its_log() {
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let peer = listener.local_addr().unwrap();
    drop(listener);
    inspected(&format!("openraft:./raft?node=1&peers=1={peer}/127.0.0.1:1"));
}

/// Its nodes lead only together. Of those that were killed the one that is furthest holds all that was acknowledged.
#[cfg(feature = "omnipaxos")]
#[test]
fn stopped_nodes_of_omnipaxos_are_looked_at_with_their_logs() {
    use crate::node::tsoracle;
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    let free = crate::ports::free_ports(6);
    let services = &free[3..];
    let peers = (0..3).map(|node| format!("{}={}/{}", node + 1, free[node], services[node]));
    let peers = peers.collect::<Vec<_>>().join(",");
    let nodes = (1..=3).zip(services).map(|(id, service)| {
        let driver = format!("omnipaxos:./n{id}?node={id}&peers={peers}");
        Node::spawn(tsoracle(here, &["serve", &driver, "--listen", service]))
    });
    let nodes: Vec<_> = nodes.collect();
    for _ in 0..30 {
        stdout(&nodes[0].ask(&["seq", "a", "--timeout", "60s"]));
    }
    stdout(&nodes[0].ask(&["lease-acquire", "writer", "--ttl", "1m"]));
    let line = error_line(&run(here, &["inspect", "omnipaxos:./n1"]), 1);
    assert!(line.contains("in use by another process"), "{line}");
    for node in nodes {
        node.signal(Signal::KILL);
        node.ended();
    }
    let number = |id: &usize| {
        let found = json(&run(here, &["inspect", &format!("omnipaxos:./n{id}"), "--json"]));
        assert!(
            found["notes"].to_string().contains("what one node of the cluster holds"),
            "{found}"
        );
        found["number"].as_u64()
    };
    let furthest = (1..=3_usize).max_by_key(number).unwrap();
    is_looked_at(here, "omnipaxos", &format!("./n{furthest}"));
    stdout(&run(here, &["restore", "exported", "file:./new", "--floor", "a=40"]));
    let node = Node::start(here, &["file:./new"]);
    assert_eq!(stdout(&node.ask(&["seq", "a"])), "40");
}

#[test]
fn what_cannot_be_looked_at_is_said() {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    let line = error_line(&run(here, &["inspect", "memory"]), 1);
    assert!(line.contains("tsoracle backup"), "{line}");
    let line = error_line(&run(here, &["inspect", "file:./none"]), 1);
    assert!(line.contains("there is no state in ./none"), "{line}");
    assert!(!here.join("none").exists());
    let node = Node::start(here, &["file:./data"]);
    drop(node);
    let line = error_line(&run(here, &["inspect", "openraft:./data"]), 1);
    assert!(line.contains("is the file driver's"), "{line}");
    // A commit that was acknowledged and is gone is told of.
    let node = Node::start(here, &["file:./data"]);
    stdout(&node.ask(&["seq", "a"]));
    drop(node);
    let (locked, before) = (fs::read(here.join("data/LOCK")).unwrap(), held(&here.join("data")));
    let node = Node::start(here, &["file:./data"]);
    stdout(&node.ask(&["seq", "a"]));
    drop(node);
    let newer = fs::read(here.join("data/LOCK")).unwrap();
    assert_ne!(newer, locked);
    fs::remove_dir_all(here.join("data/state.journal")).unwrap();
    fs::create_dir(here.join("data/state.journal")).unwrap();
    for (path, bytes) in before.iter().filter(|(path, _)| !path.ends_with("LOCK")) {
        fs::write(path, bytes).unwrap();
    }
    let said = stdout(&run(here, &["inspect", "file:./data"]));
    assert!(said.contains("note: it is at commit") && said.contains("older copy"), "{said}");
}

fn named_pipe(path: &Path) {
    mknodat(CWD, path, FileType::Fifo, Mode::from_raw_mode(0o666), 0).unwrap();
}

/// A rename would replace a device of the machine as well as any of these.
#[test]
fn only_a_regular_file_is_replaced() {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    drop(Node::start(here, &["file:./data"]));
    fs::write(here.join("target"), "kept").unwrap();
    symlink("target", here.join("link")).unwrap();
    symlink("nowhere", here.join("dangling")).unwrap();
    named_pipe(&here.join("pipe"));
    let _socket = UnixListener::bind(here.join("socket")).unwrap();
    fs::create_dir(here.join("directory")).unwrap();
    for (name, kind) in [
        ("link", "symbolic link"),
        ("dangling", "symbolic link"),
        ("pipe", "named pipe"),
        ("socket", "socket"),
        ("directory", "directory"),
    ] {
        let before = here.join(name).symlink_metadata().unwrap().ino();
        for arguments in [
            &["inspect", "file:./data", "--export", name, "--force"][..],
            &["inspect", "file:./data", "--export", name],
            &["backup", "--force", name, "--endpoint", "127.0.0.1:1", "--timeout", "1s"],
        ] {
            let line = error_line(&run(here, arguments), 1);
            assert!(line.contains(kind) && line.contains("name a regular file"), "{line}");
        }
        assert_eq!(here.join(name).symlink_metadata().unwrap().ino(), before, "{name}");
        assert!(here.join(format!("{name}.part")).symlink_metadata().is_err(), "{name}");
    }
    assert!(here.join("pipe").symlink_metadata().unwrap().file_type().is_fifo());
    assert_eq!(fs::read(here.join("target")).unwrap(), b"kept");
    assert!(!here.join("nowhere").exists());
    stdout(&run(here, &["inspect", "file:./data", "--export", "target", "--force"]));
    stdout(&run(here, &["backup", "verify", "target"]));
}

#[test]
fn the_partial_file_is_a_new_one() {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    drop(Node::start(here, &["file:./data"]));
    let export = |name: &str| run(here, &["inspect", "file:./data", "--export", name]);
    // What is no file of a process of this user is neither followed, filled nor removed.
    fs::write(here.join("target"), "kept").unwrap();
    symlink("target", here.join("a.part")).unwrap();
    symlink("nowhere", here.join("b.part")).unwrap();
    named_pipe(&here.join("c.part"));
    for (name, kind) in [("a", "symbolic link"), ("b", "symbolic link"), ("c", "named pipe")] {
        let line = error_line(&export(name), 1);
        assert!(line.contains(&format!("{name}.part")) && line.contains(kind), "{line}");
        assert!(here.join(format!("{name}.part")).symlink_metadata().is_ok(), "{name}");
        assert!(!here.join(name).exists());
    }
    assert_eq!(fs::read(here.join("target")).unwrap(), b"kept");
    assert!(!here.join("nowhere").exists());
    // What a process has left that was killed goes: whoever has opened it does not see what is written.
    fs::write(here.join("d.part"), "left").unwrap();
    fs::set_permissions(here.join("d.part"), fs::Permissions::from_mode(0o666)).unwrap();
    fs::hard_link(here.join("d.part"), here.join("opened")).unwrap();
    stdout(&export("d"));
    assert_eq!(fs::read(here.join("opened")).unwrap(), b"left");
    assert_eq!(fs::metadata(here.join("d")).unwrap().permissions().mode() & 0o777, 0o600);
    // One that is written is left alone.
    let written = fs::File::create(here.join("e.part")).unwrap();
    flock(&written, FlockOperation::NonBlockingLockExclusive).unwrap();
    let line = error_line(&export("e"), 1);
    assert!(line.contains("another process writes"), "{line}");
    assert!(here.join("e.part").exists());
}

/// Addresses of administrators name no other node to go to.
#[cfg(feature = "openraft")]
#[test]
fn a_follower_alone_says_where_the_leader_is() {
    let directory = TempDir::new().unwrap();
    let here = directory.path();
    let admins = free_ports(3);
    let nodes = openraft_nodes(here, str::to_owned, |id, command| {
        command.args(["--admin-listen", &admins[id - 1]]);
    });
    let phase = |admin: &String| {
        let output = run(here, &["status", "--json", "--endpoint", admin]);
        let status: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
        status["phase"].as_str().unwrap().to_owned()
    };
    let find = |wanted: &str| admins.iter().position(|admin| phase(admin) == wanted);
    until("a node leads, and another one knows", || {
        find("leading").is_some() && find("following").is_some()
    });
    let (leader, follower) = (find("leading").unwrap(), find("following").unwrap());
    let open = ["seq-open", "--accept-sequence-loss"];
    let transfer = ["cluster", "transfer", "--to", "1"];
    let (seed, delete) = (["seq-seed", "k", "7"], ["seq-delete", "k"]);
    for command in [&["backup", "copy"][..], &transfer, &open, &seed, &delete] {
        let at = ["--endpoint", &admins[follower], "--timeout", "1s"];
        let line = error_line(&run(here, &[command, &at].concat()), 1);
        assert!(line.contains("addresses of all nodes"), "{line}");
        assert!(line.contains(&nodes[leader].address), "{line}");
    }
    let all = admins.join(",");
    stdout(&run(here, &["backup", "copy", "--endpoint", &all]));
}
