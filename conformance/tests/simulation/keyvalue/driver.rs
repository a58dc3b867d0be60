//! The driver over a node.

use std::{
    fmt,
    sync::{Arc, atomic::Ordering},
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Leadership, NodeId, Outcome, Reads, Result,
    Snapshot, Version,
};

use super::{Shared, store::Request};
use crate::{disk::Commit, fate::carry_out, flaw::Flaw, gate::Gate, world::LIMITS};

pub(super) struct KeyValueDriver {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    pub(super) leadership: watch::Receiver<Leadership>,
}

#[async_trait]
impl ConsensusDriver for KeyValueDriver {
    fn node(&self) -> NodeId {
        self.shared.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.gate.run(self.shared.read(wanted)).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let Shared { world, me, .. } = &*self.shared;
        let commit = Arc::new(Commit::new(base, effect));
        let (shared, next) = (self.shared.clone(), commit.next);
        let committing = async move { shared.commit(commit).await };
        carry_out(world, *me, &self.gate, next, committing).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.shared.evidence.lock().unwrap().seen(version)
    }

    async fn resign(&self, claim: u64) {
        if !self.shared.world.has(Flaw::NeverResigns) {
            *self.shared.resigned.lock().unwrap() = Some(claim);
            self.shared.look.notify_one();
        }
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    async fn shutdown(&self) -> Result<()> {
        let stopping = async {
            let _none_in_flight = self.shared.in_flight.write().await;
            self.shared.stopped.store(true, Ordering::Relaxed);
            let claim = self.shared.claim.lock().unwrap().take();
            if let Some(claim) = claim {
                self.shared.ask_again(Request::Revoke(claim.lease)).await;
            }
        };
        self.gate.run(stopping).await;
        Ok(())
    }
}

impl fmt::Debug for KeyValueDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyValueDriver")
    }
}
