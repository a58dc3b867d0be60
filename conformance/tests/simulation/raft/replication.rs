//! How entries come to a majority.

use std::sync::Arc;

use tsoracle_core::Clock;

use super::{
    Message,
    election::BEAT_MS,
    replica::{Replica, Reply, Role, Waiter},
};
use crate::{
    disk::{Entry, Payload},
    flaw::Flaw,
};

/// How many entries one message carries at most.
const MOST_ENTRIES: usize = 64;

impl Replica {
    pub(super) fn propose(&mut self, payload: Payload, reply: Option<Reply>) {
        let entry = Entry { term: self.hard.term, payload: Arc::new(payload) };
        let place = self.log.len() as u64 + 1;
        if let Some(reply) = reply {
            self.waiters.insert(place, Waiter { term: self.hard.term, reply });
        }
        self.store_log(place, vec![entry]);
        self.peers().for_each(|peer| self.replicate(peer));
        self.advance();
    }

    /// Lets all peers know that this node leads, and sends again what has not been acknowledged.
    pub(super) fn beat(&mut self) {
        let beat_at = self.after(BEAT_MS);
        let Role::Leader(leading) = &mut self.role else { return };
        leading.beat_at = beat_at;
        leading.next = leading.matched.map(|matched| matched + 1);
        self.peers().for_each(|peer| self.replicate(peer));
    }

    fn replicate(&mut self, peer: usize) {
        let Role::Leader(leading) = &mut self.role else { return };
        let next = leading.next[peer];
        let rest = &self.log[next as usize - 1..];
        let entries = rest[..rest.len().min(MOST_ENTRIES)].to_vec();
        leading.next[peer] = next + entries.len() as u64;
        let before = (self.term_at(next - 1), next - 1);
        let (term, committed) = (self.hard.term, self.tellable());
        let message = Message::Append { term, before, entries, committed };
        match self.world.temper.is_early {
            true => self.world.send(self.me, peer, message),
            false => self.outbox.push((peer, message)),
        }
    }

    /// Up to where others may be told that the log is committed.
    fn tellable(&self) -> u64 {
        let leaves_at_once =
            self.world.temper.is_early && !self.world.has(Flaw::TellsAheadOfItsDisk);
        match leaves_at_once {
            true => self.committed.min(self.disk.lock().unwrap().durable()),
            false => self.committed,
        }
    }

    pub(super) fn append(
        &mut self,
        from: usize,
        term: u64,
        before: (u64, u64),
        entries: Vec<Entry>,
        committed: u64,
    ) {
        if term < self.hard.term {
            let refused = Message::Appended { term: self.hard.term, matched: Err(0) };
            return self.outbox.push((from, refused));
        }
        self.follow(Some(from));
        self.heard_at = self.clock.now().boot;
        let (term_before, place_before) = before;
        let (_, last) = self.last();
        if place_before > last || self.term_at(place_before) != term_before {
            let matched = Err(last.min(place_before.saturating_sub(1)));
            return self.outbox.push((from, Message::Appended { term, matched }));
        }
        let upto = place_before + entries.len() as u64;
        // What is here already stays: a message that was overtaken must not cut anything off.
        let terms = entries.iter().map(|entry| entry.term);
        let new =
            (place_before + 1..).zip(terms).position(|(place, term)| self.term_at(place) != term);
        if let Some(new) = new {
            self.replace_from(place_before + 1 + new as u64, entries[new..].to_vec());
        }
        self.committed = self.committed.max(committed.min(upto));
        self.outbox.push((from, Message::Appended { term, matched: Ok(upto) }));
    }

    fn replace_from(&mut self, from: u64, entries: Vec<Entry>) {
        for (place, waiter) in self.waiters.split_off(&from) {
            // Those who wait on learn for certain what was committed in that place.
            match self.world.chance(500) {
                true => waiter.reply.uncertain(),
                false => drop(self.waiters.insert(place, waiter)),
            }
        }
        if from <= self.committed {
            self.world.found(format!("node {} lost committed entries from {from} on", self.me));
            self.committed = from - 1;
            self.applied = Default::default();
        }
        self.store_log(from, entries);
    }

    pub(super) fn appended(&mut self, from: usize, term: u64, matched: Result<u64, u64>) {
        let now = self.clock.now().boot;
        let last = self.log.len() as u64;
        let Role::Leader(leading) = &mut self.role else { return };
        if term != self.hard.term {
            return;
        }
        leading.heard[from] = now;
        match matched {
            Ok(upto) => {
                leading.matched[from] = leading.matched[from].max(upto);
                leading.next[from] = leading.next[from].max(upto + 1);
            }
            Err(hint) => {
                let next = leading.next[from].min(hint + 1);
                leading.next[from] = next.max(leading.matched[from] + 1);
            }
        }
        if leading.next[from] <= last {
            self.replicate(from);
        }
        self.advance();
    }

    /// Commits what a majority holds, once that includes an entry of this term.
    fn advance(&mut self) {
        let Role::Leader(leading) = &self.role else { return };
        let mut held: Vec<u64> = self.peers().map(|peer| leading.matched[peer]).collect();
        held.push(self.log.len() as u64);
        held.sort_unstable_by(|a, b| b.cmp(a));
        let by = match self.world.has(Flaw::CommitsWithoutAMajority) {
            true => 1,
            false => self.majority(),
        };
        let upto = held[by - 1];
        if upto > self.committed && self.term_at(upto) == self.hard.term {
            self.committed = upto;
        }
    }
}
