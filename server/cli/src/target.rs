//! A new driver that a whole state is brought into. Until that is done, nothing else opens it.

use std::sync::Arc;

use futures::future::{join_all, select_ok};
use tsoracle_core::{
    ConsensusDriver, DriverConfig, Error, OpenContext, SystemClock, wait_until_leader,
};

use crate::{
    drivers::{self, ELECTION},
    failure::Failure,
    unfinished::{self, Mark},
};

/// The nodes of the target, one of which leads.
#[derive(Debug)]
pub(crate) struct Target {
    nodes: Vec<Arc<dyn ConsensusDriver>>,
    leader: usize,
    /// On the directories, until the state is whole.
    marks: Vec<Mark>,
}

impl Target {
    pub(crate) async fn open(to: &[DriverConfig]) -> Result<Self, Failure> {
        let mut target = Self { nodes: Vec::new(), leader: 0, marks: Vec::new() };
        match target.lead(to).await {
            Ok(()) => Ok(target),
            Err(failure) => {
                // It did not even lead; that it does not stop either would tell nothing more.
                let _ = target.shutdown().await;
                target.marks.into_iter().for_each(Mark::undo);
                Err(failure)
            }
        }
    }

    /// Opens all nodes, and waits until one leads.
    async fn lead(&mut self, to: &[DriverConfig]) -> Result<(), Failure> {
        for config in to {
            self.marks.extend(unfinished::mark(config)?);
        }
        for config in to {
            let opened = drivers::open_target(config.clone(), OpenContext::default()).await;
            self.nodes.push(opened.map_err(|failure| failure.about("target"))?);
        }
        let standing = self.nodes.iter().enumerate().map(|(index, node)| {
            Box::pin(async move {
                wait_until_leader(&**node, &SystemClock, ELECTION).await.map(|_| index)
            })
        });
        let (leader, _) = select_ok(standing).await.map_err(|error| {
            Failure::failed(format!(
                "{error:#}; a target of several nodes needs all of them to be named, or for openraft \
                 take one of a single node, and let it grow by `tsoracle cluster add`"
            ))
        })?;
        self.leader = leader;
        Ok(())
    }

    pub(crate) fn leader(&self) -> &Arc<dyn ConsensusDriver> {
        &self.nodes[self.leader]
    }

    /// Stops the nodes, over a state that is whole.
    pub(crate) async fn finish(self) -> Result<(), Failure> {
        self.shutdown().await?;
        self.marks.into_iter().try_for_each(Mark::remove)
    }

    /// Stops the nodes, over a state that is not whole.
    pub(crate) async fn shutdown(&self) -> Result<(), Error> {
        let stopped = join_all(self.nodes.iter().map(|node| node.shutdown())).await;
        stopped.into_iter().collect()
    }
}
