//! A node's store at work: what its thread and its disk are in a real one.

use std::sync::Arc;

use tsoracle_openraft::simulation::progress;
use tsoracle_replica::{Next, SteppedStore};

use crate::{store_disk::Mounted, world::World};

pub(super) struct Process {
    pub(super) world: Arc<World>,
    pub(super) me: usize,
    pub(super) store: SteppedStore,
    pub(super) disk: Mounted,
    /// How much the node had applied when it was last looked at.
    pub(super) applied: u64,
}

impl Process {
    pub(super) async fn run(mut self) {
        loop {
            let next = self.store.step();
            self.look();
            match next {
                Next::Wait => self.store.asked().await,
                Next::Sync => self.world.end_syncs(self.me, &self.disk).await,
                Next::Stopped => return,
            }
        }
    }

    /// Compares what this node has applied with what others have.
    fn look(&mut self) {
        let replica = self.store.replica();
        let (applied, _) = progress(replica).expect("it has noted how far it is");
        if applied != self.applied {
            self.applied = applied;
            self.world.compare(applied, |wanted| replica.read(wanted));
        }
    }
}
