//! When this node campaigns.
//!
//! openraft would campaign after some silence, whatever the others hear. A node that was cut off, stood
//! still or was restarted would so depose a leader that all others follow, each time. Here a pre-vote
//! comes first: a node campaigns only if a majority would vote for it.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::stream::{FuturesUnordered, StreamExt as _};
use openraft::ServerState;
use tokio::sync::watch;
use tsoracle_core::{BootTime, Clock, Random};
use tsoracle_replica::Cluster;

use crate::{
    commit,
    meters::Meters,
    shared::Shared,
    types::{Id, Metrics, Raft, Vote, peer_id},
    wire::{PRE_VOTE, pack, unpack},
};

/// How often to look, in each election time.
const LOOKS: u32 = 12;

/// When this node last heard from a leader, from which one, and how long it waits for one.
#[derive(Debug)]
pub(crate) struct Contact {
    last: AtomicU64,
    /// The latest leader, as it says. Raft knows it only once it has stored its vote, which a disk that hangs
    /// never does.
    heard: watch::Sender<Option<Vote>>,
    election: Duration,
    clock: Arc<dyn Clock>,
}

impl Contact {
    /// No leader was heard yet, but there was no time for it either.
    pub(crate) fn new(election: Duration, clock: Arc<dyn Clock>) -> Self {
        let (last, heard) = (AtomicU64::new(clock.now().boot.as_nanos()), watch::Sender::new(None));
        Self { last, heard, election, clock }
    }

    pub(crate) fn note(&self) {
        self.last.fetch_max(self.clock.now().boot.as_nanos(), Ordering::AcqRel);
    }

    /// As [`note`](Self::note), of the leader under `vote`.
    pub(crate) fn note_leader(&self, vote: Vote) {
        self.note();
        self.heard.send_if_modified(|heard| {
            let is_later = heard.is_none_or(|heard| vote > heard);
            if is_later {
                *heard = Some(vote);
            }
            is_later
        });
    }

    pub(crate) fn heard(&self) -> watch::Receiver<Option<Vote>> {
        self.heard.subscribe()
    }

    /// The leader that was heard since raft's vote was `vote`.
    pub(crate) fn later_leader(&self, vote: Vote) -> Option<u64> {
        let heard = (*self.heard.borrow()).filter(|heard| *heard > vote && heard.committed);
        heard.map(|heard| heard.leader_id.node_id)
    }

    pub(crate) fn silence(&self) -> Duration {
        self.clock.now().boot.since(BootTime::from_nanos(self.last.load(Ordering::Acquire)))
    }
}

/// Campaigns when it is time to, until the node stops.
pub(crate) async fn run(shared: Arc<Shared>) {
    tokio::select! {
        biased;
        () = shared.lifecycle.stopping() => {}
        () = campaign_when_due(&shared) => {}
    }
}

async fn campaign_when_due(shared: &Shared) {
    let (election, clock) = (shared.cluster.election, &*shared.clock);
    let random_part = |duration| part_of(&shared.random, duration);
    let first_wait = || election + election / 8 + random_part(election * 7 / 8);
    // The others have to have waited, too.
    let mut max_wait = first_wait();
    let mut since = clock.now().boot;
    let mut meters = Meters::new();
    loop {
        clock.sleep(election / LOOKS).await;
        let metrics = shared.metrics();
        if metrics.running_state.is_err() {
            return;
        }
        commit::give_up_the_hopeless(shared, &metrics);
        let now = clock.now().boot;
        meters.show(&metrics, now);
        if metrics.state == ServerState::Leader {
            (since, max_wait) = (now, first_wait());
            continue;
        }
        if shared.contact.silence().min(now.since(since)) < max_wait || !votes(shared, &metrics) {
            continue;
        }
        if is_wanted(shared, &metrics).await {
            tracing::info!(silence = ?shared.contact.silence(), "campaigning");
            // It fails only if raft has ended.
            let _ = shared.raft.trigger().elect().await;
        }
        // The next attempt comes sooner: the leader is known to be gone.
        (since, max_wait) = (clock.now().boot, election / 2 + random_part(election / 2));
    }
}

fn votes(shared: &Shared, metrics: &Metrics) -> bool {
    metrics.membership_config.membership().voter_ids().any(|voter| voter == shared.node())
}

/// Whether a majority of the voters, of each half of a membership that is changing, would vote for this
/// node.
async fn is_wanted(shared: &Shared, metrics: &Metrics) -> bool {
    let membership = metrics.membership_config.membership();
    let last = shared.raft.data_metrics().borrow().last_log;
    let Ok(question) = pack(&last) else { return false };
    let answers = membership.voter_ids().map(|voter| {
        let question = question.clone();
        async move {
            if voter == shared.node() {
                return Some(voter);
            }
            let deadline = shared.cluster.election / 2;
            let answer = shared.transport.call(peer_id(voter), PRE_VOTE, question, deadline).await;
            answer.ok().and_then(|answer| unpack::<bool>(&answer).ok()?.then_some(voter))
        }
    });
    // As soon as they are enough: one that is paused answers nothing, and is not waited for.
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
pub(crate) fn would_vote(raft: &Raft, contact: &Contact, last: Option<Id>) -> bool {
    let leads = raft.metrics().borrow().state == ServerState::Leader;
    let own = raft.data_metrics().borrow().last_log;
    // A little longer than it takes to miss heartbeats.
    let min_silence = contact.election + contact.election / 10;
    !leads && contact.silence() >= min_silence && last >= own
}

/// How long a node that has heard from a leader, or was elected, votes for no other, as raft has it. Short,
/// since no node campaigns here unless the leader wants it, or a majority has heard of no leader: it would
/// only hold up a leader that hands over soon after it was elected.
pub(crate) fn vote_lease(cluster: &Cluster) -> Duration {
    vote_deadline(cluster) + Duration::from_millis(1)
}

/// How long a vote may take.
pub(crate) fn vote_deadline(cluster: &Cluster) -> Duration {
    (cluster.election / 2).max(cluster.heartbeat + Duration::from_millis(1))
}

/// A random part of `duration`, so that nodes do not campaign at the same moment.
fn part_of(random: &Random, duration: Duration) -> Duration {
    let part = u32::from(random.draw() as u16);
    duration * part / u32::from(u16::MAX)
}
