//! Several nodes, on real clocks, while callers ask all of them.

use std::{sync::Arc, time::Duration};

use anyhow::{Context, Result, bail, ensure};
use tsoracle_core::{Clock, Granted, RequestId, SeqKey, SeqRequest, Session, SystemClock};

use crate::{Cluster, Service, load::Load, rig::Rig};

checks!("cluster":
    a_cluster_serves_after_its_start [Cluster],
    one_node_serves_at_a_time [Cluster],
    another_node_serves_after_the_leader_was_killed [Cluster],
    a_second_failover_ends_as_the_first_did [Cluster],
    a_stopped_follower_is_not_missed [Cluster],
    everything_is_there_after_all_were_killed [Cluster],
    order_holds_through_a_rolling_restart [Cluster],
    a_leader_paused_past_its_lease_refuses_when_resumed [Cluster, Pause],
    a_leader_cut_off_from_the_others_stops_granting [Cluster, Partition],
);

const NODES: usize = 3;

/// How long a cluster may take to serve again. It is there for what never does.
const PATIENCE: Duration = Duration::from_secs(40);

/// How much is asked of a cluster before and after each fault.
const CALLS: usize = 100;

/// How often a condition is looked at.
const LOOK: Duration = Duration::from_millis(5);

/// A cluster under load.
struct Loaded {
    cluster: Box<dyn Cluster>,
    load: Load,
}

impl Loaded {
    async fn start(rig: Rig) -> Result<Self> {
        let cluster = rig.harness.cluster(NODES).await?;
        let nodes: Vec<_> = (0..NODES).map(|node| cluster.service(node)).collect();
        let loaded = Self { load: Load::start(&nodes), cluster };
        loaded.serve().await?;
        Ok(loaded)
    }

    /// Waits until many more calls have been answered.
    async fn serve(&self) -> Result<()> {
        let goal = self.load.answered() + CALLS;
        let until = SystemClock.now().boot + PATIENCE;
        while self.load.answered() < goal {
            ensure!(SystemClock.now().boot < until, "the cluster does not serve");
            SystemClock.sleep(LOOK).await;
        }
        Ok(())
    }

    /// The node that serves, and what it granted.
    async fn leader(&self) -> Result<(usize, Granted)> {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            for node in 0..NODES {
                if let Some(granted) = ask(&self.cluster.service(node)).await {
                    return Ok((node, granted));
                }
            }
            ensure!(SystemClock.now().boot < until, "no node serves");
            SystemClock.sleep(LOOK).await;
        }
    }

    /// As [`leader`](Self::leader), once it is another one than `old`.
    async fn leader_besides(&self, old: usize) -> Result<(usize, Granted)> {
        let until = SystemClock.now().boot + PATIENCE;
        loop {
            for node in (0..NODES).filter(|&node| node != old) {
                if let Some(granted) = ask(&self.cluster.service(node)).await {
                    return Ok((node, granted));
                }
            }
            ensure!(SystemClock.now().boot < until, "no node but {old} serves");
            SystemClock.sleep(LOOK).await;
        }
    }

    async fn finish(self) -> Result<()> {
        self.load.finish().await
    }
}

/// One timestamp, if the node gives one soon.
async fn ask(node: &Arc<dyn Service>) -> Option<Granted> {
    let asked = tokio::time::timeout(Duration::from_millis(300), node.get_ts(1));
    asked.await.ok().and_then(Result::ok)
}

async fn a_cluster_serves_after_its_start(rig: Rig) -> Result<()> {
    Loaded::start(rig).await?.finish().await
}

async fn one_node_serves_at_a_time(rig: Rig) -> Result<()> {
    let loaded = Loaded::start(rig).await?;
    let (leader, granted) = loaded.leader().await?;
    for node in (0..NODES).filter(|&node| node != leader) {
        if let Some(other) = ask(&loaded.cluster.service(node)).await {
            // The leadership may have changed in between.
            ensure!(other.epoch > granted.epoch, "{leader} and {node} serve under one epoch");
            ensure!(other.range.first() > granted.range.last(), "{node} granted {other:?}");
        }
    }
    loaded.finish().await
}

