//! The conformance suite over the file driver.

use std::{fs, io, path::Path, process::ExitCode};

use tsoracle_conformance::{Local, run};
use tsoracle_file as _;
use tsoracle_store::{Options, Store};

fn main() -> ExitCode {
    run(Local::config(|directory| format!("file:{}", directory.display()))
        .with_store(|directory| Store::open(directory, Options::default()))
        .with_damage(flip_bits))
}

/// Damages the middle of the state.
fn flip_bits(directory: &Path) -> io::Result<()> {
    let file = directory.join("state.redb");
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[4_096..middle].iter_mut().for_each(|byte| *byte ^= 0x10);
    fs::write(file, bytes)
}
