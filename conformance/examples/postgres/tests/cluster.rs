//! Clusters of processes over one PostgreSQL: nodes that are killed, paused and cut off, under load.

mod common;

use std::process::ExitCode;

use tsoracle_testbed::{BackingService, Processes, Site};

const PROGRAM: &str = env!("CARGO_BIN_EXE_tsoracle-with-postgres");

fn main() -> ExitCode {
    let server = |site: &Site| site.backing_services()[0][0];
    let config = move |site: &Site, _| format!("postgres:{}", common::string(server(site)));
    let nodes = Processes::new("postgres", PROGRAM, config);
    tsoracle_testbed::run([nodes.with_backing_services(1, 1, move |site, _| {
        let ready = server(site);
        BackingService { command: common::server(&site.root().join("postgres"), ready), ready }
    })])
}
