#![doc = include_str!("../README.md")]

mod commit;
mod driver;
mod elections;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod give_way;
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
    ConsensusDriver, DriverFactory, StoppedReader, register_driver, register_stopped_reader,
};

pub use driver::{OpenraftDriver, open};
pub use tsoracle_replica::Config;

register_driver!(DriverFactory {
    name: store::DRIVER,
    summary: "a cluster of nodes that replicate by Raft",
    options: tsoracle_replica::OPTIONS,
    open: |config, context| {
        Box::pin(async move {
            let driver = driver::open_within(config.options()?, context).await?;
            Ok(driver as Arc<dyn ConsensusDriver>)
        })
    },
});

register_stopped_reader!(StoppedReader { driver: store::DRIVER, read: store::read_stopped });
