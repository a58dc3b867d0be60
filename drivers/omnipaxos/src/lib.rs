#![doc = include_str!("../README.md")]

mod apply;
mod driver;
mod entry;
mod epoch;
mod hear;
mod leave;
mod log;
#[cfg(test)]
mod log_test;
mod node;
#[cfg(test)]
mod node_test;
mod office;
mod peers;
mod pulse;
mod send;
mod storage;
mod waiting;
mod wire;

use std::sync::Arc;

use tsoracle_core::{ConsensusDriver, DriverConfig, DriverFactory, Result, register_driver};

pub use tsoracle_cluster::Config;

register_driver!(DriverFactory {
    name: driver::NAME,
    summary: "a cluster that agrees by OmniPaxos, and lives on any majority that reaches one node",
    options: tsoracle_cluster::OPTIONS,
    open: |config, _| Box::pin(open_config(config)),
});

/// Opens the driver: locks the directory, reads the log in it, and begins to speak to the peers.
/// Whether they answer is not waited for.
///
/// Dropping the future does not undo the opening; the lock is let go as soon as it has ended.
///
/// # Errors
/// `Config` if the options do not make a cluster, or if the directory is in use, cannot be used, or
/// is another driver's, node's or cluster's; `Corrupt` if the state or the log is damaged, missing
/// although it was there once, or of an unknown format; `Fatal` if the disk fails.
pub async fn open(config: Config) -> Result<Arc<dyn ConsensusDriver>> {
    Ok(driver::open(config).await?)
}

async fn open_config(config: DriverConfig) -> Result<Arc<dyn ConsensusDriver>> {
    open(config.options()?).await
}
