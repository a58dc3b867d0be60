//! Flags, environment and file.

use std::{
    fs,
    os::unix::{ffi::OsStrExt as _, fs::PermissionsExt as _},
};

use tempfile::TempDir;

use crate::node::{Node, error_line, finished, run, stdout, tsoracle};

#[test]
fn without_arguments_it_serves_from_a_file() {
    let directory = TempDir::new().unwrap();
    for arguments in [&[][..], &["serve"], &["serve", "file"]] {
        let mut command = tsoracle(directory.path(), arguments);
        command.env("TSORACLE_LISTEN", "127.0.0.1:0");
        let node = Node::spawn(command);
        assert!(node.line.contains("(driver file, leading, epoch "), "{}", node.line);
        assert!(directory.path().join("tsoracle-data").is_dir());
    }
}

#[test]
fn serving_needs_no_word_even_with_options() {
    let directory = TempDir::new().unwrap();
    let node = Node::spawn(tsoracle(directory.path(), &["--listen", "127.0.0.1:0"]));
    assert!(node.line.ends_with(")\n"), "{}", node.line);
}

#[test]
fn flags_beat_the_environment_which_beats_the_file() {
    let directory = TempDir::new().unwrap();
    let config = directory.path().join("tsoracle.toml");
    fs::write(&config, "listen = '127.0.0.1:0'\nlog = 'warn'\n[driver]\ndriver = 'memory'\n")
        .unwrap();
    let serve = |arguments: &[&str], driver: Option<&str>| {
        let arguments = [&["serve", "--config", "tsoracle.toml"], arguments].concat();
        let mut command = tsoracle(directory.path(), &arguments);
        if let Some(driver) = driver {
            command.env("TSORACLE_DRIVER", driver);
        }
        Node::spawn(command).line.clone()
    };
    assert!(serve(&[], None).contains("driver memory"));
    assert!(serve(&[], Some("file:./data")).contains("driver file"));
    assert!(directory.path().join("data").is_dir(), "its options count as well");
    assert!(serve(&["memory"], Some("file:./data")).contains("driver memory"));
}

#[test]
fn every_option_can_come_from_the_environment_and_the_file() {
    let directory = TempDir::new().unwrap();
    let help = stdout(&run(directory.path(), &["serve", "--help"]));
    let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
    let flags = help.split_whitespace().filter_map(|word| word.strip_prefix("--"));
    let flags = flags.map(|flag| {
        flag.split('[').next().unwrap().trim_matches(|c: char| !c.is_ascii_alphanumeric())
    });
    let mut seen = 0;
    for flag in flags.filter(|flag| !["help", "version", "config"].contains(flag)) {
        let variable = format!("TSORACLE_{}", flag.to_uppercase().replace('-', "_"));
        assert!(help.contains(&format!("[env: {variable}")), "{variable}");
        // A value that fits nothing shows that the name is known.
        fs::write(directory.path().join("c.toml"), format!("{flag} = []")).unwrap();
        let refused = run(directory.path(), &["serve", "--config", "c.toml"]);
        let line = error_line(&refused, 2);
        let is_known = line.contains("invalid type") || line.contains("wanted string");
        assert!(is_known, "{flag}: {line}");
        seen += 1;
    }
    assert!(seen >= 25, "{seen}");
}

#[test]
fn what_is_unknown_lists_what_is_valid() {
    let directory = TempDir::new().unwrap();
    let refused = |arguments: &[&str]| error_line(&run(directory.path(), arguments), 2);

    let line = refused(&["serve", "flie", "--listen", "127.0.0.1:0"]);
    assert!(line.contains("\"flie\"") && line.contains("file, memory"), "{line}");

    let line = refused(&["serve", "file:./d?speed=1", "--listen", "127.0.0.1:0"]);
    assert!(line.contains("`speed`") && line.contains("`journal_mb`"), "{line}");

    fs::write(directory.path().join("c.toml"), "log = 'info'\nlesae = '1s'").unwrap();
    let line = refused(&["serve", "--config", "c.toml"]);
    assert!(line.contains("c.toml, line 2") && line.contains("`window-ahead`"), "{line}");

    fs::write(directory.path().join("c.toml"), "[driver]\ndriver = 'file'\nspeed = 1").unwrap();
    let line = refused(&["serve", "--config", "c.toml", "--listen", "127.0.0.1:0"]);
    assert!(line.contains("`speed`") && line.contains("`journal_mb`"), "{line}");
}

