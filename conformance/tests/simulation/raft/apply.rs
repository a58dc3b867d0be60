//! The state, and the answers that come from it.

use tsoracle_core::{Clock, Outcome, SeqStore};

use super::replica::{Replica, Reply};
use crate::{
    disk::{Commit, Entry, Payload},
    evidence::reign_of,
    flaw::Flaw,
    reached::Reached,
};

/// A copy of the state that is behind is renewed once in a number of commits.
const BEHIND: u64 = 16;

impl Replica {
    /// Applies what has been committed, and answers those who wait for it.
    pub(super) fn apply(&mut self) {
        // A leader counts its own vote for an entry before its disk has it: no node may learn that it is
        // committed until then.
        let upto = match self.world.has(Flaw::AppliesAheadOfItsDisk) {
            true => self.committed,
            false => self.committed.min(self.disk.lock().unwrap().durable()),
        };
        while self.applied.upto < upto.min(self.log.len() as u64) {
            let place = self.applied.upto + 1;
            let entry = self.log[place as usize - 1].clone();
            self.applied.upto = place;
            let reply = match self.waiters.remove(&place) {
                Some(waiter) if waiter.term == entry.term => Some(waiter.reply),
                Some(waiter) => {
                    waiter.reply.replaced();
                    None
                }
                None => None,
            };
            self.world.applied(place, &entry);
            match &*entry.payload {
                Payload::Blank => {}
                Payload::Commit(commit) => {
                    let outcome = self.commit(place, commit);
                    if let Some(Reply::Commit { reply, .. }) = reply {
                        // The caller may have gone.
                        let _ = reply.send(Ok(outcome));
                    }
                }
                Payload::Read(wanted) => {
                    if let Some(Reply::Read(reply)) = reply {
                        let _ = reply.send(wanted.read_from(&self.applied.store));
                    }
                }
            }
        }
    }

    fn commit(&mut self, place: u64, commit: &Commit) -> Outcome {
        let current = self.applied.version;
        let outcome = match self.world.has(Flaw::IgnoresTheVersion) {
            true => Some(Outcome::Stored),
            false => commit.base.admits(commit.next, current),
        };
        match outcome {
            Some(Outcome::Stored) if current != commit.next => self.store(place, commit),
            Some(Outcome::Stored) => self.world.reached(Reached::StoredBefore),
            Some(Outcome::Conflict { .. }) => self.world.reached(Reached::Conflict),
            // Bases are versions that were read, and so applied at a lower place.
            None => self.world.found(format!("the log is behind the base of {:?}", commit.next)),
        }
        outcome.unwrap_or(Outcome::Conflict { found: current })
    }

    fn store(&mut self, place: u64, commit: &Commit) {
        if commit.next.number.is_multiple_of(BEHIND) {
            self.applied.behind = (self.applied.store.clone(), self.applied.version);
        }
        let effect = commit.effect.clone();
        self.applied.store.commit(effect).expect("memory does not fail");
        self.applied.version = commit.next;
        let reign = reign_of(&commit.effect);
        let logged = self.seen.get(place as usize - 1).copied();
        let at = logged.unwrap_or_else(|| self.clock.now().boot);
        self.evidence.lock().unwrap().decided(commit.next, at, reign);
        self.world.stored(place, commit, reign);
    }
}

impl Entry {
    /// The commit that it carries, if any.
    pub(crate) fn commit(&self) -> Option<&Commit> {
        match &*self.payload {
            Payload::Commit(commit) => Some(commit),
            _ => None,
        }
    }
}
