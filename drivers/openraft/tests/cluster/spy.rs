//! A driver that notes which reigns its fences replaced.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Leadership, Membership, NodeId, Result,
    state::{Answer, Command, Query, ReignRecord, Reply},
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

    /// What the latest fence replaced.
    pub(crate) fn replaced(&self) -> Option<ReignRecord> {
        self.replaced.lock().unwrap().last().cloned()
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

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let committed = self.driver.commit(epoch, commands).await?;
        for result in &committed.results {
            if let Ok(Reply::Fenced { replaced, .. }) = result {
                self.replaced.lock().unwrap().extend(replaced.clone());
            }
        }
        Ok(committed)
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        self.driver.read(query).await
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
