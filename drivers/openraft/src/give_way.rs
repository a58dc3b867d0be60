//! Leadership goes to another node: as an operator asks for, at a shutdown, or since this one cannot commit.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use tsoracle_core::{Error, ErrorKind, Leadership, Result};
use tsoracle_replica::handover::{self, Handover};

use crate::{
    elections,
    shared::Shared,
    types::{Metrics, peer_id},
    wire::CAMPAIGN,
};

/// How long a node has to answer that it campaigns.
const ANSWERED: Duration = Duration::from_millis(500);

/// How often to look whether another node leads.
const LOOK: Duration = Duration::from_millis(2);

/// Has a node lead that votes, or any.
pub(crate) async fn transfer(shared: &Shared, to: Option<u64>) -> Result<()> {
    let _alone = shared.changing.lock().await;
    let voters = other_voters(shared, &shared.metrics());
    match to {
        Some(to) if to == shared.node() => return Ok(()),
        Some(to) if !voters.contains(&to) => {
            return Err(invalid(format!("node {to} has no vote, so it cannot lead")));
        }
        None if voters.is_empty() => {
            return Err(invalid("there is no other node that votes".into()));
        }
        _ => {}
    }
    let _leaving = Leaving::new(shared);
    hand_over(shared, to).await
}

/// No commit is begun for as long as it lives.
struct Leaving<'a>(&'a Shared);

impl<'a> Leaving<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.leave();
        Self(shared)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leaving.fetch_sub(1, Ordering::AcqRel);
        self.0.transfers.send_modify(|transfers| *transfers += 1);
    }
}

/// Has another voter lead, which campaigns at once. This node grants it its vote, so that a cluster of
/// three does not wait for a third one.
pub(crate) async fn hand_over(shared: &Shared, to: Option<u64>) -> Result<()> {
    let _restored = Heartbeats(shared);
    let cluster = &shared.cluster;
    let deadline = elections::vote_lease(cluster) + cluster.election * 2 + ANSWERED;
    handover::hand_over(shared, &*shared.clock, to.map(peer_id), deadline).await.map(drop)
}

/// Has another node lead, since this one cannot renew its lease: if it still leads under `claim`, and
/// another node votes. The claim is over then, whoever leads next.
pub(crate) async fn resign(shared: &Arc<Shared>, claim: u64) {
    let own = shared.clone();
    let resigning = shared.tasks.spawn(async move {
        if *own.leadership.borrow() == (Leadership::Leader { claim }) {
            give_way(&own).await;
        }
    });
    // It fails only if the node has ended.
    let _ = resigning.await;
}

/// For how many election times a leader that gives way is silent at least, so that every other node has
/// had time to campaign, a second time where the votes were split.
const CHANCE: u32 = 4;

/// Sends neither heartbeats nor entries, so that others are elected, and has one campaign at once. That is
/// not waited for: it may be the one that cannot. If no other node leads in the end, this one goes on once it has
/// written durably, under a new claim.
pub(crate) async fn give_way(shared: &Arc<Shared>) {
    let Some(successor) = any_successor(shared) else { return };
    tracing::warn!("this leader cannot commit, and is silent until another node leads");
    let (_leaving, _restored) = (Leaving::new(shared), Heartbeats(shared));
    shared.fall_silent();
    // Ends the claim.
    shared.transfers.send_modify(|transfers| *transfers += 1);
    let clock = &*shared.clock;
    let until = clock.now().boot + shared.cluster.election * CHANCE;
    let own = shared.clone();
    shared.tasks.spawn(async move {
        // Who has only just heard of this leader would refuse its vote.
        own.clock.sleep(elections::vote_lease(&own.cluster)).await;
        let asked = own.transport.call(successor, CAMPAIGN, bytes::Bytes::new(), ANSWERED).await;
        if let Err(error) = asked {
            tracing::debug!(error = %format_args!("{error:#}"), successor, "the node does not campaign");
        }
    });
    let writing = shared.store.write(vec![]);
    let passed = async {
        while shared.successor().is_none() {
            clock.sleep(LOOK).await;
        }
    };
    let goes_on = async {
        // A store that has failed ends the node.
        let _ = writing.await;
        clock.sleep_until(until).await;
    };
    tokio::select! {
        biased;
        () = passed => tracing::info!(successor = ?shared.successor(), "another node leads"),
        () = shared.lifecycle.stopping() => {}
        () = goes_on => tracing::warn!("no other node was elected; this leader goes on"),
    }
}

/// Any of the other voters that hold all that is applied here, and so can be elected; or the one that is furthest.
///
/// Not always the furthest: two nodes that cannot commit, and are ahead of all others, would have each other lead for
/// ever.
fn any_successor(shared: &Shared) -> Option<u32> {
    let applied = shared.metrics().last_applied.map_or(0, |id| id.index + 1);
    let (progress, _) = shared.progress();
    let able: Vec<_> = progress.iter().filter(|(_, held)| **held >= applied).collect();
    let drawn = shared.random.draw() % (able.len().max(1) as u128);
    let furthest = || progress.iter().max_by_key(|(_, held)| **held);
    able.get(drawn as usize).copied().or_else(furthest).map(|(&node, _)| node)
}

/// Sends entries and heartbeats again when it goes.
struct Heartbeats<'a>(&'a Shared);

impl Drop for Heartbeats<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
        self.0.is_silent.store(false, Ordering::Release);
    }
}

#[async_trait]
impl Handover for Shared {
    fn progress(&self) -> (BTreeMap<u32, u64>, u64) {
        let metrics = self.metrics();
        let held = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let voters = other_voters(self, &metrics).into_iter();
        let progress = voters.map(|voter| (peer_id(voter), held(matched(&metrics, voter))));
        (progress.collect(), held(metrics.last_log_index))
    }

    fn successor(&self) -> Option<u32> {
        self.leader(&self.metrics()).map(peer_id)
    }

    /// Nodes that hear from this leader grant no other their vote for a while, nor does this leader while
    /// it has only just been elected: so it sends neither entries nor heartbeats, and waits. Where its own vote is enough,
    /// and its disk can take it, only for the latter.
    async fn campaign(&self, node: u32) -> Result<()> {
        self.fall_silent();
        let lease = elections::vote_lease(&self.cluster);
        let votes = self.store.stalled_for() < lease;
        let heard = match other_voters(self, &self.metrics()).len() {
            ..=2 if votes => self.elected.silence(),
            _ => Duration::ZERO,
        };
        self.clock.sleep(lease.saturating_sub(heard)).await;
        self.transport.call(node, CAMPAIGN, bytes::Bytes::new(), ANSWERED).await.map(drop)
    }
}

fn other_voters(shared: &Shared, metrics: &Metrics) -> BTreeSet<u64> {
    let voters = metrics.membership_config.membership().voter_ids();
    voters.filter(|voter| *voter != shared.node()).collect()
}

/// Up to which index a node is known to hold the log.
pub(crate) fn matched(metrics: &Metrics, node: u64) -> Option<u64> {
    let log_id = metrics.replication.as_ref()?.get(&node)?.as_ref()?;
    Some(log_id.index)
}

fn invalid(context: String) -> Error {
    Error::new(ErrorKind::Invalid, context)
}
