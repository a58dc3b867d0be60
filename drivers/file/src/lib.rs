#![doc = include_str!("../README.md")]

mod config;

use std::sync::Arc;

use tsoracle_core::{
    ConsensusDriver, DriverConfig, DriverFactory, LocalDriver, Result, SeqStore as _,
    StoppedReader, StoppedState, new_node, register_driver, register_stopped_reader,
};
use tsoracle_store::Store;

pub use config::Config;

register_driver!(DriverFactory {
    name: "file",
    summary: "a single node: state in memory, behind a crash-safe journal; the default",
    options: config::OPTIONS,
    open: |config, _| Box::pin(open_config(config)),
});

register_stopped_reader!(StoppedReader {
    driver: "file",
    read: |path| {
        let (store, notes) = Store::inspect(path)?;
        store.belong_to("file")?;
        Ok(StoppedState::new(store, notes))
    },
});

/// Opens the driver: locks the directory, and verifies the state in it.
///
/// Dropping the future does not undo the opening; the lock is released as soon as it has ended.
///
/// # Errors
/// `Config` if the directory is in use by another process or cannot be used; `Corrupt` if the state
/// is damaged, missing although it was there once, or of an unknown format; `Fatal` if the disk
/// fails.
pub async fn open(config: Config) -> Result<Arc<LocalDriver>> {
    let open = move || {
        let mut store = Store::open(&config.path, config.options())?;
        store.belong_to("file")?;
        if store.is_copy() {
            store.commit(new_node()?)?;
            store.settle_here()?;
        }
        Ok(store)
    };
    LocalDriver::open_with(open).await
}

async fn open_config(config: DriverConfig) -> Result<Arc<dyn ConsensusDriver>> {
    Ok(open(config.options()?).await?)
}
