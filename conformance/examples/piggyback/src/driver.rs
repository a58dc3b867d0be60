use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Leadership, NodeId, Outcome, Reads, Result,
    Snapshot, Version,
};

use crate::{Node, commit, leadership};

/// Bounds the memory and the time of one commit.
const LIMITS: CommitLimits = CommitLimits { writes: 16_384, bytes: 1 << 20 };

/// What the oracle needs of the service.
#[async_trait]
impl ConsensusDriver for Node {
    fn node(&self) -> NodeId {
        self.id
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.shared.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.shared.lifecycle.check()?;
        self.shared.store.read(wanted).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        commit::commit(&self.shared, base, effect).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.shared.store.evidence().seen(version)
    }

    async fn resign(&self, claim: u64) {
        leadership::resign(&self.shared, claim).await;
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    /// Stops the service's node as well: leadership of the two is one, so that they end together.
    async fn shutdown(&self) -> Result<()> {
        Node::shutdown(self).await
    }
}
