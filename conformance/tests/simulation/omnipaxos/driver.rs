//! The real driver, with what the simulation does to any of them.

use std::{sync::Arc, time::Duration};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, ErrorKind, Leadership, Membership, NodeId,
    Outcome, Reads, Result, Snapshot, Version,
};
use tsoracle_omnipaxos::OmnipaxosDriver;

use crate::{
    clock::pass,
    fate::carry_out,
    flaw::Flaw,
    gate::Gate,
    reached::Reached,
    world::{LIMITS, Point, World},
};

#[derive(Debug)]
pub(super) struct SimulatedDriver {
    pub(super) world: Arc<World>,
    pub(super) me: usize,
    pub(super) gate: Gate,
    pub(super) inner: Arc<OmnipaxosDriver>,
    pub(super) leadership: watch::Receiver<Leadership>,
}

#[async_trait]
impl ConsensusDriver for SimulatedDriver {
    fn node(&self) -> NodeId {
        self.inner.node()
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.gate.run(self.inner.read(wanted)).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let next = effect.version()?;
        let (world, me, inner) = (self.world.clone(), self.me, self.inner.clone());
        let committing = async move {
            let again = world.doubles_a_commit().then(|| effect.clone());
            let outcome = inner.commit(base, effect).await;
            if world.has(Flaw::AnswersByIndex) && outcome.is_err() {
                return answer_by_index(&world, me, next, outcome).await;
            }
            if let Ok(Outcome::Conflict { .. }) = outcome {
                world.reached(Reached::Conflict);
            }
            if let (Some(again), Ok(Outcome::Stored)) = (again, &outcome) {
                sent_again(&world, inner.commit(base, again).await);
            }
            outcome
        };
        carry_out(&self.world, self.me, &self.gate, next, committing).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        match self.world.has(Flaw::NoWaitForTheLease) {
            true => Some(BootTime::default()),
            false => self.inner.seen(version),
        }
    }

    async fn resign(&self, claim: u64) {
        if self.world.has(Flaw::NeverResigns) {
            return;
        }
        let asking = async {
            self.world.hazard(self.me, Point::Submitted).await;
            self.world.reached(Reached::Resigned);
            self.inner.resign(claim).await;
        };
        self.gate.run(asking).await;
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        self.gate.run(self.inner.shutdown()).await
    }
}

/// What is said of a commit that was stored, and comes to the log once more.
fn sent_again(world: &World, outcome: Result<Outcome>) {
    match outcome {
        Ok(Outcome::Stored) => world.reached(Reached::StoredBefore),
        Ok(Outcome::Conflict { found }) => {
            world.found(format!("a commit that was stored is said to conflict with {found:?}"));
        }
        Err(error) if *error.kind() == ErrorKind::Uncertain => {}
        // It was not even begun, which is true of this copy.
        Err(_) => {}
    }
}

/// Sabotage: waits on, for whatever is applied in the place of the commit.
async fn answer_by_index(
    world: &World,
    me: usize,
    next: Version,
    outcome: Result<Outcome>,
) -> Result<Outcome> {
    let is_applied = || {
        let places = world.nodes[me].places.lock().unwrap();
        places.indexes.get(&next.name).map(|index| *index < places.applied)
    };
    while is_applied() == Some(false) {
        pass(Duration::from_millis(10)).await;
    }
    if is_applied().is_some() { Ok(Outcome::Stored) } else { outcome }
}

/// Passes on who leads, late, and each time only the latest.
pub(super) async fn spread(
    world: Arc<World>,
    mut told: watch::Receiver<Leadership>,
    known: watch::Sender<Leadership>,
) {
    // A node that has failed tells nothing more.
    while told.changed().await.is_ok() {
        let leads = matches!(*known.borrow(), Leadership::Leader { .. });
        pass(world.rumour_time(leads)).await;
        let latest = told.borrow_and_update().clone();
        known.send_replace(latest);
    }
}
