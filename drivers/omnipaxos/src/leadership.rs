//! Whether this node leads, and what it announces.

use omnipaxos::ballot_leader_election::Ballot;
use tsoracle_core::{BootTime, Error, ErrorKind, LeaderHint, Result};

use crate::node::Node;

/// After how many rounds of heartbeats without a majority a leader gives up leadership.
const MISSES: u32 = 3;

/// How many bytes the log may take before nothing more is appended. It is trimmed long before, unless
/// nothing is decided any more. All of it has to fit into what waits for a peer.
const MOST_BYTES: usize = 32 << 20;

/// What this node is in the cluster.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Role {
    /// It does not lead.
    Follower,
    /// It was elected, and leads once it has applied all entries before this index: everything that was
    /// decided before its election is among them.
    Elected { ballot: Ballot, end: usize },
    /// It leads under a claim.
    Leader { ballot: Ballot, claim: u64 },
}

impl Node {
    /// Whether OmniPaxos has this node lead.
    pub(crate) fn is_elected(&self) -> bool {
        self.paxos.get_current_leader() == Some((self.own.into(), true))
    }

    /// Finds out whether this node was elected, or does not lead any more.
    pub(crate) fn update_role(&mut self) {
        let promise = self.paxos.get_promise();
        if promise != self.promise {
            self.promise = promise;
            self.peers.abandon_all();
            self.log.borrow_mut().withdraw();
            self.states.clear();
        }
        let is_elected = self.is_elected();
        if let Role::Elected { ballot, .. } | Role::Leader { ballot, .. } = self.role {
            let is_heard = self.missed < MISSES;
            if is_elected && is_heard && ballot == promise {
                return;
            }
            tracing::info!(?ballot, is_elected, is_heard, "this node does not lead any more");
            self.step_down();
        }
        if is_elected && self.missed == 0 && self.leaving.is_none() && self.handover.is_none() {
            self.role = Role::Elected { ballot: promise, end: self.log.borrow().end() };
        }
    }

    /// Leads no more. What waits may yet be decided under the next leader.
    pub(crate) fn step_down(&mut self) {
        self.role = Role::Follower;
        self.waiters.give_up_all("leadership was lost before a majority had answered");
    }

    /// Whether commits are taken.
    ///
    /// # Errors
    /// `NotLeader` and `Unavailable`: OmniPaxos would forward the entry of a follower, and never tell
    /// what became of it.
    pub(crate) fn admit(&self, now: BootTime) -> Result<()> {
        let unavailable = |context: &str| Err(Error::new(ErrorKind::Unavailable, context));
        if self.leaving.is_some() {
            return unavailable("the driver is stopping");
        }
        if !matches!(self.role, Role::Leader { .. }) {
            let hint = self.leader(now);
            return Err(Error::new(ErrorKind::NotLeader(hint), "this node does not lead"));
        }
        if self.log.borrow().bytes > MOST_BYTES {
            return unavailable("too much waits for a majority already");
        }
        Ok(())
    }

    /// Announces who leads, as far as this node knows.
    pub(crate) fn announce(&mut self, now: BootTime) {
        let leader = self.leader(now);
        let Some(announcer) = &mut self.announcer else { return };
        match self.role {
            Role::Elected { ballot, end } if self.applied >= end => {
                let claim = announcer.lead();
                tracing::info!(claim, ?ballot, "this node leads");
                self.role = Role::Leader { ballot, claim };
            }
            Role::Leader { .. } => {}
            Role::Elected { .. } | Role::Follower => match leader {
                Some(_) => announcer.follow(leader),
                None => announcer.unknown(),
            },
        }
    }

    /// Where the leader is, unless that is this node, or none is known.
    fn leader(&self, now: BootTime) -> Option<LeaderHint> {
        // The one that this node follows, if it is still there; or the one that a neighbour follows,
        // where not every node reaches every other.
        let followed = self.paxos.get_current_leader().filter(|(leader, is_accepting)| {
            let peer = u32::try_from(*leader).unwrap_or_default();
            *is_accepting && self.peers.is_heard(peer, now, self.round_time * 2)
        });
        let leader = match followed {
            Some((leader, _)) => leader,
            None => {
                let content = self.neighbours.iter().filter(|reply| reply.happy);
                content.map(|reply| reply.leader).max()?.pid
            }
        };
        let node = u32::try_from(leader).ok().filter(|node| *node != self.own)?;
        Some(LeaderHint { endpoint: self.members.get(&node)?.service.clone(), epoch: None })
    }
}
