//! The driver over a node.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};
use tsoracle_core::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, Membership,
    NodeId, Result,
    state::{Answer, Command, Query},
};

use super::{Shared, writer::Job};
use crate::{flaw::Flaw, gate::Gate, world::Point};

pub(super) struct KeyValueDriver {
    pub(super) shared: Arc<Shared>,
    pub(super) gate: Gate,
    pub(super) jobs: mpsc::UnboundedSender<Job>,
    pub(super) leadership: watch::Receiver<Leadership>,
}

impl KeyValueDriver {
    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<T>) -> Job) -> Option<T> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).ok()?;
        answer.await.ok()
    }
}

#[async_trait]
impl ConsensusDriver for KeyValueDriver {
    fn node(&self) -> NodeId {
        self.shared.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        let Shared { world, me, .. } = &*self.shared;
        let committing = async {
            world.hazard(*me, Point::Submitted).await;
            let committed = self.ask(|reply| Job::Commit { epoch, commands, reply }).await;
            world.hazard(*me, Point::Committed).await;
            let lost = || Error::new(ErrorKind::Uncertain, "the node stopped meanwhile");
            committed.unwrap_or_else(|| Err(lost()))
        };
        match self.gate.run(committing).await {
            Err(error)
                if *error.kind() == ErrorKind::Uncertain && world.has(Flaw::UncertainIsRefused) =>
            {
                Err(Error::new(ErrorKind::Unavailable, "not committed, as it seems"))
            }
            committed => committed,
        }
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        let stopped = || Error::new(ErrorKind::Unavailable, "the driver has stopped");
        let read = self.gate.run(self.ask(|reply| Job::Read { query, reply })).await;
        read.unwrap_or_else(|| Err(stopped()))
    }

    fn limits(&self) -> CommitLimits {
        CommitLimits { commands: 64, bytes: 1 << 16 }
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    async fn shutdown(&self) -> Result<()> {
        // If the reply is dropped, it has stopped as well.
        self.gate.run(self.ask(|reply| Job::Stop { reply })).await;
        Ok(())
    }
}

impl fmt::Debug for KeyValueDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("KeyValueDriver")
    }
}
