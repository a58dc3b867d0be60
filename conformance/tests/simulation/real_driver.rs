//! A real driver, with what the simulation does to any of them, and what the real ones have in common.

use std::{
    sync::{Arc, OnceLock},
    time::Duration,
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Epoch, Error, ErrorKind, Leadership, NodeId,
    Outcome, Reads, Result, Snapshot, Version,
    state::{REIGN, Record},
};
use tsoracle_replica::Config;

use crate::{
    clock::pass,
    fate::carry_out,
    flaw::Flaw,
    gate::Gate,
    reached::Reached,
    world::{LIMITS, Point, World},
};

#[derive(Debug)]
pub(crate) struct SimulatedDriver {
    pub(crate) world: Arc<World>,
    pub(crate) me: usize,
    pub(crate) gate: Gate,
    /// None until it has opened.
    pub(crate) inner: Arc<OnceLock<Arc<dyn ConsensusDriver>>>,
    pub(crate) leadership: watch::Receiver<Leadership>,
}

/// Who the node of that number is, whichever process runs on it.
pub(crate) fn identity(node: usize) -> NodeId {
    NodeId(node as u128 + 1)
}

/// Nodes of a cluster are numbered from 1.
pub(crate) fn id(node: usize) -> u32 {
    node as u32 + 1
}

pub(crate) fn node(id: u32) -> usize {
    id as usize - 1
}

impl SimulatedDriver {
    fn inner(&self) -> Result<Arc<dyn ConsensusDriver>> {
        let closed = || Error::new(ErrorKind::Unavailable, "the driver is not open yet");
        self.inner.get().cloned().ok_or_else(closed)
    }
}

#[async_trait]
impl ConsensusDriver for SimulatedDriver {
    fn node(&self) -> NodeId {
        identity(self.me)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.gate.run(self.inner()?.read(wanted)).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let next = effect.version()?;
        let (world, me, inner) = (self.world.clone(), self.me, self.inner()?);
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
            false => self.inner().ok()?.seen(version),
        }
    }

    async fn resign(&self, claim: u64) {
        let Ok(inner) = self.inner() else { return };
        if self.world.has(Flaw::NeverResigns) {
            return;
        }
        let asking = async {
            self.world.hazard(self.me, Point::Submitted).await;
            self.world.reached(Reached::Resigned);
            inner.resign(claim).await;
        };
        self.gate.run(asking).await;
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    async fn shutdown(&self) -> Result<()> {
        match self.inner() {
            Ok(inner) => self.gate.run(inner.shutdown()).await,
            Err(_) => Ok(()),
        }
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
pub(crate) async fn spread(
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

pub(crate) fn config(world: &World, me: usize) -> Config {
    let peer = |node| format!("{0}=127.0.0.1:{0}/h:{0}", id(node));
    let (heartbeat, election) = world.temper.beats;
    let (snapshot_every, log_keep) = world.temper.keeps;
    Config {
        path: world.directory.path().join(me.to_string()),
        node: id(me),
        peers: (0..world.nodes.len()).map(peer).collect::<Vec<_>>().join(","),
        heartbeat,
        election,
        snapshot_every,
        log_keep,
        ..Config::default()
    }
}

impl World {
    /// Compares what a node has applied with what others have: the first `applied` entries of its log.
    pub(crate) fn compare(&self, applied: u64, read: impl FnOnce(&Reads) -> Result<Snapshot>) {
        let wanted = Reads { keys: vec![REIGN.into()], ranges: vec![] };
        let read = read(&wanted).expect("memory does not fail");
        let reign: Option<Epoch> = read.values.into_iter().flatten().next().map(|bytes| {
            match Record::decode(REIGN, bytes) {
                Ok(Record::Reign(record)) => record.epoch,
                other => panic!("the reign record is none, but {other:?}"),
            }
        });
        self.has_applied(applied, read.version, reign);
    }
}
