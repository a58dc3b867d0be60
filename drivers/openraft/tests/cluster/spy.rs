//! A driver that notes which reigns its fences replaced.

use std::{
    ops::RangeFrom,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Epoch, Leadership, Membership, NodeId,
    Outcome, Reads, Result, Snapshot, Version,
    state::{REIGN, Record, ReignRecord, Stage},
};

#[derive(Debug)]
pub(crate) struct Spy {
    driver: Arc<dyn ConsensusDriver>,
    replaced: Mutex<Vec<ReignRecord>>,
}

impl Spy {
    pub(crate) fn new(driver: Arc<dyn ConsensusDriver>) -> Arc<Self> {
        Arc::new(Self { driver, replaced: Mutex::default() })
    }

    /// Whether a fence replaced a reign of one of these epochs, and that was released.
    pub(crate) fn has_replaced_released(&self, epochs: RangeFrom<Epoch>) -> bool {
        let replaced = self.replaced.lock().unwrap();
        replaced.iter().any(|reign| epochs.contains(&reign.epoch) && reign.released)
    }
}

#[async_trait]
impl ConsensusDriver for Spy {
    fn node(&self) -> NodeId {
        self.driver.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.driver.leadership()
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let written = effect.get(REIGN).flatten().map(<[u8]>::to_vec);
        let fences = reign(written).is_some_and(|record| record.stage == Stage::Fenced);
        let before = match fences {
            true => self.driver.read(&Reads::keys([REIGN])).await?.values.remove(0),
            false => None,
        };
        let outcome = self.driver.commit(base, effect).await?;
        if outcome == Outcome::Stored {
            self.replaced.lock().unwrap().extend(reign(before));
        }
        Ok(outcome)
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.driver.read(wanted).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.driver.seen(version)
    }

    async fn resign(&self, claim: u64) {
        self.driver.resign(claim).await;
    }

    fn limits(&self) -> CommitLimits {
        self.driver.limits()
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        self.driver.membership()
    }

    async fn shutdown(&self) -> Result<()> {
        self.driver.shutdown().await
    }
}

/// The reign record that is stored so, if it is one.
fn reign(stored: Option<Vec<u8>>) -> Option<ReignRecord> {
    match Record::decode(REIGN, stored?).unwrap() {
        Record::Reign(record) => Some(*record),
        _ => None,
    }
}
