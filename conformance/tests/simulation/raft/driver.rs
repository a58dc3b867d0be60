//! The driver over a replica.

use std::sync::{Arc, Mutex};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tsoracle_core::{
    BootTime, CommitLimits, ConsensusDriver, Effect, Error, ErrorKind, Leadership, NodeId, Outcome,
    Reads, Result, Snapshot, Version,
};

use super::{Event, replica::Replica};
use crate::{
    clock::NodeClock,
    disk::Commit,
    evidence::Evidence,
    fate::carry_out,
    flaw::Flaw,
    gate::Gate,
    herald::{self, Herald},
    world::{LIMITS, Point, World},
};

#[derive(Debug)]
pub(crate) struct RaftDriver {
    world: Arc<World>,
    me: usize,
    gate: Gate,
    inbox: mpsc::UnboundedSender<Event>,
    leadership: watch::Receiver<Leadership>,
    evidence: Arc<Mutex<Evidence>>,
}

/// Starts a replica from what its disk holds, and the driver over it.
pub(crate) fn start(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
    clock: &NodeClock,
    tasks: &mut JoinSet<()>,
) -> (Arc<RaftDriver>, mpsc::UnboundedSender<Event>) {
    let (inbox, events) = mpsc::unbounded_channel();
    let (known, leadership) = watch::channel(Leadership::Unknown);
    let (herald, told) = Herald::new();
    let evidence = world.evidence();
    let replica = Replica::load(world.clone(), me, clock.clone(), evidence.clone(), herald);
    let (running, telling) = (gate.clone(), gate.clone());
    tasks.spawn(async move { running.run(replica.run(events)).await });
    let spreading = herald::spread(world.clone(), told, known);
    tasks.spawn(async move { telling.run(spreading).await });
    let (world, gate) = (world.clone(), gate.clone());
    let driver = RaftDriver { world, me, gate, inbox: inbox.clone(), leadership, evidence };
    (Arc::new(driver), inbox)
}

#[async_trait]
impl ConsensusDriver for RaftDriver {
    fn node(&self) -> NodeId {
        NodeId(self.me as u128 + 1)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let wanted = wanted.clone();
        let reading = async {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Event::Read { wanted, reply }).map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        self.gate.run(reading).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let (inbox, commit) = (self.inbox.clone(), Commit::new(base, effect));
        let next = commit.next;
        let committing = async move {
            let (reply, answer) = oneshot::channel();
            inbox.send(Event::Commit { commit, reply }).map_err(|_| stopped())?;
            let lost = || Error::new(ErrorKind::Uncertain, "the replica stopped meanwhile");
            answer.await.unwrap_or_else(|_| Err(lost()))
        };
        carry_out(&self.world, self.me, &self.gate, next, committing).await
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.evidence.lock().unwrap().seen(version)
    }

    async fn resign(&self, claim: u64) {
        if !self.world.has(Flaw::NeverResigns) {
            let asking = async {
                self.world.hazard(self.me, Point::Submitted).await;
                // A replica that has stopped leads no more.
                let _ = self.inbox.send(Event::Resign { claim });
            };
            self.gate.run(asking).await;
        }
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    async fn shutdown(&self) -> Result<()> {
        let stopping = async {
            let (reply, stopped) = oneshot::channel();
            if self.inbox.send(Event::Stop { reply }).is_ok() {
                // If the reply is dropped, it has stopped as well.
                let _ = stopped.await;
            }
        };
        self.gate.run(stopping).await;
        Ok(())
    }
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}
