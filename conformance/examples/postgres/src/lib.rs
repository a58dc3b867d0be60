//! A driver of tsoracle over a PostgreSQL that runs already: any number of nodes, of which one leads.

mod config;
mod store;

use std::sync::Arc;

use store::Store;
use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, OpenContext, Result, SharedDriver,
    register_driver,
};

pub use config::Config;

/// The driver, to be registered by hand: `Registry::default().register(FACTORY)`.
pub const FACTORY: DriverFactory = DriverFactory {
    name: "postgres",
    summary: "any number of nodes over an existing PostgreSQL, of which one is elected",
    options: config::OPTIONS,
    open: |config, context| Box::pin(open(config, context)),
};

// And to be found by `Registry::linked()`, in every program that names this crate.
register_driver!(FACTORY);

async fn open(config: DriverConfig, context: OpenContext) -> Result<Arc<dyn ConsensusDriver>> {
    let config: Config = config.options()?;
    config.validate()?;
    let ttl = config.ttl;
    Ok(SharedDriver::open(Store::new(config, context), ttl).await?)
}
