//! Every code block of the README, run as a reader would.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    fs,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
};

#[allow(dead_code, reason = "it is shared with other test programs")]
#[path = "binary/node.rs"]
mod node;
#[allow(dead_code, reason = "it is shared with other test programs")]
#[path = "binary/ports.rs"]
mod ports;

use node::{finished, first_line};
use tempfile::TempDir;

const README: &str = include_str!("../../../README.md");
const TSORACLE: &str = env!("CARGO_BIN_EXE_tsoracle");

/// A code block: what it is in, and its text.
struct Block {
    language: &'static str,
    text: &'static str,
}

fn blocks() -> Vec<Block> {
    let mut parts = README.split("```");
    let mut blocks = Vec::new();
    while let (Some(_prose), Some(block)) = (parts.next(), parts.next()) {
        let (language, text) = block.split_once('\n').expect("a block begins with its language");
        blocks.push(Block { language, text });
    }
    blocks
}

/// A reader's machine: an empty folder, and `cargo`, `make` and `tsoracle` on the PATH.
struct Reader {
    home: TempDir,
}

impl Reader {
    fn new() -> Self {
        let home = tempfile::tempdir().unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let root = root.display();
        let tools = home.path().join("bin");
        fs::create_dir(&tools).unwrap();
        // What cargo would build is built already; make says what it would do.
        let cargo = format!(
            "case \"$1\" in\n run) shift 2; exec tsoracle \"$@\" ;;\n \
             install) test -f \"{root}/$3/Cargo.toml\" ;;\n *) exit 1 ;;\nesac"
        );
        for (name, script) in [
            ("cargo", cargo),
            ("make", format!("PATH=${{PATH#*:}} exec make -C \"{root}\" -n \"$@\"")),
            ("tsoracle", format!("exec \"{TSORACLE}\" \"$@\"")),
        ] {
            let tool = tools.join(name);
            fs::write(&tool, format!("#!/bin/sh\n{script}\n")).unwrap();
            fs::set_permissions(&tool, fs::Permissions::from_mode(0o755)).unwrap();
        }
        Self { home }
    }

    fn command(&self, program: impl AsRef<std::ffi::OsStr>) -> Command {
        let path = std::env::var("PATH").unwrap();
        let mut command = Command::new(program);
        command
            .current_dir(self.home.path())
            .env("PATH", format!("{}/bin:{path}", self.home.path().display()))
            .env("TSORACLE_LISTEN", "127.0.0.1:0");
        command
    }

    fn sh(&self, script: &str) -> Command {
        let mut command = self.command("bash");
        command.args(["-euo", "pipefail", "-c", script]);
        command
    }
}

/// A program that serves until it is interrupted.
struct Serving {
    child: Child,
    address: String,
}

impl Serving {
    fn start(mut command: Command) -> Self {
        let mut child = command.stdout(Stdio::piped()).spawn().unwrap();
        let line = first_line(&mut child);
        let address = line
            .split_whitespace()
            .find(|word| word.starts_with("127.0.0.1:"))
            .unwrap_or_else(|| panic!("{line:?} says where it serves"));
        Self { address: address.to_owned(), child }
    }

    fn interrupt(mut self) {
        let pid = self.child.id().to_string();
        assert!(Command::new("kill").args(["-INT", &pid]).status().unwrap().success());
        assert!(self.child.wait().unwrap().success(), "it stops cleanly");
    }
}

impl Drop for Serving {
    fn drop(&mut self) {
        // Only if the test failed before it was interrupted.
        let _ = self.child.kill();
    }
}

fn example(name: &str) -> PathBuf {
    Path::new(TSORACLE).parent().unwrap().join("examples").join(name)
}

fn succeeded(output: &Output) -> String {
    let text = String::from_utf8_lossy(&output.stdout).into_owned();
    assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
    text
}

