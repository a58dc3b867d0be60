#![doc = include_str!("../README.md")]

mod config;
mod driver;
mod elector;
mod errors;
mod etcd;
mod keys;
mod members;
mod probe;
mod shared;
mod watching;

use std::sync::Arc;

use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, OpenContext, Result, register_driver,
};

pub use config::Config;
pub use driver::EtcdDriver;

register_driver!(DriverFactory {
    name: "etcd",
    summary: "any number of nodes over an existing etcd, of which one is elected",
    options: config::OPTIONS,
    open: |config, context| Box::pin(open(config, context)),
});

async fn open(config: DriverConfig, context: OpenContext) -> Result<Arc<dyn ConsensusDriver>> {
    Ok(EtcdDriver::open(config.options()?, context).await?)
}
