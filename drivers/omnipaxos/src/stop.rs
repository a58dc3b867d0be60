//! Stopping, and giving up leadership: another node takes over first.

use std::{collections::BTreeMap, time::Duration};

use tsoracle_core::{BootTime, Result};
use tsoracle_replica::handover::{Passing, Step};

use crate::{leadership::Role, node::Node};

/// How long commits under way may take. With a majority they take milliseconds.
const DRAIN: Duration = Duration::from_secs(1);

/// How long another node may take to be elected. Without one, this node stops all the same.
const HAND_OVER: Duration = Duration::from_millis(600);

/// For how long a leader that gives up leaves those alone that have led just before: several that cannot
/// commit would hand over to each other for ever.
const AVOIDED: Duration = Duration::from_secs(30);

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

impl Node {
    /// Lets others lead, unless the claim is over, or no other node can lead.
    pub(crate) fn resign(&mut self, resigned: u64, now: BootTime) {
        let is_current = matches!(self.role, Role::Leader { claim, .. } if claim == resigned);
        if is_current && !self.neighbours.is_empty() && self.leaving.is_none() {
            tracing::info!(claim = resigned, "giving up leadership, whose lease cannot be renewed");
            self.begin_handover(now);
        }
    }

    /// Goes on with handing over or stopping, if that has begun.
    ///
    /// # Errors
    /// Those of encoding a message.
    pub(crate) fn leave(&mut self, now: BootTime) -> Result<()> {
        self.hand_over(now)?;
        let (is_elected, has_neighbours) = (self.is_elected(), !self.neighbours.is_empty());
        let Some(leaving) = &mut self.leaving else { return Ok(()) };
        let drains = !self.waiters.is_empty() && now.since(leaving.since) < DRAIN;
        if self.handover.is_some() || drains {
            return Ok(());
        }
        // A follower that stops needs no successor; and where no node is near, none can take over.
        if is_elected && has_neighbours && !leaving.has_handed_over {
            leaving.has_handed_over = true;
            self.begin_handover(now);
            return self.hand_over(now);
        }
        leaving.has_ended = true;
        Ok(())
    }

    fn begin_handover(&mut self, now: BootTime) {
        self.handover.get_or_insert_with(|| Passing::begin(None, HAND_OVER, now));
    }

    fn hand_over(&mut self, now: BootTime) -> Result<()> {
        let Some(mut passing) = self.handover.take() else { return Ok(()) };
        let (progress, end) = self.successors(now);
        match passing.step(&progress, end, self.successor(), now) {
            Ok(Step::Passed(_)) => return Ok(()),
            Ok(Step::Campaign(peer)) => {
                self.peers.take_over(peer)?;
                self.led.insert(peer, now);
                self.step_down();
            }
            Ok(Step::Wait) => {}
            Err(error) => {
                tracing::info!(error = %format_args!("{error:#}"), "leadership was not handed over");
                return Ok(());
            }
        }
        self.handover = Some(passing);
        Ok(())
    }

    /// How much of the log, up to where, the others hold that may lead next.
    fn successors(&self, now: BootTime) -> (BTreeMap<u32, u64>, u64) {
        let accepted = self.paxos.get_ui_states().cluster_state.accepted_indexes;
        let near = self.neighbours.iter().filter_map(|reply| u32::try_from(reply.ballot.pid).ok());
        let held = |peer: u32| accepted.get(peer as usize).copied().unwrap_or_default() as u64;
        let mut near: BTreeMap<_, _> = near.map(|peer| (peer, held(peer))).collect();
        let has_led = |peer: &u32| self.led.get(peer).is_some_and(|at| now.since(*at) < AVOIDED);
        if self.leaving.is_none() && !near.keys().all(has_led) {
            near.retain(|peer, _| !has_led(peer));
        }
        (near, self.log.borrow().end() as u64)
    }

    /// The other node that leads by now.
    fn successor(&self) -> Option<u32> {
        let leader = self.paxos.get_current_leader().filter(|(_, is_accepting)| *is_accepting);
        let leader = leader.and_then(|(node, _)| u32::try_from(node).ok());
        leader.filter(|node| *node != self.own)
    }

    /// Campaigns, as the leader has asked for.
    pub(crate) fn campaign(&mut self, leader: u32, now: BootTime) {
        if self.promise.pid == u64::from(leader) && self.leaving.is_none() {
            self.led.insert(leader, now);
            tracing::info!(leader, "the leader hands over; campaigning");
            self.paxos.try_become_leader();
        }
    }
}