#[test]
fn every_block_is_of_a_kind_that_is_run_here() {
    let languages: Vec<_> = blocks().iter().map(|block| block.language).collect();
    assert_eq!(
        languages,
        ["sh", "sh", "sh", "sh", "toml", "rust", "rust", "rust"],
        "a new block needs a test here that runs it"
    );
}

#[test]
fn the_first_command_serves_and_the_shell_blocks_run_against_it() {
    let reader = Reader::new();
    let blocks = blocks();
    let server = Serving::start(reader.sh(&format!("exec {}", blocks[0].text)));
    let mut asking = reader.sh(blocks[2].text);
    let output = succeeded(&finished(asking.env("TSORACLE_ENDPOINT", &server.address)));
    let lines: Vec<_> = output.lines().collect();
    assert!(lines[0].parse::<u64>().is_ok(), "{output}");
    assert!(lines[1].starts_with("{\"timestamp\":") && lines[1].contains("\"count\":100"));
    assert!(lines[2].starts_with("0 to 63"), "{output}");
    assert_eq!(lines[3], lines[4], "one request, one block");
    assert_eq!(
        lines[5..=9],
        ["64", "1000", "invoices 1", "orders 64", "vouchers 1000"],
        "{output}"
    );
    assert!(lines[10].starts_with("lease 1: stamp up to "), "{output}");
    assert!(lines[11].parse::<u64>().is_ok(), "the frontier: {output}");
    server.interrupt();
}

#[test]
fn the_second_command_runs_every_check() {
    let reader = Reader::new();
    let output = succeeded(&finished(&mut reader.sh(blocks()[1].text)));
    let mut lines = output.lines().filter_map(|line| line.strip_prefix(".ci/parts "));
    let parts = lines.next().expect("it makes its parts");
    let output = succeeded(&finished(&mut reader.sh(&format!("make {parts}"))));
    let steps =
        [".ci/packages", "fmt", "clippy", "deny", "doc", "--no-default-features", "test", "bench"];
    for step in steps {
        assert!(output.contains(step), "make test lacks {step}:\n{output}");
    }
}

#[test]
fn servers_take_their_options_from_flags_and_from_a_file() {
    let reader = Reader::new();
    let blocks = blocks();
    Serving::start(reader.sh(&format!("exec {}", blocks[3].text))).interrupt();
    fs::write(reader.home.path().join("tsoracle.toml"), blocks[4].text).unwrap();
    let command = blocks[4].text.lines().next().unwrap().trim_start_matches("# ");
    let mut serving = reader.sh(&format!("exec {command}"));
    serving.env_remove("TSORACLE_LISTEN");
    Serving::start(serving).interrupt();
    assert!(reader.home.path().join("demo-data").is_dir(), "both used the same state");
}

#[test]
fn the_rust_blocks_are_the_examples_and_run() {
    let names = ["quickstart", "embed_oracle", "embed_server"];
    for (name, block) in names.into_iter().zip(blocks().drain(5..)) {
        let path = format!("{}/examples/{name}.rs", env!("CARGO_MANIFEST_DIR"));
        let source = fs::read_to_string(path).unwrap();
        let (_docs, code) = source.split_once("\n\n").unwrap();
        assert_eq!(block.text, code, "the README shows examples/{name}.rs");
    }
    let reader = Reader::new();
    let server = Serving::start(reader.command(TSORACLE));
    let quickstart = finished(reader.command(example("quickstart")).arg(&server.address));
    assert!(succeeded(&quickstart).contains("orders 0..64 are ours alone"));
    server.interrupt();
    let embedded = finished(&mut reader.command(example("embed_oracle")));
    assert!(succeeded(&embedded).contains("start: 0, count: 64"));
    let embedded = Serving::start(reader.command(example("embed_server")));
    // Once it answers it also listens for signals.
    let asking = ["ts", "--endpoint", &embedded.address];
    succeeded(&finished(reader.command(TSORACLE).args(asking)));
    embedded.interrupt();
}
