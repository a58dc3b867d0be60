//! Stopping, and giving up leadership: another node takes over first.

use std::{collections::BTreeMap, time::Duration};

use async_trait::async_trait;
use tokio::sync::{mpsc, watch};
use tsoracle_core::{BootTime, Error, ErrorKind, Result};
use tsoracle_replica::handover::{Handover, hand_over};

use crate::{inbound::Event, leadership::Role, node::Node};

/// How long commits under way may take. With a majority they take milliseconds.
const DRAIN: Duration = Duration::from_secs(1);

/// How long another node may take to be elected. Without one, this node stops all the same.
const HAND_OVER: Duration = Duration::from_millis(600);

/// How far a node is with stopping.
#[derive(Debug)]
pub(crate) struct Leaving {
    since: BootTime,
    has_handed_over: bool,
    pub(crate) has_ended: bool,
}

impl Leaving {
    pub(crate) fn begin(now: BootTime) -> Self {
        Self { since: now, has_handed_over: false, has_ended: false }
    }

    /// Without anything left to end or hand over.
    pub(crate) fn at_once() -> Self {
        Self { has_ended: true, ..Self::begin(BootTime::default()) }
    }
}

/// What the task that hands over sees of the node: how much of the log, up to where, the others hold, and
/// which of them leads.
pub(crate) type Successors = (BTreeMap<u32, u64>, u64, Option<u32>);

struct HandingOver {
    successors: watch::Receiver<Successors>,
    events: mpsc::Sender<Event>,
}

#[async_trait]
impl Handover for HandingOver {
    fn progress(&self) -> (BTreeMap<u32, u64>, u64) {
        let (progress, end, _) = self.successors.borrow().clone();
        (progress, end)
    }

    fn successor(&self) -> Option<u32> {
        self.successors.borrow().2
    }

    async fn campaign(&self, peer: u32) -> Result<()> {
        let stopped = |_| Error::new(ErrorKind::Unavailable, "the node has stopped");
        self.events.send(Event::Campaign { peer }).await.map_err(stopped)
    }
}

impl Node {
    /// Lets others lead, unless the claim is over, or no other node can lead.
    pub(crate) fn resign(&mut self, resigned: u64) {
        let is_current = matches!(self.role, Role::Leader { claim, .. } if claim == resigned);
        if is_current && !self.neighbours.is_empty() && self.leaving.is_none() {
            tracing::info!(claim = resigned, "giving up leadership, whose lease cannot be renewed");
            self.hand_over();
        }
    }

    /// Goes on with stopping, if that has begun.
    pub(crate) fn leave(&mut self, now: BootTime) {
        if let Some(seen) = &self.handover {
            seen.send_replace(self.successors());
            return;
        }
        let (is_elected, has_neighbours) = (self.is_elected(), !self.neighbours.is_empty());
        let Some(leaving) = &mut self.leaving else { return };
        if !self.waiters.is_empty() && now.since(leaving.since) < DRAIN {
            return;
        }
        // A follower is not missed; and where no node is near, none can take over.
        if is_elected && has_neighbours && !leaving.has_handed_over {
            leaving.has_handed_over = true;
            self.hand_over();
        } else {
            leaving.has_ended = true;
        }
    }

    fn hand_over(&mut self) {
        if self.handover.is_some() {
            return;
        }
        let (seen, successors) = watch::channel(self.successors());
        self.handover = Some(seen);
        let events = self.peers.events();
        tokio::spawn(async move {
            let handing_over = HandingOver { successors, events };
            if let Err(error) = hand_over(&handing_over, None, HAND_OVER).await {
                tracing::info!(%error, "leadership was not handed over");
            }
            // The node may have ended.
            let _ = handing_over.events.send(Event::HandedOver).await;
        });
    }

    fn successors(&self) -> Successors {
        let accepted = self.paxos.get_ui_states().cluster_state.accepted_indexes;
        let near = self.neighbours.iter().filter_map(|reply| u32::try_from(reply.ballot.pid).ok());
        let held = |peer: u32| accepted.get(peer as usize).copied().unwrap_or_default() as u64;
        let leader = self.paxos.get_current_leader().filter(|(_, is_accepting)| *is_accepting);
        let leader = leader.and_then(|(node, _)| u32::try_from(node).ok());
        let progress = near.map(|peer| (peer, held(peer))).collect();
        (progress, self.log.borrow().end() as u64, leader.filter(|node| *node != self.own))
    }

    /// Campaigns, as the leader has asked for.
    pub(crate) fn campaign(&mut self, leader: u32) {
        if self.promise.pid == u64::from(leader) && self.leaving.is_none() {
            tracing::info!(leader, "the leader hands over; campaigning");
            self.paxos.try_become_leader();
        }
    }
}
