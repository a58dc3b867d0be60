//! What teaches: help, manual pages, and completions.

use std::{fs, path::Path};

use tempfile::TempDir;

use crate::node::{finished, run, stdout, tsoracle};

const COMMANDS: [&str; 30] = [
    "serve",
    "ts",
    "seq",
    "seq-read",
    "seq-list",
    "seq-seed",
    "seq-delete",
    "seq-open",
    "lease-acquire",
    "lease-renew",
    "lease-release",
    "frontier",
    "decode",
    "encode",
    "status",
    "cluster",
    "cert",
    "token",
    "reload",
    "drivers",
    "init",
    "backup",
    "restore",
    "inspect",
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

/// All of them, with those of commands of commands.
fn all_commands() -> impl Iterator<Item = Vec<&'static str>> {
    const OF_CLUSTER: [&str; 5] = ["members", "add", "promote", "remove", "transfer"];
    let commands = COMMANDS.iter().map(|command| vec![*command]);
    let of_cluster = OF_CLUSTER.iter().map(|command| vec!["cluster", command]);
    [vec![]].into_iter().chain(commands).chain(of_cluster)
}

#[test]
fn help_wraps_well_in_80_columns() {
    for command in all_commands() {
        for flag in ["--help", "-h"] {
            let mut asked = tsoracle(Path::new("."), &[&command[..], &[flag]].concat());
            let help = stdout(&finished(asked.env("COLUMNS", "80")));
            for line in help.lines() {
                assert!(line.chars().count() <= 80, "{command:?}: {line}");
                // What is in brackets is not taken apart, but for lists.
                let is_cut = ["[env:", "[default:"].iter().any(|open| line.ends_with(open));
                assert!(!is_cut, "{command:?}: {line}");
            }
            // No word stands alone in the last line of a text.
            let lines: Vec<_> = help.lines().collect();
            for pair in lines.windows(2) {
                let indent = |line: &str| line.len() - line.trim_start().len();
                let goes_on = pair[0].chars().count() > 60 && indent(pair[0]) == indent(pair[1]);
                let word = pair[1].trim();
                let is_alone = !word.is_empty() && !word.contains([' ', '[']);
                assert!(!(goes_on && is_alone && indent(pair[1]) >= 10), "{command:?}: {pair:?}");
            }
        }
    }
}

#[test]
fn whoever_has_read_enough_is_told_no_more() {
    let binary = env!("CARGO_BIN_EXE_tsoracle");
    for command in ["drivers", "drivers --json", "man", "completions bash", "--help", "help serve"]
    {
        let line = format!("{binary} {command} | head -c 1 > /dev/null; echo ${{PIPESTATUS[0]}}");
        let mut asked = std::process::Command::new("bash");
        let output = asked.args(["-c", &line]).output().unwrap();
        assert_eq!(stdout(&output), "0", "{command}");
        assert!(output.stderr.is_empty(), "{command}: {output:?}");
        // One who reads nothing at all, for certain.
        let (nobody, closed) = std::io::pipe().unwrap();
        drop(nobody);
        let words: Vec<_> = command.split(' ').collect();
        let output = tsoracle(Path::new("."), &words).stdout(closed).output().unwrap();
        assert_eq!(output.status.code(), Some(0), "{command}: {output:?}");
        assert!(output.stderr.is_empty(), "{command}: {output:?}");
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
    assert!(page.contains(".TH tsoracle 1") && page.contains(".SH EXAMPLES\n"), "{page}");
}

/// What a page has between `.nf` and `.fi` is shown line by line.
fn as_they_are(page: &str) -> Vec<String> {
    let mut inside = false;
    let lines = page.lines().filter(|line| match *line {
        ".nf" | ".fi" => {
            inside = *line == ".nf";
            false
        }
        _ => inside,
    });
    let plain = |line: &str| line.replace("\\-", "-").replace("\\*(Aq", "'").replace("\\\\", "\\");
    lines.map(plain).collect()
}

#[test]
fn examples_of_manual_pages_can_be_copied() {
    let directory = TempDir::new().unwrap();
    stdout(&run(directory.path(), &["man", "--out", "man1"]));
    for entry in fs::read_dir(directory.path().join("man1")).unwrap() {
        let path = entry.unwrap().path();
        let page = fs::read_to_string(&path).unwrap();
        let name = path.file_stem().unwrap().to_str().unwrap().to_owned();
        assert!(page.contains("\n.nh\n") && !page.contains("EXTRA"), "{name}: {page}");
        let words = match COMMANDS.iter().find(|command| format!("tsoracle-{command}") == name) {
            Some(command) => vec![*command, "--help"],
            None if name == "tsoracle" => vec!["--help"],
            None => continue,
        };
        // Help breaks what is wider than a terminal, with a backslash, and puts what it does below.
        let joined = |text: &str| text.split([' ', '\n', '\\']).collect::<Vec<_>>().concat();
        let help = joined(&stdout(&run(Path::new("."), &words)));
        let shown = as_they_are(&page);
        assert!(!shown.is_empty(), "{name}: {page}");
        for line in &shown {
            assert!(help.contains(&joined(line)), "{name}: {line:?} is not in its help");
        }
    }
    let page = fs::read_to_string(directory.path().join("man1/tsoracle-restore.1")).unwrap();
    let shown = as_they_are(&page);
    let line = shown.iter().find(|line| line.contains("orders=70000"));
    assert!(line.is_some_and(|line| line.starts_with("tsoracle restore")), "{page}");
    assert!(page.contains(".SH \"EXIT STATUS\"\n"), "{page}");
}