async fn another_node_serves_after_the_leader_was_killed(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    let (old, before) = loaded.leader().await?;
    loaded.cluster.kill(old).await?;
    let (new, after) = loaded.leader().await?;
    ensure!(new != old, "the node that was killed serves");
    ensure!(after.epoch > before.epoch, "epoch {} came after {}", after.epoch, before.epoch);
    loaded.serve().await?;
    loaded.finish().await
}

async fn a_second_failover_ends_as_the_first_did(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    for _ in 0..4 {
        let (old, _) = loaded.leader().await?;
        loaded.cluster.kill(old).await?;
        loaded.leader_besides(old).await?;
        loaded.serve().await?;
        loaded.cluster.start(old).await?;
        loaded.serve().await?;
    }
    loaded.finish().await
}

async fn a_stopped_follower_is_not_missed(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    let (leader, _) = loaded.leader().await?;
    let follower = (leader + 1) % NODES;
    loaded.cluster.stop(follower).await?;
    loaded.serve().await?;
    loaded.cluster.start(follower).await?;
    loaded.serve().await?;
    loaded.finish().await
}

async fn everything_is_there_after_all_were_killed(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    let (leader, before) = loaded.leader().await?;
    let request = SeqRequest::new(
        vec![(SeqKey::new("orders")?, 5)],
        Some(RequestId::new(Session::from_text("before"), 1, 1)?),
    )?;
    let block = loaded.cluster.service(leader).get_seq(request.clone()).await?.blocks;
    for node in 0..NODES {
        loaded.cluster.kill(node).await?;
    }
    for node in 0..NODES {
        loaded.cluster.start(node).await?;
    }
    loaded.serve().await?;
    let (_, after) = loaded.leader().await?;
    ensure!(after.range.first() > before.range.last(), "{after:?} came after {before:?}");
    let again = again(&loaded, request).await?;
    ensure!(again == block, "the same request got {block:?}, and then {again:?}");
    loaded.finish().await
}

/// The answer to a request that has an id, from whichever node gives one.
async fn again(loaded: &Loaded, request: SeqRequest) -> Result<Vec<tsoracle_core::SeqBlock>> {
    let until = SystemClock.now().boot + PATIENCE;
    while SystemClock.now().boot < until {
        let (leader, _) = loaded.leader().await?;
        match loaded.cluster.service(leader).get_seq(request.clone()).await {
            Ok(grant) => return Ok(grant.blocks),
            Err(error) if error.is_retryable() => {}
            Err(error) => return Err(error).context("the request was refused"),
        }
    }
    bail!("the request was not answered")
}

async fn order_holds_through_a_rolling_restart(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    for node in 0..NODES {
        loaded.cluster.stop(node).await?;
        loaded.serve().await?;
        loaded.cluster.start(node).await?;
        loaded.serve().await?;
    }
    loaded.finish().await
}

async fn a_leader_paused_past_its_lease_refuses_when_resumed(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    let (old, _) = loaded.leader().await?;
    loaded.cluster.pause(old).await?;
    let (_, new) = loaded.leader_besides(old).await?;
    loaded.cluster.resume(old).await?;
    if let Some(granted) = ask(&loaded.cluster.service(old)).await {
        ensure!(granted.range.first() > new.range.last(), "{new:?}, and then resumed {granted:?}");
        ensure!(granted.epoch > new.epoch, "it serves under its old epoch: {granted:?}");
    }
    loaded.serve().await?;
    loaded.finish().await
}

async fn a_leader_cut_off_from_the_others_stops_granting(rig: Rig) -> Result<()> {
    let mut loaded = Loaded::start(rig).await?;
    let (old, _) = loaded.leader().await?;
    loaded.cluster.cut_off(old).await?;
    let (_, new) = loaded.leader_besides(old).await?;
    let granted = ask(&loaded.cluster.service(old)).await;
    ensure!(granted.is_none(), "{new:?}, and then the one that is cut off: {granted:?}");
    loaded.serve().await?;
    loaded.cluster.heal(old).await?;
    loaded.serve().await?;
    loaded.finish().await
}
