//! Who leads, as raft sees it; the claims of this node; and leadership that passes on.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, atomic::Ordering},
    time::Duration,
};

use async_trait::async_trait;
use openraft::ServerState;
use tokio::time::timeout;
use tsoracle_core::{Clock as _, Error, ErrorKind, Leadership, Result, SystemClock};
use tsoracle_replica::{
    Announcer,
    handover::{self, Handover},
};

use crate::{
    Config,
    config::ELECTED,
    network::node_id,
    node::{Shared, hint},
    types::{Metrics, Vote},
};

/// How long to wait before a majority is asked again whether this node leads.
const PAUSE: Duration = Duration::from_millis(10);

/// How long a majority may take to say so, and this node to apply what was decided before.
const CONFIRMED: Duration = Duration::from_secs(1);

/// Follows raft until it ends, and announces who leads. The channel closes when this returns: the node
/// will never lead again.
pub(crate) async fn follow(shared: Arc<Shared>, mut announcer: Announcer) {
    let mut failed = shared.store.failed();
    let failure = tokio::select! {
        // Raft ends because the node does, not the other way round.
        biased;
        () = shared.lifecycle.stopping() => None,
        failed = failed.wait_for(Option::is_some) => Some(match failed.ok().as_deref() {
            Some(Some(error)) => Error::clone(error),
            _ => fatal("the store's thread has ended".into()),
        }),
        error = announce(&shared, &mut announcer) => Some(error),
    };
    if let Some(error) = failure {
        tracing::error!(error = %format_args!("{error:#}"), "this node serves no more");
        shared.lifecycle.fail(error);
        // Calls fail from here on.
        drop(announcer);
        // What failed must not keep others from leading.
        let _ = shared.raft.shutdown().await;
    }
}

/// Returns when raft has ended.
async fn announce(shared: &Shared, announcer: &mut Announcer) -> Error {
    // Its values change with the vote and the membership only, so that this sleeps mostly.
    let mut changes = shared.raft.server_metrics();
    let mut handovers = shared.handovers.subscribe();
    // The vote under which this node has claimed to lead.
    let mut claimed: Option<Vote> = None;
    loop {
        changes.borrow_and_update();
        let metrics = shared.metrics();
        match leads(&metrics) {
            Some(vote) if claimed == Some(vote) => {}
            Some(vote) => {
                announcer.unknown();
                if confirm(shared, vote).await {
                    announcer.lead();
                    claimed = Some(vote);
                }
                // Much may have happened meanwhile.
                continue;
            }
            None => {
                claimed = None;
                match metrics.current_leader {
                    Some(leader) if leader != metrics.id => announcer.follow(hint(&metrics)),
                    _ => announcer.unknown(),
                }
            }
        }
        tokio::select! {
            changed = changes.changed() => if changed.is_err() {
                let reason = shared.metrics().running_state.err();
                let reason = reason.map_or("no reason".into(), |reason| reason.to_string());
                return fatal(format!("raft has ended: {reason}"));
            },
            // No other node took over: this one leads on, which takes a new claim.
            _ = handovers.changed() => claimed = None,
        }
    }
}

/// Whether a majority follows this node under `vote`. Then everything that was decided before is applied.
async fn confirm(shared: &Shared, vote: Vote) -> bool {
    // A leader that was restarted still thinks that it leads, whatever other node was elected meanwhile.
    while leads(&shared.metrics()) == Some(vote) {
        if let Ok(Ok(_)) = timeout(CONFIRMED, shared.raft.ensure_linearizable()).await {
            return leads(&shared.metrics()) == Some(vote);
        }
        SystemClock.sleep(PAUSE).await;
    }
    false
}

/// The vote under which this node leads, if it does.
pub(crate) fn leads(metrics: &Metrics) -> Option<Vote> {
    let is_leader = metrics.running_state.is_ok()
        && metrics.state == ServerState::Leader
        && metrics.vote.committed
        && metrics.vote.leader_id.node_id == metrics.id;
    is_leader.then_some(metrics.vote)
}

/// Has another node lead, if there is one and this one still does under `claim`: in a task that goes on if
/// the caller does not.
pub(crate) async fn resign(shared: &Arc<Shared>, claim: u64) {
    let own = shared.clone();
    let resigning = shared.runtime.spawn(async move {
        let leads = *own.leadership.borrow() == Leadership::Leader { claim };
        if !leads || other_voters(&own.metrics()).is_empty() {
            return;
        }
        own.leave();
        if let Err(error) = hand_over(&own).await {
            tracing::warn!(error = %format_args!("{error:#}"), claim, "no other node takes over from this one");
        }
        own.leaving.fetch_sub(1, Ordering::AcqRel);
        own.handovers.send_modify(|handovers| *handovers += 1);
    });
    // It fails only if the node has ended.
    let _ = resigning.await;
}

/// Has another node lead. No command is begun meanwhile, the service's own neither: an entry keeps those
/// that take it from voting for another node.
pub(crate) async fn hand_over(shared: &Shared) -> Result<()> {
    let deadline = Config::vote_lease() + ELECTED;
    let passed = handover::hand_over(shared, &SystemClock, None, deadline).await;
    shared.raft.runtime_config().heartbeat(true);
    passed.map(drop)
}

#[async_trait]
impl Handover for Shared {
    fn progress(&self) -> (BTreeMap<u32, u64>, u64) {
        let metrics = self.metrics();
        let held = |index: Option<u64>| index.map_or(0, |index| index + 1);
        let progress = other_voters(&metrics).into_iter().map(|voter| {
            let matched = metrics.replication.as_ref().and_then(|all| *all.get(&voter)?);
            (node_id(voter), held(matched.map(|log_id| log_id.index)))
        });
        (progress.collect(), held(metrics.last_log_index))
    }

    fn successor(&self) -> Option<u32> {
        let metrics = self.metrics();
        metrics.current_leader.filter(|leader| *leader != metrics.id).map(node_id)
    }

    /// Nodes that hear from this leader grant no other their vote for a while: so it sends no heartbeats,
    /// and waits.
    async fn campaign(&self, node: u32) -> Result<()> {
        self.raft.runtime_config().heartbeat(false);
        SystemClock.sleep(Config::vote_lease()).await;
        self.network.campaign(self.config.node, node).await
    }
}

fn other_voters(metrics: &Metrics) -> BTreeSet<u64> {
    let voters = metrics.membership_config.membership().voter_ids();
    voters.filter(|voter| *voter != metrics.id).collect()
}

fn fatal(context: String) -> Error {
    Error::new(ErrorKind::Fatal, context)
}
