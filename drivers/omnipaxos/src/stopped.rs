//! The state of a node that is stopped.

use std::path::Path;

use tsoracle_core::{BootTime, Result, StoppedState};
use tsoracle_replica::{Replica, stopped};
use tsoracle_store::Store;

use crate::{driver::NAME, log::Log, node::read_applied};

/// The state of a stopped node, with everything of its log: whatever was acknowledged through this node is in there.
pub(crate) fn read_stopped(path: &Path) -> Result<StoppedState> {
    let (store, notes) = Store::inspect(path)?;
    store.belong_to(NAME)?;
    let now = BootTime::default();
    let mut replica = Replica::open(store, now)?;
    let applied = replica.applied().map_or(Ok(0), read_applied)?;
    let log = Log::open(replica.store())?;
    for commit in log.range(applied, log.end()) {
        let entry = commit.decode()?;
        // One that conflicts changes nothing, as in the cluster.
        let _ = replica.apply(entry.base(), entry.into_effect(), now)?;
    }
    stopped(replica, notes)
}
