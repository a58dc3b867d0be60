//! When this node stands for election.
//!
//! openraft would stand after some silence, whatever the others hear. A node that was cut off, stood
//! still or was restarted would so depose a leader that everyone else follows, each time. Here it asks
//! the others first, and stands only if a majority would vote for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt as _};
use openraft::ServerState;
use tsoracle_cluster::Cluster;
use tsoracle_core::{BootTime, Clock as _, SystemClock};

use crate::{
    network::peer_id,
    shared::Shared,
    types::{Id, Metrics},
    wire::{CANVASS, pack, unpack},
};

/// How often to look, in each election time.
const LOOKS: u32 = 12;

/// How long a write to the leader's disk may take before it lets others lead: by then no lease of its
/// own holds any more.
const HUNG_DISK: Duration = Duration::from_secs(2);

/// When this node last heard from a leader.
#[derive(Debug)]
pub(crate) struct Contact(AtomicU64);

impl Default for Contact {
    /// Nobody was heard, but there was no time for it either.
    fn default() -> Self {
        Self(AtomicU64::new(SystemClock.now().boot.as_nanos()))
    }
}

impl Contact {
    pub(crate) fn note(&self) {
        self.0.fetch_max(SystemClock.now().boot.as_nanos(), Ordering::AcqRel);
    }

    pub(crate) fn silence(&self) -> Duration {
        SystemClock.now().boot.since(BootTime::from_nanos(self.0.load(Ordering::Acquire)))
    }
}

/// Stands for election when it is time to, until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    let mut stopping = shared.stopping.subscribe();
    tokio::select! {
        _ = stopping.wait_for(|stopping| *stopping) => {}
        () = stand_when_due(&shared) => {}
    }
}

async fn stand_when_due(shared: &Shared) {
    let election = shared.cluster.election;
    let mut patience = first_patience(election);
    let mut asked = SystemClock.now().boot;
    let mut is_mute = false;
    loop {
        SystemClock.sleep(election / LOOKS).await;
        let metrics = shared.metrics();
        if metrics.running_state.is_err() {
            return;
        }
        let now = SystemClock.now().boot;
        if metrics.state == ServerState::Leader {
            let hangs = shared.keeper.hangs_for() > HUNG_DISK;
            if hangs != is_mute {
                tracing::warn!(hangs, "the disk of this leader; without it, another one may lead");
                shared.raft.runtime_config().heartbeat(!hangs);
                is_mute = hangs;
            }
            (asked, patience) = (now, first_patience(election));
            continue;
        }
        if is_mute {
            shared.raft.runtime_config().heartbeat(true);
            is_mute = false;
        }
        if shared.contact.silence().min(now.since(asked)) < patience || !votes(shared, &metrics) {
            continue;
        }
        if is_wanted(shared, &metrics).await {
            tracing::info!(silence = ?shared.contact.silence(), "standing for election");
            // It fails only if raft has ended.
            let _ = shared.raft.trigger().elect().await;
        }
        // The next attempt comes sooner: the leader is known to be gone.
        (asked, patience) = (SystemClock.now().boot, election / 2 + part_of(election / 2));
    }
}

fn votes(shared: &Shared, metrics: &Metrics) -> bool {
    metrics.membership_config.membership().voter_ids().any(|voter| voter == shared.node())
}

/// Whether a majority of the voters, of each half of a membership that is changing, would vote for this
/// node.
async fn is_wanted(shared: &Shared, metrics: &Metrics) -> bool {
    let membership = metrics.membership_config.membership();
    let Ok(question) = pack(&last_log(shared)) else { return false };
    let answers = membership.voter_ids().map(|voter| {
        let question = question.clone();
        async move {
            if voter == shared.node() {
                return Some(voter);
            }
            let deadline = shared.cluster.election / 2;
            let answer = shared.transport.call(peer_id(voter), CANVASS, question, deadline).await;
            answer.ok().and_then(|answer| unpack::<bool>(&answer).ok()?.then_some(voter))
        }
    });
    // As soon as they are enough: one that stands still answers nothing, and is not waited for.
    let mut answers: FuturesUnordered<_> = answers.collect();
    let mut willing = Vec::new();
    while let Some(answer) = answers.next().await {
        willing.extend(answer);
        let is_enough = membership.get_joint_config().iter().all(|voters| {
            voters.iter().filter(|voter| willing.contains(voter)).count() * 2 > voters.len()
        });
        if is_enough {
            return true;
        }
    }
    false
}

/// Whether this node would vote for one whose log ends with `last`.
pub(crate) fn would_vote(shared: &Standing, last: Option<Id>) -> bool {
    let leads = shared.raft.metrics().borrow().state == ServerState::Leader;
    let own = shared.raft.data_metrics().borrow().last_log;
    // A little longer than it takes to miss heartbeats.
    let patience = shared.election + shared.election / 10;
    !leads && shared.contact.silence() >= patience && last >= own
}

/// How long whoever has heard from a leader, or was elected, votes for nobody else, as raft has it. Short,
/// since nobody stands here who was not asked to by the leader, or was not told by a majority that it heard
/// of none: it would only hold up a leader that hands over soon after it was elected.
pub(crate) fn vote_lease(cluster: &Cluster) -> Duration {
    vote_deadline(cluster) + Duration::from_millis(1)
}

/// How long a vote may take.
pub(crate) fn vote_deadline(cluster: &Cluster) -> Duration {
    (cluster.election / 2).max(cluster.heartbeat + Duration::from_millis(1))
}

/// What it takes to answer a candidate.
pub(crate) struct Standing {
    pub(crate) raft: crate::types::Raft,
    pub(crate) contact: Arc<Contact>,
    pub(crate) election: Duration,
}

/// Those who would be asked have to have waited, too.
fn first_patience(election: Duration) -> Duration {
    election + election / 8 + part_of(election * 7 / 8)
}

fn last_log(shared: &Shared) -> Option<Id> {
    shared.raft.data_metrics().borrow().last_log
}

/// A random part of `duration`, so that nodes do not stand at the same moment.
fn part_of(duration: Duration) -> Duration {
    let mut random = [0; 2];
    // Without randomness, all of it.
    let part = getrandom::fill(&mut random).map_or(u16::MAX, |()| u16::from_le_bytes(random));
    duration * u32::from(part) / u32::from(u16::MAX)
}
