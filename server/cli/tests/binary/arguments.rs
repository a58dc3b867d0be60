//! Options that many commands have, given in ways that cannot be right.

use std::{path::Path, process::Output};

use tempfile::TempDir;

use crate::{
    certificates::cert,
    node::{Node, finished, run, stdout, tsoracle},
    ports::free_port,
};

/// Every command, with those of commands of commands, and its help.
fn all_commands() -> Vec<(Vec<String>, String)> {
    let mut all = Vec::new();
    let mut to_ask = vec![Vec::<String>::new()];
    while let Some(words) = to_ask.pop() {
        let asked: Vec<_> = words.iter().map(String::as_str).chain(["--help"]).collect();
        let help = stdout(&run(Path::new("."), &asked));
        let listed = help.split_once("Commands:\n").map_or("", |(_, listed)| listed);
        let listed = listed.lines().take_while(|line| !line.is_empty());
        let names = listed.filter_map(|line| line.strip_prefix("  "));
        let names = names.filter(|line| !line.starts_with(' ') && !line.starts_with("help "));
        for name in names.filter_map(|line| line.split(' ').next()) {
            to_ask.push([&words[..], &[name.to_owned()]].concat());
        }
        all.push((words, help));
    }
    assert!(all.len() > 30, "{all:?}");
    all
}

fn run_all(words: &[String], more: &[&str]) -> Output {
    let words: Vec<_> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
    run(Path::new("."), &words)
}

/// What a command says of arguments that are wrong.
fn refused(output: &Output) -> String {
    assert_eq!(output.status.code(), Some(2), "{output:?}");
    assert!(output.stdout.is_empty(), "{output:?}");
    let said = String::from_utf8(output.stderr.clone()).unwrap();
    assert!(said.starts_with("error: ") && !said.contains("panicked"), "{said}");
    said
}

#[test]
fn no_duration_is_longer_than_a_clock_can_count() {
    let mut found = 0;
    for (words, help) in all_commands() {
        let options = help.lines().filter_map(|line| line.trim().split_once(" <DURATION>"));
        for (option, _) in options {
            for long in ["1000000y", "18446744073709551615s"] {
                let said = refused(&run_all(&words, &[option, long]));
                assert!(said.contains(option) && said.contains("100 years"), "{words:?}: {said}");
            }
            found += 1;
        }
    }
    assert!(found > 30, "{found}");
    let directory = TempDir::new().unwrap();
    std::fs::write(directory.path().join("long.toml"), "listen = 'h:1'\nhold = '1000000y'")
        .unwrap();
    let said = refused(&run(directory.path(), &["serve", "--config", "long.toml"]));
    assert!(said.contains("line 2, hold") && said.contains("100 years"), "{said}");
    // The longest one is sent with each call, and waited for.
    let node = Node::start(directory.path(), &["memory"]);
    for command in [&["status"][..], &["ts"], &["cluster", "members"], &["seq-list"], &["reload"]] {
        let output = node.ask(&[command, &["--timeout", "36500days"]].concat());
        assert!(!output.stderr.windows(5).any(|bytes| bytes == b"panic"), "{output:?}");
    }
    stdout(&node.ask(&["status", "--timeout", "36500days"]));
    stdout(&node.ask(&["ts", "--timeout", "36500days"]));
}

/// Numbers, times and choices. What else a variable may hold is looked at once it is used.
#[test]
fn every_variable_that_cannot_be_right_is_named() {
    let mut found = 0;
    for (words, help) in all_commands() {
        let help = help.split_whitespace().collect::<Vec<_>>().join(" ");
        let variables = help.split("[env: ").skip(1);
        for variable in variables.filter_map(|rest| rest.split(['=', ']']).next()) {
            // What is no error of its own must not be served, or measured.
            let more: &[&str] = match words.first().map(String::as_str) {
                Some("bench") => continue,
                None | Some("serve") => &["--config", "/none"],
                _ => &[],
            };
            let asked: Vec<_> = words.iter().map(String::as_str).chain(more.to_vec()).collect();
            let output = finished(tsoracle(Path::new("."), &asked).env(variable, "soon"));
            let said = String::from_utf8_lossy(&output.stderr);
            if said.contains("invalid value") {
                refused(&output);
                assert!(said.contains(variable), "{words:?}, {variable}: {said}");
                found += 1;
            }
        }
    }
    assert!(found > 30, "{found}");
}

#[test]
fn every_command_names_an_endpoint_that_is_one() {
    let mut found = 0;
    for (words, _) in all_commands().iter().filter(|(_, help)| help.contains("--endpoint <PLACE>"))
    {
        for nobody in ["", ",", " , "] {
            let said = refused(&run_all(words, &["--endpoint", nobody]));
            assert!(said.contains("name at least one endpoint"), "{words:?}: {said}");
        }
        let wrong = ["127.0.0.1:99999", "127.0.0.1:-1", "127.0.0.1:0", "127.0.0.1:", "[::1]:65536"];
        for endpoint in wrong {
            let said =
                refused(&run_all(words, &["--endpoint", &format!("127.0.0.1:1,{endpoint}")]));
            assert!(said.contains(endpoint) && said.contains("no port"), "{words:?}: {said}");
        }
        for endpoint in ["not an address", "unix:", "a/b"] {
            let said = refused(&run_all(words, &["--endpoint", endpoint]));
            assert!(said.contains(endpoint), "{words:?}: {said}");
        }
        found += 1;
    }
    assert!(found > 15, "{found}");
    let mut asked = tsoracle(Path::new("."), &["status"]);
    let said = refused(&finished(asked.env("TSORACLE_ENDPOINT", ",")));
    assert!(said.contains("TSORACLE_ENDPOINT") && said.contains("at least one"), "{said}");
}

/// Commands that ask a server, each in its own way.
const ASKING: [&[&str]; 8] = [
    &["ts"],
    &["status"],
    &["reload"],
    &["cluster", "members"],
    &["cluster", "transfer", "--to", "1"],
    &["seq-open", "--accept-sequence-loss"],
    &["backup", "copy"],
    &["verify", "--seconds", "0"],
];

#[test]
fn whoever_speaks_tls_to_plain_text_or_the_reverse_is_told() {
    let directory = TempDir::new().unwrap();
    cert(directory.path(), &["ca"]);
    cert(directory.path(), &["node", "1", "--address", "127.0.0.1"]);
    let tls = ["--tls-cert", "tsoracle-certs/node-1.pem", "--tls-key", "tsoracle-certs/node-1.key"];
    let encrypted = Node::start(directory.path(), &[&["memory"], &tls[..]].concat());
    let plain = Node::start(directory.path(), &["memory"]);
    let nobody = free_port();
    let ask = |command: &[&str], endpoint: &str, more: &[&str]| {
        let asked = [command, &["--endpoint", endpoint, "--timeout", "2s"], more].concat();
        let output = run(directory.path(), &asked);
        assert_ne!(output.status.code(), Some(0), "{output:?}");
        let said = [output.stdout, output.stderr].concat();
        String::from_utf8(said).unwrap()
    };
    for command in ASKING {
        let said = ask(command, &encrypted.address, &[]);
        assert!(said.contains("does it expect TLS"), "{command:?}: {said}");
        let said = ask(command, &plain.address, &["--tls-ca", "tsoracle-certs/ca.pem"]);
        assert!(said.contains("does not speak TLS"), "{command:?}: {said}");
        let said = ask(command, &nobody, &[]);
        assert!(!said.contains("TLS"), "{command:?}: {said}");
    }
}
