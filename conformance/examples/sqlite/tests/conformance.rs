//! The conformance suite over the SQLite driver.

use std::{fs, io, path::Path, process::ExitCode};

use tsoracle_conformance::{Local, run};
use tsoracle_sqlite::{Config, Store};

fn main() -> ExitCode {
    run(|| {
        Local::config(|directory| format!("sqlite:{}", directory.display()))
            .with_store(|path| Store::open(&Config { path: path.into(), ..Config::default() }))
            .with_damage(flip_bits)
            .fixture()
    })
}

/// Damages the second half of the database.
fn flip_bits(directory: &Path) -> io::Result<()> {
    let file = directory.join("state.sqlite");
    let mut bytes = fs::read(&file)?;
    let middle = bytes.len() / 2;
    bytes[middle..].iter_mut().for_each(|byte| *byte ^= 0x10);
    fs::write(file, bytes)
}
