//! A cluster that is asked all the time.

use std::{future::Future, pin::Pin, sync::Arc, time::Duration};

use anyhow::{Context, Result, anyhow, bail, ensure};
use tokio::task::JoinSet;
use tsoracle_core::{Clock, Grant, SeqBlock, SeqKey, SeqRequest, SystemClock};

use crate::{Cluster, Service, fixture::the, load::Load, suite::Make};

/// How many nodes a cluster has, unless a check is about more.
pub(super) const NODES: usize = 3;

/// How long a cluster may take to serve again once nothing is wrong any more, on a machine that does other things
/// meanwhile. Processes may have to start first.
const PATIENCE: Duration = Duration::from_secs(20);

/// How long a cluster may take until it serves in spite of a fault, on a machine that does other things
/// meanwhile: on one that does not it takes 2.5 s at most, which `make failover` measures.
const YIELDED: Duration = Duration::from_secs(10);

/// How much is asked of a cluster before and after each fault.
const CALLS: usize = 100;

/// How long a node may take to answer a question whether it leads.
const SOON: Duration = Duration::from_millis(300);

/// How many entries one request has that is to write much, and how many bytes their keys have.
const MANY: usize = 100;
const LONG_KEY: usize = 100;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A cluster under load.
pub(in crate::checks) struct Loaded {
    pub(super) cluster: Cluster,
    nodes: Vec<Arc<dyn Service>>,
    load: Load,
}

/// What a check does with it.
pub(in crate::checks) type Body =
    for<'a> fn(&'a mut Loaded) -> Pin<Box<dyn Future<Output = Result<()>> + Send + 'a>>;

/// Starts a cluster, does something to it, and checks what its callers saw.
pub(in crate::checks) async fn under_load(
    count: usize,
    make: Make<Cluster>,
    body: Body,
) -> Result<()> {
    let cluster = make();
    let nodes = cluster.launch.run(count).await.context("the cluster did not start")?;
    let client = match &cluster.client {
        Some(client) => Some(client.run(()).await?),
        None => None,
    };
    let mut loaded = Loaded { load: Load::start(&nodes, client), nodes, cluster };
    let outcome = match loaded.run(body).await {
        Ok(()) => loaded.load.finish().await,
        // A promise that was broken is the worse of two failures.
        Err(error) => loaded.load.judge().and(Err(error)),
    };
    match (outcome, &loaded.cluster.report) {
        (Err(error), Some(report)) => Err(anyhow!("{error:#}\n\n{}", report.run(()).await?)),
        (outcome, _) => outcome,
    }
}

impl Loaded {
    async fn run(&mut self, body: Body) -> Result<()> {
        self.serve().await.context("after the start")?;
        body(self).await
    }

    /// The node, as its clients see it.
    pub(super) fn node(&self, node: usize) -> Arc<dyn Service> {
        self.nodes[node].clone()
    }

    /// Waits until many more calls have been answered.
    pub(super) async fn serve(&self) -> Result<()> {
        ensure!(self.serves(PATIENCE).await, "the cluster does not serve");
        Ok(())
    }

    /// Waits until some node grants timestamps, and some one blocks, though nothing is mended, and then many
    /// more calls are answered.
    pub(super) async fn serve_all_the_same(&self) -> Result<()> {
        let mut asking = JoinSet::new();
        for node in 0..self.nodes.len() {
            let node = self.node(node);
            asking.spawn(async move {
                while !gives_all(&node).await {
                    SystemClock.sleep(LOOK).await;
                }
            });
        }
        let asked = tokio::time::timeout(YIELDED, asking.join_next());
        ensure!(asked.await.is_ok(), "no node serves within {YIELDED:?}");
        ensure!(self.serves(YIELDED).await, "one node has served, and goes on too slowly");
        Ok(())
    }

    /// How many calls have been answered.
    pub(super) fn answered(&self) -> usize {
        self.load.answered()
    }

    /// Whether many more calls are answered within `patience`.
    pub(super) async fn serves(&self, patience: Duration) -> bool {
        let goal = self.load.answered() + CALLS;
        let until = SystemClock.now().boot + patience;
        while self.load.answered() < goal {
            if SystemClock.now().boot >= until {
                return false;
            }
            SystemClock.sleep(LOOK).await;
        }
        true
    }

