//! The driver over a replica.

use std::sync::Arc;

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::JoinSet,
};
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, Membership,
    NodeId, Result,
    state::{Answer, Command, Query},
};

use super::{Event, replica::Replica};
use crate::{
    clock::NodeClock,
    flaw::Flaw,
    gate::Gate,
    herald::{self, Herald},
    world::{Point, World},
};

#[derive(Debug)]
pub(crate) struct RaftDriver {
    world: Arc<World>,
    me: usize,
    gate: Gate,
    inbox: mpsc::UnboundedSender<Event>,
    leadership: watch::Receiver<Leadership>,
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
    let disk = world.nodes[me].disk.clone();
    let replica = Replica::load(world.clone(), me, clock.clone(), disk, herald);
    let (running, telling) = (gate.clone(), gate.clone());
    tasks.spawn(async move { running.run(replica.run(events)).await });
    let spreading = herald::spread(world.clone(), told, known);
    tasks.spawn(async move { telling.run(spreading).await });
    let (world, gate) = (world.clone(), gate.clone());
    (Arc::new(RaftDriver { world, me, gate, inbox: inbox.clone(), leadership }), inbox)
}

#[async_trait]
impl ConsensusDriver for RaftDriver {
    fn node(&self) -> NodeId {
        NodeId(self.me as u128 + 1)
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let committing = async {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Event::Commit { epoch, commands, reply }).map_err(|_| stopped())?;
            self.world.hazard(self.me, Point::Submitted).await;
            let lost = || Error::new(ErrorKind::Uncertain, "the replica stopped meanwhile");
            let committed = answer.await.unwrap_or_else(|_| Err(lost()));
            self.world.hazard(self.me, Point::Committed).await;
            committed
        };
        match self.gate.run(committing).await {
            Err(error)
                if *error.kind() == ErrorKind::Uncertain
                    && self.world.has(Flaw::UncertainIsRefused) =>
            {
                Err(Error::new(ErrorKind::Unavailable, "not committed, as it seems"))
            }
            committed => committed,
        }
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        let reading = async {
            let (reply, answer) = oneshot::channel();
            self.inbox.send(Event::Read { query, reply }).map_err(|_| stopped())?;
            answer.await.map_err(|_| stopped())?
        };
        self.gate.run(reading).await
    }

    fn limits(&self) -> CommitLimits {
        CommitLimits { commands: 64, bytes: 1 << 16 }
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
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
