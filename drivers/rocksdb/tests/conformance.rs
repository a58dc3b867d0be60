//! The conformance suite over the RocksDB driver.

use std::{fs, io, path::Path, process::ExitCode};

use tsoracle_conformance::{Local, run};
use tsoracle_rocksdb::{Config, Store};

fn main() -> ExitCode {
    run(|| {
        Local::config(|directory| format!("rocksdb:{}", directory.display()))
            .with_store(|path| Store::open(&Config { path: path.into(), ..Config::default() }))
            .with_damage(flip_bits)
            .fixture()
    })
}

/// Damages the tables and the logs.
fn flip_bits(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory.join("state.rocksdb"))? {
        let path = entry?.path();
        if path.extension().is_some_and(|end| end == "sst" || end == "log") {
            let mut bytes = fs::read(&path)?;
            bytes.iter_mut().for_each(|byte| *byte ^= 0x10);
            fs::write(path, bytes)?;
        }
    }
    Ok(())
}
