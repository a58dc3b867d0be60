//! What teaches: help, manual pages, and completions.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::node::{run, stdout};

const COMMANDS: [&str; 22] = [
    "serve",
    "ts",
    "seq",
    "seq-read",
    "seq-list",
    "seq-seed",
    "seq-delete",
    "lease-acquire",
    "lease-renew",
    "lease-release",
    "frontier",
    "decode",
    "status",
    "cluster",
    "drivers",
    "init",
    "migrate",
    "raise",
    "verify",
    "bench",
    "completions",
    "man",
];

#[test]
fn every_command_shows_examples() {
    for command in COMMANDS.iter().filter(|command| **command != "serve") {
        let words: Vec<_> = command.split(' ').chain(["--help"]).collect();
        let help = stdout(&run(Path::new("."), &words));
        let example = format!("Examples:\n  tsoracle {command}");
        assert!(help.contains(&example), "{command}: {help}");
    }
}

#[test]
fn no_command_is_missing_here() {
    let help = stdout(&run(Path::new("."), &["--help"]));
    let (_, listed) = help.split_once("Commands:\n").unwrap();
    // A description that goes on in the next line is indented further.
    let names = listed.lines().take_while(|line| !line.is_empty());
    let names = names.filter_map(|line| line.strip_prefix("  "));
    let names = names.filter(|line| !line.starts_with(' '));
    let names: Vec<_> = names.filter_map(|line| line.split(' ').next()).collect();
    assert!(names.len() >= 18, "{help}");
    for name in names.iter().filter(|name| **name != "help") {
        assert!(COMMANDS.contains(name), "{name}");
    }
}

#[test]
fn completions_for_each_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = stdout(&run(Path::new("."), &["completions", shell]));
        for word in ["tsoracle", "seq-read", "window-ahead", "transfer"] {
            assert!(script.contains(word), "{shell} lacks {word}");
        }
    }
    assert_eq!(run(Path::new("."), &["completions", "cmd.exe"]).status.code(), Some(2));
}

#[test]
fn a_manual_page_for_each_command() {
    let directory = TempDir::new().unwrap();
    stdout(&run(directory.path(), &["man", "--out", "man1"]));
    for command in COMMANDS {
        let name = format!("man1/tsoracle-{}.1", command.replace(' ', "-"));
        let page = fs::read_to_string(directory.path().join(&name)).expect(&name);
        assert!(page.contains(".TH"), "{name}: {page}");
    }
    let page = stdout(&run(directory.path(), &["man"]));
    assert!(page.contains(".TH tsoracle 1") && page.contains("Examples:"), "{page}");
}
