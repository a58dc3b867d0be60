//! A driver of tsoracle over a PostgreSQL that runs already: any number of nodes, of which one leads.

mod config;
mod database;
mod driver;

use std::sync::Arc;

use tsoracle_core::{ConsensusDriver, DriverFactory, register_driver};

pub use config::Config;
pub use driver::PostgresDriver;

/// The driver, to be registered by hand: `Registry::default().register(FACTORY)`.
pub const FACTORY: DriverFactory = DriverFactory {
    name: "postgres",
    summary: "any number of nodes over an existing PostgreSQL, of which one is elected",
    options: config::OPTIONS,
    open: |config, context| {
        Box::pin(async move {
            let driver = PostgresDriver::open(config.options()?, context).await?;
            Ok(Arc::new(driver) as Arc<dyn ConsensusDriver>)
        })
    },
};

// And to be found by `Registry::linked()`, in every program that names this crate.
register_driver!(FACTORY);
