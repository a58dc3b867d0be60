//! Who leads, and under which claim.

use std::{collections::BTreeSet, sync::Arc, time::Duration};

use tsoracle_core::{Clock, LeaderHint, Leadership};

use super::{
    Message,
    replica::{Leading, Replica, Role},
};
use crate::{
    disk::{Entry, Hard, Payload},
    network::MOST_NODES,
    reached::Reached,
};

/// How often a leader is heard of.
pub(super) const BEAT_MS: u64 = 50;

/// How often a candidate asks again.
const ASK_MS: u64 = 20;

/// A gap between two ticks from which on a leader judges no silence: it did not run itself.
const ASLEEP: Duration = Duration::from_millis(300);

/// Peers that were heard of so lately can be reached.
const RECENT: Duration = Duration::from_millis(300);

/// How long a node that has resigned leaves it to others to stand for election.
const RESIGNED_MS: u64 = 3_000;

impl Replica {
    pub(super) fn tick(&mut self) {
        let now = self.clock.now().boot;
        let slept = now.since(self.ticked_at) > ASLEEP;
        self.ticked_at = now;
        let Role::Leader(leading) = &mut self.role else {
            if now >= self.stand_at {
                self.stand();
            }
            return self.ask_for_votes();
        };
        if now < leading.beat_at {
            return;
        }
        if slept {
            leading.heard = [now; MOST_NODES];
        }
        let heard = leading.heard;
        let deaf = self.world.temper.deaf;
        let recent = self.peers().filter(|&peer| now.since(heard[peer]) < deaf);
        if recent.count() + 1 < self.majority() {
            return self.follow(None);
        }
        if self.world.flaps() {
            self.news.push(Leadership::Unknown);
            self.claim();
        }
        self.beat();
    }

    pub(super) fn put_off_standing(&mut self) {
        let stand_ms = self.world.temper.stand_ms.clone();
        let wait_ms = self.world.draw(|rng| rng.between(stand_ms));
        self.stand_at = self.after(wait_ms).max(self.stands_from);
    }

    fn stand(&mut self) {
        self.put_off_standing();
        let term = self.hard.term + 1;
        self.hard = Hard { term, voted_for: Some(self.me), led: false };
        self.store_hard();
        self.leader = None;
        let ask_at = self.clock.now().boot;
        self.role = Role::Candidate { votes: BTreeSet::from([self.me]), ask_at };
        self.news.push(Leadership::Unknown);
    }

    /// Asks those who have not answered yet, from time to time.
    fn ask_for_votes(&mut self) {
        let (now, again, last) = (self.clock.now().boot, self.after(ASK_MS), self.last());
        if let Role::Candidate { votes, ask_at } = &mut self.role
            && now >= *ask_at
        {
            *ask_at = again;
            let (term, peers) = (self.hard.term, 0..self.world.nodes.len());
            let asked = peers.filter(|peer| !votes.contains(peer));
            self.outbox.extend(asked.map(|peer| (peer, Message::AskVote { term, last })));
        }
    }

    pub(super) fn asked_for_vote(&mut self, from: usize, term: u64, last: (u64, u64)) {
        let free = self.hard.voted_for.is_none_or(|candidate| candidate == from);
        let granted = term == self.hard.term && free && last >= self.last();
        if granted {
            self.hard.voted_for = Some(from);
            self.store_hard();
            self.put_off_standing();
        }
        self.outbox.push((from, Message::Vote { term: self.hard.term, granted }));
    }

    pub(super) fn voted_for(&mut self, from: usize, term: u64, granted: bool) {
        let majority = self.majority();
        if let Role::Candidate { votes, .. } = &mut self.role
            && term == self.hard.term
            && granted
        {
            votes.insert(from);
            if votes.len() >= majority {
                self.lead();
            }
        }
    }

    pub(super) fn lead(&mut self) {
        self.world.elected(self.me);
        self.hard.led = true;
        self.store_hard();
        let now = self.clock.now().boot;
        let (_, last) = self.last();
        self.role = Role::Leader(Leading {
            next: [last + 1; MOST_NODES],
            matched: [0; MOST_NODES],
            heard: [now; MOST_NODES],
            beat_at: now,
        });
        let blank = Entry { term: self.hard.term, payload: Arc::new(Payload::Blank) };
        self.store_log(last + 1, vec![blank]);
        self.claim();
        self.beat();
    }

    /// Claims leadership, as a new leader or under the claim of before.
    fn claim(&mut self) {
        if self.needs_a_new_claim || !self.world.temper.keeps_claims {
            self.claims += 1;
            self.needs_a_new_claim = false;
        }
        self.news.push(Leadership::Leader { claim: self.claims });
    }

    /// Stands for election at once, as when a leader asks it to.
    pub(super) fn stand_now(&mut self) {
        if !matches!(self.role, Role::Leader(_)) {
            self.stand();
        }
    }

    /// Lets others lead, unless the claim is over or none of them can.
    pub(super) fn resign(&mut self, claim: u64) {
        let Role::Leader(leading) = &self.role else { return };
        let now = self.clock.now().boot;
        let others = self.peers().filter(|&peer| now.since(leading.heard[peer]) < RECENT);
        if claim == self.claims && others.count() >= self.majority() {
            self.world.reached(Reached::Resigned);
            self.needs_a_new_claim = true;
            // Also once it has followed another leader: or two nodes that cannot commit lead by turns.
            self.stands_from = self.after(RESIGNED_MS);
            self.follow(None);
        }
    }

    /// Whether there is a leader that this node has no reason to replace: then it votes for no other one.
    pub(super) fn hears_a_leader(&self) -> bool {
        let now = self.clock.now().boot;
        let recent = Duration::from_millis(*self.world.temper.stand_ms.start());
        self.world.temper.is_loyal
            && match &self.role {
                Role::Leader(leading) => {
                    let heard = |&peer: &usize| now.since(leading.heard[peer]) < recent;
                    self.peers().filter(heard).count() + 1 >= self.majority()
                }
                _ => self.leader.is_some() && now.since(self.heard_at) < recent,
            }
    }

    /// Follows a leader, or the next one.
    pub(super) fn follow(&mut self, leader: Option<usize>) {
        if let Role::Leader(_) = self.role {
            // Some learn it now, others once it has turned out.
            let waiters = std::mem::take(&mut self.waiters);
            for (place, waiter) in waiters {
                match self.world.draw(|rng| rng.chance(500)) {
                    true => waiter.reply.uncertain(),
                    false => drop(self.waiters.insert(place, waiter)),
                }
            }
        }
        // Hearing of a newer term alone is no reason to wait: the candidate may not be electable.
        if leader.is_some() || matches!(self.role, Role::Leader(_)) {
            self.put_off_standing();
        }
        self.role = Role::Follower;
        self.leader = leader;
        self.news.push(match leader {
            None => Leadership::Unknown,
            Some(leader) => {
                let hint = LeaderHint { endpoint: leader.to_string(), epoch: None };
                Leadership::Follower { leader: Some(hint) }
            }
        });
    }
}
