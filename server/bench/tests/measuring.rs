//! That the suite measures what it says, in moments instead of minutes. Figures depend on the machine.

use std::{
    fs,
    path::Path,
    process::{Command, Output},
};

use serde_json::Value;
use tempfile::TempDir;

fn run(directory: &Path, arguments: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_tsoracle-bench"));
    command.args(arguments).current_dir(directory).output().expect("the program runs")
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{output:?}");
    String::from_utf8(output.stdout.clone()).expect("text")
}

fn error_line(output: &Output, code: i32) -> String {
    assert_eq!(output.status.code(), Some(code), "{output:?}");
    String::from_utf8(output.stderr.clone()).expect("text")
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is a number"))
}

#[test]
fn the_suite_writes_its_table() {
    let directory = TempDir::new().unwrap();
    let quick = [
        "--slice=0.1",
        "--tail=0.1",
        "--idle=0.1",
        "--stored-keys=1000",
        "--spread=0.2",
        "--wait=0",
    ];
    let suite = [&["suite", "--rounds", "2", "--write", "P.md"], &quick[..]].concat();
    let line = error_line(&run(directory.path(), &suite), 2);
    assert!(line.contains("P.md"), "{line}");
    let page = "# P\n\n<!-- measured: begin -->\n<!-- measured: end -->\nThe end.\n";
    fs::write(directory.path().join("P.md"), page).unwrap();
    stdout(&run(directory.path(), &suite));
    let page = fs::read_to_string(directory.path().join("P.md")).unwrap();
    assert!(page.starts_with("# P\n") && page.ends_with("\nThe end.\n"), "{page}");
    for row in [
        "GetTs, unary, 256 callers, 4 connections",
        "`get_seq`, 1024 callers",
        "all keys of a large store drawn, for 0.2 s",
        "the longest time in which no call was answered",
        "Idle server",
    ] {
        assert!(page.contains(row), "{row}: {page}");
    }
    assert!(page.contains("Other programs took"), "{page}");
    // What is not there is named, and everything else is measured.
    let missing = page.lines().filter_map(|line| line.strip_prefix("Not measured: "));
    let mut why: Vec<_> = missing.map(|line| line.split_once(": ").unwrap()).collect();
    why.retain(|(_, why)| !why.ends_with("not found") && !why.contains("this build has no driver"));
    let public = ["the public client and server"];
    assert_eq!(why.iter().map(|(what, _)| *what).collect::<Vec<_>>(), public, "{page}");
    for (driver, is_there) in
        [("openraft", cfg!(feature = "openraft")), ("omnipaxos", cfg!(feature = "omnipaxos"))]
    {
        let row =
            format!("| `get_seq`, 64 callers, 1 connection, 64 keys, three nodes of {driver} |");
        assert_eq!(page.contains(&row), is_there, "{page}");
    }
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 1, "no state is left behind");
}

#[test]
fn a_build_is_measured_beside_another() {
    let directory = TempDir::new().unwrap();
    let program = env!("CARGO_BIN_EXE_tsoracle-bench");
    let quick = ["--rounds=1", "--slice=0.5", "--least=0.01", "--json"];
    let against = |other: &str| run(directory.path(), &[&["against", other], &quick[..]].concat());
    let compared: Value = serde_json::from_str(&stdout(&against(program))).unwrap();
    let compared = compared.as_array().unwrap();
    assert_eq!(compared.len(), 8);
    for load in compared {
        let ratios: Vec<_> = load["ratios"].as_array().unwrap().iter().map(number).collect();
        assert!(ratios.len() == 1 && ratios.iter().all(|ratio| *ratio > 0.0), "{load}");
        let [lowest, median, highest] = ["lowest", "median", "highest"].map(|at| number(&load[at]));
        assert!(lowest <= median && median <= highest, "{load}");
        assert_eq!(load["is_slower"], false, "{load}");
    }
    let line = error_line(&against("./nowhere"), 1);
    assert!(line.contains("nowhere"), "{line}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0, "no state is left behind");
}

#[test]
fn a_build_that_is_slower_is_told_so() {
    use std::os::unix::fs::PermissionsExt;
    let directory = TempDir::new().unwrap();
    // A build whose reports are those of a much faster one.
    let other = directory.path().join("faster");
    let script = format!(
        "#!/bin/sh\ncase $1 in\nserve) exec \"{}\" \"$@\";;\n\
         *) echo '{{\"calls_per_second\":1e12}}';;\nesac\n",
        env!("CARGO_BIN_EXE_tsoracle-bench")
    );
    fs::write(&other, script).unwrap();
    fs::set_permissions(&other, fs::Permissions::from_mode(0o755)).unwrap();
    let quick = ["against", "./faster", "--rounds=3", "--slice=0.5"];
    let output = run(directory.path(), &quick);
    assert_eq!(output.status.code(), Some(1), "{output:?}");
    let text = String::from_utf8(output.stdout).unwrap();
    let error = String::from_utf8(output.stderr).unwrap();
    assert_eq!(text.matches("SLOWER").count(), 8, "{text}{error}");
    assert!(error.contains("by more than the spread explains: GetTs, unary"), "{error}");
}
