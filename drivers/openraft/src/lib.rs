#![doc = include_str!("../README.md")]

mod driver;
mod elections;
mod ending;
mod keeper;
mod known;
mod leading;
mod log;
mod machine;
mod members;
mod network;
mod peers;
mod proposer;
mod shared;
mod types;
mod waiting;
mod wire;

#[cfg(test)]
mod storage_test;

use std::sync::Arc;

use tsoracle_core::{ConsensusDriver, DriverConfig, DriverFactory, Result, register_driver};

pub use driver::{OpenraftDriver, open};
pub use tsoracle_cluster::Config;

register_driver!(DriverFactory {
    name: "openraft",
    summary: "a cluster of nodes that replicate by Raft",
    options: tsoracle_cluster::OPTIONS,
    open: |config, _| Box::pin(open_config(config)),
});

async fn open_config(config: DriverConfig) -> Result<Arc<dyn ConsensusDriver>> {
    Ok(open(config.options()?).await?)
}
