//! The conformance suite over the openraft driver: a cluster of one node for the checks of a driver.
//! Clusters of processes are in the suite of the server.

use std::{fs, io, path::Path, process::ExitCode};

use tsoracle_conformance::{Local, run};
use tsoracle_openraft as _;

fn main() -> ExitCode {
    run(|| Local::config(single_node).with_damage(flip_bits).fixture())
}

fn single_node(directory: &Path) -> String {
    // A node of its own hears from no other, so any port will do. A crash is simulated by a copy.
    let options = "node=1&peers=1=127.0.0.1:1/127.0.0.1:2&peer_listen=127.0.0.1:0&moved=true";
    format!("openraft:{}?{options}", directory.display())
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