    /// Lets time pass, in which there is nothing to be waited for.
    pub(super) async fn pass(&self, time: Duration) {
        SystemClock.sleep(time).await;
    }

    /// The node that serves, and what it granted.
    pub(super) async fn leader(&self) -> Result<(usize, Grant)> {
        self.leader_besides(None).await
    }

    /// As [`leader`](Self::leader), once it is another one than `old`.
    pub(super) async fn leader_besides(&self, old: Option<usize>) -> Result<(usize, Grant)> {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            for node in (0..self.nodes.len()).filter(|&node| Some(node) != old) {
                if let Some(granted) = ask(&self.node(node)).await {
                    return Ok((node, granted));
                }
            }
            ensure!(SystemClock.now().boot < until, "no node serves, except maybe {old:?}");
            SystemClock.sleep(LOOK).await;
        }
    }

    /// Has the leader transfer leadership, and returns what it had granted before. On a slow machine no node may
    /// be elected in time; then it is asked again.
    pub(super) async fn transfer(&mut self) -> Result<Grant> {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            let (leader, granted) = self.leader().await?;
            match the(&self.cluster.transfer)?.run(leader).await {
                Ok(()) => return Ok(granted),
                Err(error) if error.is_retryable() && SystemClock.now().boot < until => {}
                Err(error) => return Err(error).context("leadership was not transferred"),
            }
        }
    }

    /// The answer to a request, from whichever node gives one.
    pub(super) async fn sequence(&self, request: SeqRequest) -> Result<Vec<SeqBlock>> {
        Ok(self.sequence_of(None, request).await?.1)
    }

    /// As [`sequence`](Self::sequence), from a node that may lead still, or the one that does then.
    async fn sequence_of(
        &self,
        mut leader: Option<usize>,
        request: SeqRequest,
    ) -> Result<(usize, Vec<SeqBlock>)> {
        let until = SystemClock.now().boot + PATIENCE;
        while SystemClock.now().boot < until {
            let node = match leader.take() {
                Some(node) => node,
                None => self.leader().await?.0,
            };
            match self.node(node).get_seq(request.clone()).await {
                Ok(grant) => return Ok((node, grant.blocks)),
                Err(error) if error.is_retryable() => {}
                Err(error) => return Err(error).context("the request was refused"),
            }
        }
        bail!("the request was not answered")
    }

    /// Has some callers commit as much as one request may, one after the other, until what is returned goes.
    pub(super) fn write_much(&self) -> Result<JoinSet<()>> {
        let mut writing = JoinSet::new();
        for (number, node) in self.nodes.iter().enumerate() {
            let node = node.clone();
            // Always the same ones, so that the state stays small.
            let name = |entry| format!("{number}-{entry}-{}", "x".repeat(LONG_KEY));
            let entries = (0..MANY).map(|entry| Ok((SeqKey::new(name(entry))?, 1)));
            let request = SeqRequest::new(entries.collect::<Result<_>>()?, None)?;
            writing.spawn(async move {
                loop {
                    let asked = tokio::time::timeout(SOON, node.get_seq(request.clone()));
                    let pause = if matches!(asked.await, Ok(Ok(_))) { LOOK } else { SOON / 10 };
                    SystemClock.sleep(pause).await;
                }
            });
        }
        Ok(writing)
    }

    /// Makes commits, one after the other.
    pub(super) async fn commit(&self, commits: usize) -> Result<()> {
        let mut leader = None;
        for _ in 0..commits {
            let request = SeqRequest::single(SeqKey::new("commits")?, 1)?;
            leader = Some(self.sequence_of(leader, request).await?.0);
        }
        Ok(())
    }
}

/// Whether a node gives a timestamp and a block, in a time that a slow one needs.
async fn gives_all(node: &Arc<dyn Service>) -> bool {
    let key = SeqKey::new("all the same").and_then(|key| SeqRequest::single(key, 1));
    let Ok(request) = key else { return false };
    let asked = async { node.get_ts(1).await.is_ok() && node.get_seq(request).await.is_ok() };
    tokio::time::timeout(SOON * 10, asked).await.unwrap_or(false)
}

/// One timestamp, if the node gives one soon.
pub(super) async fn ask(node: &Arc<dyn Service>) -> Option<Grant> {
    tokio::time::timeout(SOON, node.get_ts(1)).await.ok().and_then(Result::ok)
}
