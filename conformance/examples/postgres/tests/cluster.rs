//! Clusters of processes over one PostgreSQL: nodes that are killed, paused and cut off, under load.

mod common;

use std::process::ExitCode;

use tsoracle_conformance::processes::{self, Companion, Processes, Site};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tsoracle-with-postgres");

fn main() -> ExitCode {
    let server = |site: &Site| site.companions()[0][0];
    let config = move |site: &Site, _| format!("postgres:{}", common::string(server(site)));
    let nodes = Processes::new("postgres", PROGRAM, config);
    processes::run([nodes.with_companions(1, 1, move |site, _| {
        let ready = server(site);
        Companion { command: common::server(&site.root().join("postgres"), ready), ready }
    })])
}