#[test]
fn a_variable_that_is_empty_counts_as_not_set() {
    let directory = TempDir::new().unwrap();
    let mut serve = tsoracle(directory.path(), &["serve", "--listen", "127.0.0.1:0"]);
    for name in ["TSORACLE_DRIVER", "TSORACLE_LEASE", "TSORACLE_LOG", "TSORACLE_MAX_KEYS"] {
        serve.env(name, "");
    }
    let node = Node::spawn(serve);
    assert!(node.line.contains("driver file"), "{}", node.line);
    let mut ask = tsoracle(directory.path(), &["ts", "--endpoint", &node.address]);
    ask.env("TSORACLE_ENDPOINT", "").env("TSORACLE_TIMEOUT", "");
    stdout(&finished(&mut ask));
}

#[test]
fn a_wrong_value_of_the_environment_is_named() {
    let directory = TempDir::new().unwrap();
    for (arguments, name) in [
        (&["serve"][..], "TSORACLE_LEASE"),
        (&["serve"], "TSORACLE_MAX_KEYS"),
        (&["ts"], "TSORACLE_TIMEOUT"),
    ] {
        let refused = finished(tsoracle(directory.path(), arguments).env(name, "soon"));
        assert_eq!(refused.status.code(), Some(2), "{refused:?}");
        let said = String::from_utf8(refused.stderr).unwrap();
        assert!(said.contains(name), "{said}");
    }
    let no_text = std::ffi::OsStr::from_bytes(b"\xff");
    let refused = finished(tsoracle(directory.path(), &["ts"]).env("TSORACLE_TOKEN", no_text));
    let line = error_line(&refused, 2);
    assert!(line.contains("TSORACLE_TOKEN"), "{line}");
}

#[test]
fn a_state_can_be_required() {
    let directory = TempDir::new().unwrap();
    let refused = |driver: &str, code| {
        let serve = ["serve", driver, "--require-state", "--listen", "127.0.0.1:0"];
        error_line(&run(directory.path(), &serve), code)
    };
    let line = refused("file:./volume", 1);
    assert!(line.contains("no state in ./volume") && line.contains("mounted"), "{line}");
    assert!(!directory.path().join("volume").exists(), "nothing is begun");
    assert!(refused("memory", 2).contains("memory"));
    drop(Node::start(directory.path(), &["file:./volume"]));
    drop(Node::start(directory.path(), &["file:./volume", "--require-state"]));
}

#[test]
fn a_state_is_its_owners_alone() {
    let directory = TempDir::new().unwrap();
    let node = Node::start(directory.path(), &["file:./data"]);
    stdout(&node.ask(&["seq", "k"]));
    let mut left = vec![directory.path().join("data")];
    while let Some(path) = left.pop() {
        let mode = fs::metadata(&path).unwrap().permissions().mode() & 0o777;
        if path.is_dir() {
            assert_eq!(mode, 0o700, "{path:?}");
            left.extend(fs::read_dir(&path).unwrap().map(|entry| entry.unwrap().path()));
        } else {
            assert_eq!(mode, 0o600, "{path:?}");
        }
    }
}

#[test]
fn an_address_that_no_client_can_use_is_refused() {
    let directory = TempDir::new().unwrap();
    for address in ["0.0.0.0:50551", "[::]:50551", "here:0", ":50551"] {
        let serve = ["serve", "--listen", "127.0.0.1:0", "--advertise", address];
        let line = error_line(&run(directory.path(), &serve), 2);
        assert!(line.contains("--advertise"), "{line}");
    }
}

