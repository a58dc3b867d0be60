#![doc = include_str!("../README.md")]

#[cfg(test)]
mod agreement_test;
mod apply;
mod driver;
mod entry;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod inbound;
#[cfg(test)]
mod inbound_test;
mod jobs;
mod leadership;
mod log;
#[cfg(test)]
mod log_test;
mod message;
mod meters;
mod node;
#[cfg(test)]
mod node_test;
mod outgoing;
mod paxos;
mod peers;
mod runner;
#[cfg(feature = "simulation")]
pub mod simulation;
mod stop;
mod stopped;
mod storage;
#[cfg(test)]
mod testing;
mod ticks;

use std::sync::Arc;

use tsoracle_core::{
    ConsensusDriver, DriverFactory, StoppedReader, register_driver, register_stopped_reader,
};

pub use driver::{OmnipaxosDriver, open};
pub use tsoracle_replica::Config;

register_driver!(DriverFactory {
    name: driver::NAME,
    summary: "a cluster that agrees by OmniPaxos, and lives on any majority that reaches one node",
    options: tsoracle_replica::FIXED_OPTIONS,
    open: |config, context| {
        Box::pin(async move {
            let driver = driver::open_within(config.options()?, context).await?;
            Ok(driver as Arc<dyn ConsensusDriver>)
        })
    },
});

register_stopped_reader!(StoppedReader { driver: driver::NAME, read: stopped::read_stopped });
