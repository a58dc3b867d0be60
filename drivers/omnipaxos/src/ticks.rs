//! What happens by the clock: heartbeats, and help for peers that make no progress.

use std::{collections::BTreeMap, time::Duration};

use tsoracle_core::{BootTime, Error, ErrorKind, Result};

use crate::{
    leadership::Role,
    node::{ANSWERED, Node},
    paxos::LAST_BALLOT,
};

/// How long a commit may wait for a majority before its outcome is uncertain.
const PATIENCE: Duration = Duration::from_secs(5);

/// After how long without progress a peer is asked to fetch what it lacks.
const STUCK: Duration = Duration::from_secs(1);

impl Node {
    /// One tick of the clock.
    ///
    /// # Errors
    /// `Fatal` if there are no ballots left.
    pub(crate) fn tick(&mut self, now: BootTime) -> Result<()> {
        if self.promise.n >= LAST_BALLOT {
            let context = format!("the ballot numbers are used up at {}", self.promise.n);
            return Err(Error::new(ErrorKind::Fatal, context));
        }
        self.ticks += 1;
        let ends_round = self.ticks.is_multiple_of(self.ticks_per_round);
        let is_counted = ends_round && self.end_round();
        self.paxos.tick();
        let states = self.paxos.get_ui_states();
        if ends_round {
            tracing::trace!(
                own = self.own,
                is_counted,
                promise = ?self.paxos.get_promise(),
                ballot = ?states.current_ballot,
                replies = ?states.heartbeats,
                "a round of heartbeats has ended"
            );
        }
        if is_counted {
            self.neighbours = states.heartbeats;
            // Those who follow a later leader are not this one's followers, though they answer.
            let promise = self.paxos.get_promise();
            let followers = self.neighbours.iter().filter(|reply| reply.leader <= promise).count();
            let is_majority = (followers + 1) * 2 > self.members.len();
            self.missed = if is_majority { 0 } else { self.missed.saturating_add(1) };
        }
        self.waiters.expire(now - PATIENCE, "no majority has answered in time");
        self.show(&states.cluster_state.accepted_indexes);
        self.help_stuck(&states.cluster_state.accepted_indexes, now)
    }

    /// Hands over the answers to the heartbeats of the round that ends. Not those of one in which
    /// another node campaigned: they are from before that, and would have this node campaign as well,
    /// with a higher ballot, and depose the other as soon as it is elected.
    fn end_round(&mut self) -> bool {
        let promise = self.paxos.get_promise();
        let is_quiet = promise == self.promise_before || promise.pid == u64::from(self.own);
        self.promise_before = promise;
        for reply in self.replies.drain(..).filter(|_| is_quiet) {
            self.paxos.handle_incoming(reply);
        }
        is_quiet
    }

    /// Notes how far the others are, if this node leads, and how far it is itself.
    fn note_lags(&self, accepted: &[usize], end: usize) {
        let lag = |at: usize| end.saturating_sub(at) as u64;
        let others = self.members.keys().filter(|_| self.role != Role::Follower);
        let others = others.filter_map(|peer| Some((*peer, lag(*accepted.get(*peer as usize)?))));
        let mut lags: BTreeMap<_, _> = others.collect();
        lags.insert(self.own, self.log.borrow().decided.saturating_sub(self.applied) as u64);
        self.own_progress.note_lags(lags);
    }

    /// Tells peers that are there and make no progress to ask for what they lack.
    ///
    /// Whatever went wrong between them and this leader ends with that, an overtaking of messages by
    /// those of a new session included.
    fn help_stuck(&mut self, accepted: &[usize], now: BootTime) -> Result<()> {
        let end = self.log.borrow().end();
        self.note_lags(accepted, end);
        for &peer in self.members.keys().filter(|peer| **peer != self.own) {
            let at = accepted.get(peer as usize).copied().unwrap_or(end);
            let (before, since) = self.progress.entry(peer).or_insert((at, now));
            let is_well = self.role == Role::Follower
                || at == end
                || at != *before
                || !self.peers.is_heard(peer, now, self.round_time * 2)
                || self.peers.is_transferring(peer, now, ANSWERED);
            if is_well {
                (*before, *since) = (at, now);
            } else if now.since(*since) > STUCK {
                *since = now;
                tracing::debug!(peer, at, end, "the peer makes no progress");
                self.peers.begin_session(peer)?;
            }
        }
        Ok(())
    }
}