#[test]
fn a_driver_that_was_left_out_can_be_built_in() {
    let directory = TempDir::new().unwrap();
    let built = stdout(&run(directory.path(), &["drivers"]));
    for driver in ["etcd", "rocksdb"].iter().filter(|name| !built.contains(&format!("{name}\n"))) {
        let line = error_line(&run(directory.path(), &["serve", driver]), 2);
        assert!(line.contains(&format!("--features {driver}")), "{line}");
    }
}

#[test]
fn wrong_values_say_what_is_wrong() {
    let directory = TempDir::new().unwrap();
    let refused = |arguments: &[&str]| error_line(&run(directory.path(), arguments), 2);
    let line = refused(&["serve", "--lease", "1h"]);
    assert!(line.contains("lease must be 100ms to 60s"), "{line}");
    let line = refused(&["serve", "--advertise", "http://here:1"]);
    assert!(line.contains("HOST:PORT"), "{line}");
    let line = refused(&["serve", "--config", "missing.toml"]);
    assert!(line.contains("missing.toml"), "{line}");
    let line = refused(&["serve", "--log", "tsoracle=loud"]);
    assert!(line.contains("log filter"), "{line}");
    let line = refused(&["serve", "--tls-cert", "cert.pem"]);
    assert!(line.contains("--tls-key"), "{line}");
    let line = refused(&["serve", "--tls-cert", "cert.pem", "--tls-key", "key.pem"]);
    assert!(line.contains("cannot read cert.pem"), "{line}");
    for arguments in [
        &["serve", "--lease", "soon"][..],
        &["serve", "--lsieten", "x"],
        &["ts", "--endpoint", "no endpoint"],
        &["ts", "--count", "0"],
        &["ts", "--count", "262145"],
        &["seq"],
        &["decode", "later"],
        &["init", "file"],
        &["migrate", "file:./here"],
        &["migrate", "file:./here", "fiel:./there"],
        &["raise", "file:./here"],
        &["cluster"],
        &["dance"],
    ] {
        assert_eq!(run(directory.path(), arguments).status.code(), Some(2), "{arguments:?}");
    }
}

