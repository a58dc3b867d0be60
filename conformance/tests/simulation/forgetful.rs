//! A sabotage of any system: a driver that loses some of what rules rely on.

use std::{
    collections::BTreeSet,
    sync::{Arc, Mutex},
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Leadership, Membership, NodeId, Outcome,
    Reads, Result, Snapshot, Version,
};

use crate::flaw::Flaw;

/// The first bytes of the keys of sequences and of named requests.
const SEQUENCE: u8 = b's';
const NAMED: u8 = b'q';

#[derive(Debug)]
struct Forgetful {
    driver: Arc<dyn ConsensusDriver>,
    flaw: Flaw,
    /// The names under which this process has stored an answer.
    named: Mutex<BTreeSet<Vec<u8>>>,
}

/// The driver itself, unless the sabotage is one of these.
pub(crate) fn over(
    driver: Arc<dyn ConsensusDriver>,
    flaw: Option<Flaw>,
) -> Arc<dyn ConsensusDriver> {
    match flaw {
        Some(flaw @ (Flaw::ForgetsNames | Flaw::ForgetsDeletions)) => {
            Arc::new(Forgetful { driver, flaw, named: Mutex::default() })
        }
        _ => driver,
    }
}

#[async_trait]
impl ConsensusDriver for Forgetful {
    fn node(&self) -> NodeId {
        self.driver.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.driver.leadership()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let mut found = self.driver.read(wanted).await?;
        if self.flaw == Flaw::ForgetsNames {
            let own = self.named.lock().unwrap();
            for (key, value) in wanted.keys.iter().zip(&mut found.values) {
                if key.first() == Some(&NAMED) && !own.contains(key) {
                    *value = None;
                }
            }
        }
        Ok(found)
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let mut stored = Effect::default();
        for (key, value) in effect {
            match value {
                None if self.flaw == Flaw::ForgetsDeletions && key.first() == Some(&SEQUENCE) => {}
                None => stored.delete(key),
                Some(value) => {
                    if key.first() == Some(&NAMED) {
                        self.named.lock().unwrap().insert(key.clone());
                    }
                    stored.put(key, value);
                }
            }
        }
        self.driver.commit(base, stored).await
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
