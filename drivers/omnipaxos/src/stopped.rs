//! The state of a node that is stopped.

use std::path::Path;

use tsoracle_core::{BootTime, Result, StoppedState};
use tsoracle_replica::{Replica, stopped};

use crate::{driver::NAME, log::Log, node::read_applied};

/// The state of a stopped node, with everything of its log.
pub(crate) fn read_stopped(path: &Path) -> Result<StoppedState> {
    stopped(path, NAME, apply)
}

fn apply(replica: &mut Replica) -> Result<()> {
    let applied = replica.applied().map_or(Ok(0), read_applied)?;
    let log = Log::open(replica.store())?;
    for commit in log.range(applied, log.end()) {
        let entry = commit.decode()?;
        // One that conflicts changes nothing, as in the cluster.
        let _ = replica.apply(entry.base(), entry.into_effect(), BootTime::default())?;
    }
    Ok(())
}