/// Whatever is wrong in what a command is given, it is code 2, and its name is said.
#[test]
fn every_wrong_word_is_a_wrong_argument_and_named() {
    let directory = TempDir::new().unwrap();
    let peers = "peers=1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1";
    let driver = |options: &str| format!("openraft:./d?{options}");
    let (node, list, beat) = (
        driver(peers),
        driver("node=1&peers=x"),
        driver(&format!("node=1&{peers}&heartbeat=soon")),
    );
    let long = "k".repeat(129);
    let table: &[(&[&str], &str)] = &[
        (&["serve", "file:./d?journal_mb=abc"], "journal_mb"),
        (&["serve", "file:./d?journal_mb=1&journal_mb=2"], "journal_mb"),
        (&["serve", "file:./d?size=1"], "size"),
        (&["serve", "memory?size=1"], "size"),
        (&["serve", "?"], "?"),
        (&["serve", "--listen", "nonsense"], "--listen"),
        (&["serve", "--listen", "h:70000"], "--listen"),
        (&["serve", "--metrics-listen", "x"], "--metrics-listen"),
        (&["serve", "--advertise", "x"], "--advertise"),
        (&["serve", "--config", "/none"], "/none"),
        (&["serve", "--log", "json"], "json"),
        (&["serve", "--max-clock-jump", "1s"], "max_clock_jump"),
        (&["serve", "--trust-clock-until", "soon"], "--trust-clock-until"),
        (&["serve", "--max-keys", "x"], "--max-keys"),
        (&["ts", "--timeout", "soon"], "--timeout"),
        (&["ts", "--endpoint", ":"], "\":\""),
        (&["ts", "--endpoint", "ftp://h:1"], "ftp"),
        (&["ts", "--tls-ca", "/none"], "/none"),
        (&["seq", ""], "KEY"),
        (&["seq", &long], "KEY"),
        (&["seq", "k", "--request-id", ""], "--request-id"),
        (&["seq", "k", "--route", "x"], "--route"),
        (&["seq-read", ""], "KEY"),
        (&["seq-delete", ""], "KEY"),
        (&["seq-list", "--limit", "x"], "--limit"),
        (&["seq-seed", "", "1"], "KEY"),
        (&["seq-seed", "k", "x"], "START"),
        (&["seq-seed", "k", "18446744073709551615"], "START"),
        (&["lease-acquire", ""], "HOLDER"),
        (&["lease-acquire", "w", "--ttl", "x"], "--ttl"),
        (&["lease-renew", "x"], "LEASE"),
        (&["lease-release", "x"], "LEASE"),
        (&["frontier", "x"], "'x'"),
        (&["decode", "x"], "TIMESTAMP"),
        (&["encode", "x"], "TIME"),
        (&["encode", "1", "--logical", "262144"], "262144"),
        (&["status", "--endpoint", ":"], "\":\""),
        (&["cluster", "add", "x"], "ID"),
        (&["cluster", "promote", "x"], "ID"),
        (&["cluster", "remove", "x"], "ID"),
        (&["cluster", "transfer", "--to", "x"], "--to"),
        (&["drivers", "x"], "'x'"),
        (&["init", "file", "--seed-physical-ms", "x"], "--seed-physical-ms"),
        (&["init", "fiel", "--seed-physical-ms", "1792000000000"], "fiel"),
        (&["raise", "file", "--physical-ms", "x"], "--physical-ms"),
        (&["raise", "file:./d?size=1", "--physical-ms", "1792000000000"], "size"),
        (&["migrate", "file:./a", "fiel:./b"], "fiel"),
        (&["backup"], "FILE"),
        (&["backup", "b", "--endpoint", ":"], "\":\""),
        (&["backup", "verify"], "FILE"),
        (&["restore", "b"], "TO"),
        (&["restore", "b", "fiel:./d"], "fiel"),
        (&["restore", "b", "file:./d", "--floor", "a"], "--floor"),
        (&["restore", "b", "file:./d", "--floor", "a=18446744073709551615"], "--floor"),
        (&["restore", "b", "file:./d", "--floor", "a=1", "--floor", "a=2"], "\"a\""),
        (&["restore", "b", "file:./d", "--floors", "/none"], "/none"),
        (&["restore", "b", "file:./d", "--margin", "soon"], "--margin"),
        (&["inspect"], "DRIVER"),
        (&["inspect", "fiel:./d"], "fiel"),
        (&["seq-open"], "--accept-sequence-loss"),
        (&["seq-open", "--floor", "=1"], "--floor"),
        (&["verify", "--seconds", "x"], "--seconds"),
        (&["bench", "--op", "x"], "--op"),
        (&["completions", "x"], "SHELL"),
        (&["man", "x"], "'x'"),
    ];
    for (arguments, name) in table {
        let refused = run(directory.path(), arguments);
        let said = String::from_utf8(refused.stderr).unwrap();
        assert_eq!(refused.status.code(), Some(2), "{arguments:?}: {said}");
        assert!(said.contains(name), "{arguments:?}: {said}");
    }
    if cfg!(feature = "openraft") {
        for (driver, name) in [(&node, "node"), (&list, "x"), (&beat, "heartbeat")] {
            let line = error_line(&run(directory.path(), &["serve", driver]), 2);
            assert!(line.contains(name), "{line}");
        }
    }
    assert!(fs::read_dir(directory.path()).unwrap().next().is_none(), "nothing is made");
    fs::write(directory.path().join("c.toml"), "log = 'info'\nlease = 'soon'").unwrap();
    let line = error_line(&run(directory.path(), &["serve", "--config", "c.toml"]), 2);
    assert!(line.contains("c.toml, line 2, lease"), "{line}");
}

#[test]
fn two_nodes_are_warned_of() {
    let directory = TempDir::new().unwrap();
    for driver in ["openraft", "omnipaxos"] {
        if !stdout(&run(directory.path(), &["drivers"])).contains(&format!("{driver}\n")) {
            continue;
        }
        let mut node = Node::start(
            directory.path(),
            &[&format!(
                "{driver}:./{driver}?node=1&peers=1=127.0.0.1:1/a:1,2=127.0.0.1:2/b:1&peer_listen=127.0.0.1:0"
            )],
        );
        node.wait_for_log("a cluster of two nodes serves only while both are there");
    }
}
