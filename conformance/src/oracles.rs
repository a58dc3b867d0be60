//! Oracles over the driver under test, for the few checks that run the whole engine.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result};
use tokio::time::timeout;
use tsoracle_core::{
    Clock, ConsensusDriver, ManualClock, Now, Oracle, OracleOptions, Phase, SystemClock,
};

use crate::model::PATIENCE;

/// A wall clock, in milliseconds.
pub(crate) const NOON_MS: u64 = 1_800_000_000_000;

/// The leader lease of oracles on a clock that the check moves.
const LEASE: Duration = Duration::from_secs(1);

/// A clock that the check moves. Its boot clock starts with the machine's, by which drivers tell when
/// they saw a write.
pub(crate) fn clock(wall_ms: u64) -> ManualClock {
    ManualClock::starting_at(Now { wall_ms, boot: SystemClock.now().boot })
}

/// An oracle over `driver`, on a clock that the check moves.
pub(crate) fn oracle(driver: Arc<dyn ConsensusDriver>, clock: &ManualClock) -> Result<Oracle> {
    let options =
        OracleOptions { clock: Arc::new(clock.clone()), lease: LEASE, ..OracleOptions::default() };
    Ok(Oracle::start(driver, options)?)
}

/// Waits until an oracle on the machine's clock serves. It may have to be elected, and to wait for the
/// lease of a node that was killed.
pub(crate) async fn serves(oracle: &Oracle) -> Result<()> {
    let mut phase = oracle.phase();
    let serving = phase.wait_for(|phase| matches!(phase, Phase::Serving { .. }));
    timeout(PATIENCE, serving).await.context("no reign was opened")?.context("it has ended")?;
    Ok(())
}

/// Lets a little time pass for an oracle that is to do something by itself.
pub(crate) async fn pass(clock: &ManualClock, oracle: &Oracle) {
    clock.advance(Duration::from_millis(10));
    // The engine and the driver have work of their own to do meanwhile.
    let mut phase = oracle.phase();
    drop(timeout(Duration::from_millis(2), phase.changed()).await);
}
