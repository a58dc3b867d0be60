#![doc = include_str!("../README.md")]

mod commit;
mod driver;
mod elections;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod inbound;
mod leadership;
mod log;
mod machine;
mod members;
mod meters;
mod network;
mod numbers;
mod removal;
mod runtime;
mod shared;
mod shutdown;
#[cfg(feature = "simulation")]
pub mod simulation;
mod store;
mod types;
mod wire;

#[cfg(test)]
mod inbound_test;
#[cfg(test)]
mod storage_test;

use std::sync::Arc;

use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, OpenContext, Result, register_driver,
};

pub use driver::{OpenraftDriver, open};
pub use tsoracle_replica::Config;

register_driver!(DriverFactory {
    name: store::DRIVER,
    summary: "a cluster of nodes that replicate by Raft",
    options: tsoracle_replica::OPTIONS,
    open: |config, context| Box::pin(open_config(config, context)),
});

async fn open_config(
    config: DriverConfig,
    context: OpenContext,
) -> Result<Arc<dyn ConsensusDriver>> {
    Ok(driver::open_within(config.options()?, context).await?)
}
