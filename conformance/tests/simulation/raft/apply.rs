//! The state, and the answers that come from it.

use tsoracle_core::{
    Committed, Epoch, SeqStore,
    state::{Answer, Command, Query, REIGN, answer, apply},
};

use super::replica::{Applied, Replica, Reply};
use crate::{
    disk::{Entry, Payload},
    flaw::Flaw,
};

impl Replica {
    /// Applies what has been committed, and answers those who wait for it.
    pub(super) fn apply(&mut self) {
        // A leader counts its own vote for an entry before its disk has it: nobody may learn that it is
        // committed until then.
        let upto = match self.world.has(Flaw::AppliesAheadOfItsDisk) {
            true => self.committed,
            false => self.committed.min(self.disk.lock().unwrap().durable()),
        };
        while self.applied.upto < upto.min(self.log.len() as u64) {
            let place = self.applied.upto + 1;
            let entry = self.log[place as usize - 1].clone();
            self.applied.upto = place;
            let waiter = self.waiters.remove(&place);
            let reply = match waiter {
                Some(waiter) if waiter.term == entry.term => Some(waiter.reply),
                Some(waiter) => {
                    waiter.reply.replaced();
                    None
                }
                None => None,
            };
            match &*entry.payload {
                Payload::Blank => self.world.applied(place, &entry, None),
                Payload::Commit { epoch, commands } => {
                    let committed = self.commit(place, &entry, *epoch, commands);
                    if let Some(Reply::Commit(reply)) = reply {
                        // Whoever asked may have gone.
                        let _ = reply.send(Ok(committed));
                    }
                }
                Payload::Read(query) => {
                    self.world.applied(place, &entry, None);
                    if let Some(Reply::Read(reply)) = reply {
                        let _ = reply.send(answer(&self.applied.store, query));
                    }
                }
            }
        }
    }

    fn commit(
        &mut self,
        place: u64,
        entry: &Entry,
        epoch: Epoch,
        commands: &[Command],
    ) -> Committed {
        let fences = matches!(commands.first(), Some(Command::Fence { .. }));
        let under = match self.world.has(Flaw::IgnoresTheEpoch) && !fences {
            true => reigning(&self.applied).unwrap_or(epoch),
            false => epoch,
        };
        let (results, effect) =
            apply(&self.applied.store, under, commands).expect("memory does not fail");
        let replaced_seen = if fences { self.evidence() } else { None };
        if effect.touches(REIGN) {
            self.applied.reign_written = place;
            if self.applied.reign_begun.0 != epoch {
                self.applied.reign_begun = (epoch, place);
            }
        }
        self.applied.store.commit(effect).expect("memory does not fail");
        let took_effect = results.iter().any(Result::is_ok);
        self.world.applied(place, entry, took_effect.then_some(epoch));
        Committed { results, replaced_seen }
    }

    /// When this node saw the write of the reign record that a fence replaces now.
    fn evidence(&self) -> Option<tsoracle_core::BootTime> {
        if self.world.has(Flaw::NoWaitForTheLease) {
            return Some(tsoracle_core::BootTime::default());
        }
        let written = match self.world.has(Flaw::EvidenceOfAnotherWrite) {
            true => self.applied.reign_begun.1,
            false => self.applied.reign_written,
        };
        self.seen.get((written as usize).checked_sub(1)?).copied()
    }
}

fn reigning(applied: &Applied) -> Option<Epoch> {
    match answer(&applied.store, &Query::Reign) {
        Ok(Answer::Reign(record)) => record.map(|record| record.epoch),
        _ => None,
    }
}
