//! The conformance suite over the file driver.

use std::{fs, io, path::Path, process::ExitCode};

use tsoracle_conformance::{Local, run};
use tsoracle_file as _;
use tsoracle_store::{Options, Store};

fn main() -> ExitCode {
    run(|| {
        Local::config(|directory| format!("file:{}", directory.display()))
            .with_store(|directory| Store::open(directory, Options::default()))
            .with_damage(flip_bits)
            .fixture()
    })
}

/// Damages everything in the state.
fn flip_bits(directory: &Path) -> io::Result<()> {
    for entry in fs::read_dir(directory.join("state.journal"))? {
        let file = entry?.path();
        let mut bytes = fs::read(&file)?;
        bytes.iter_mut().skip(64).for_each(|byte| *byte ^= 0x10);
        fs::write(file, bytes)?;
    }
    Ok(())
}
