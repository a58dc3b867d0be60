#![doc = include_str!("../README.md")]

mod config;
mod elector;
mod errors;
mod etcd;
mod keys;
mod members;
mod probe;
mod store;
mod watching;

use std::sync::Arc;

use store::Store;
use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, OpenContext, Result, SharedDriver,
    register_driver,
};

pub use config::Config;

register_driver!(DriverFactory {
    name: "etcd",
    summary: "any number of nodes over an existing etcd, of which one is elected",
    options: config::OPTIONS,
    open: |config, context| Box::pin(open(config, context)),
});

async fn open(config: DriverConfig, context: OpenContext) -> Result<Arc<dyn ConsensusDriver>> {
    let config: Config = config.options()?;
    Ok(SharedDriver::open(Store::new(&config, context)?, config.ttl).await?)
}
