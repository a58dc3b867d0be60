//! Stopping: what is under way ends first, and another node takes over.

use std::{collections::BTreeSet, time::Duration};

use tsoracle_core::BootTime;

use crate::{node::Node, office::Office};

/// How long commits under way may take. With a majority they take milliseconds.
const DRAIN: Duration = Duration::from_secs(1);

/// How long another node may take to be elected. Without one, this node just goes.
const HAND_OVER: Duration = Duration::from_millis(600);

/// How long one node may take before another one is asked.
const ASKED: Duration = Duration::from_millis(150);

/// How far a node is with stopping.
#[derive(Debug)]
pub(crate) struct Leaving {
    since: BootTime,
    handing_over: Option<HandingOver>,
    has_ended: bool,
}

#[derive(Debug)]
struct HandingOver {
    begun: BootTime,
    asked_at: BootTime,
    asked: BTreeSet<u32>,
}

impl Leaving {
    pub(crate) fn begin(now: BootTime) -> Self {
        Self { since: now, handing_over: None, has_ended: false }
    }

    /// Without anything left to end or hand over.
    pub(crate) fn at_once() -> Self {
        Self { has_ended: true, ..Self::begin(BootTime::default()) }
    }

    pub(crate) fn end(&mut self) {
        self.has_ended = true;
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.has_ended
    }
}

impl Node {
    /// Goes on with stopping, if that was asked for.
    pub(crate) fn leave(&mut self, now: BootTime) {
        let Some(leaving) = &mut self.leaving else { return };
        if !self.waiting.is_empty() && now.since(leaving.since) < DRAIN {
            return;
        }
        let leader = self.paxos.get_current_leader();
        let leads = leader == Some((self.own, true));
        let is_over = match &leaving.handing_over {
            // Nobody misses a follower; and where nobody is near, nobody can be told.
            None => !leads || self.neighbours.is_empty(),
            Some(HandingOver { begun, .. }) => {
                let has_successor =
                    leader.is_some_and(|(node, is_accepting)| node != self.own && is_accepting);
                has_successor || now.since(*begun) >= HAND_OVER
            }
        };
        if is_over {
            tracing::debug!(?leader, "nothing is left to hand over");
            return leaving.end();
        }
        let handing_over = leaving.handing_over.get_or_insert_with(|| HandingOver {
            begun: now,
            asked_at: BootTime::default(),
            asked: BTreeSet::new(),
        });
        if !leads || now.since(handing_over.asked_at) < ASKED {
            return;
        }
        // The one that has most of the log is ready soonest.
        let accepted = self.paxos.get_ui_states().cluster_state.accepted_indexes;
        let near = self.neighbours.iter().filter_map(|reply| u32::try_from(reply.ballot.pid).ok());
        let fresh = near.filter(|peer| !handing_over.asked.contains(peer));
        let successor = fresh.max_by_key(|peer| accepted.get(*peer as usize).copied());
        handing_over.asked_at = now;
        if let Some(successor) = successor {
            tracing::info!(successor, "handing over");
            handing_over.asked.insert(successor);
            self.peers.hand_over(successor);
        }
        self.waiting.give_up("the driver stopped before it knew the outcome");
        self.office = Office::None;
        self.announce(now);
    }

    /// Stands for election, as the leader has asked for.
    pub(crate) fn stand(&mut self, by: u32) {
        if self.promise.pid == u64::from(by) && self.leaving.is_none() {
            tracing::info!(by, "the leader leaves; standing for election");
            self.paxos.try_become_leader();
        }
    }
}
