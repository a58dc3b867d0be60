//! A driver of tsoracle over SQLite: a single node.

mod store;

use std::path::PathBuf;

use serde::Deserialize;
use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, DriverOption, LocalDriver, register_driver,
};

pub use store::Store;

/// What a config string can say: `sqlite:PATH?cache_mb=N`.
#[derive(Clone, Debug, Deserialize)]
#[serde(default, deny_unknown_fields)]
pub struct Config {
    /// The directory that holds the state.
    pub path: PathBuf,
    /// How many MiB of the database are kept in memory, at most.
    pub cache_mb: u16,
}

impl Default for Config {
    fn default() -> Self {
        Self { path: "./tsoracle-sqlite".into(), cache_mb: 4 }
    }
}

/// The driver, to be registered by hand: `Registry::default().register(FACTORY)`.
pub const FACTORY: DriverFactory = DriverFactory {
    name: "sqlite",
    summary: "a single node over a SQLite database",
    options: &[
        DriverOption {
            name: "path",
            default: "./tsoracle-sqlite",
            help: "the directory that holds the state; made if it is missing",
        },
        DriverOption {
            name: "cache_mb",
            default: "4",
            help: "how many MiB of the database are kept in memory, at most",
        },
    ],
    open: |config, _| Box::pin(open(config)),
};

// And to be found by `Registry::linked()`, in every program that names this crate.
register_driver!(FACTORY);

async fn open(config: DriverConfig) -> tsoracle_core::Result<std::sync::Arc<dyn ConsensusDriver>> {
    let config: Config = config.options()?;
    Ok(LocalDriver::open_with(move || Store::open(&config)).await?)
}
