//! A new driver that a whole state is brought into. Until that is done, nothing else opens it.

use std::{collections::BTreeSet, sync::Arc};

use futures::future::{join_all, select_ok};
use serde::Deserialize;
use tsoracle_core::{
    ConsensusDriver, DriverConfig, Error, OpenContext, SystemClock, wait_until_leader,
};

use crate::{
    drivers::{self, ELECTION},
    failure::Failure,
    unfinished::{self, Mark},
};

/// What tells a node of a cluster from the others.
#[derive(Deserialize)]
struct Place {
    node: Option<toml::Value>,
    peers: Option<String>,
}

/// That several targets are the nodes of one cluster, all of them. Otherwise one of them would be left empty, and serve as
/// a new state.
pub(crate) fn check(to: &[DriverConfig]) -> Result<(), Failure> {
    let [first, rest @ ..] = to else { return Ok(()) };
    if rest.is_empty() {
        return Ok(());
    }
    let wrong = || {
        Failure::usage(
            "several targets are the nodes of one cluster: of one driver, with the same peers, each with its own \
             node, and as many as there are peers",
        )
    };
    let peers = first.options::<Place>().ok().and_then(|place| place.peers).ok_or_else(wrong)?;
    let mut nodes = BTreeSet::new();
    for config in to {
        let Ok(Place { node: Some(node), peers: Some(same) }) = config.options() else {
            return Err(wrong());
        };
        if config.name() != first.name() || same != peers || !nodes.insert(node.to_string()) {
            return Err(wrong());
        }
    }
    match peers.split(',').filter(|peer| !peer.trim().is_empty()).count() == to.len() {
        true => Ok(()),
        false => Err(wrong()),
    }
}

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
