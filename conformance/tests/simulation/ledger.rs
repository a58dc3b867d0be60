//! What was committed, as seen from outside: checked whatever callers see.

use std::sync::Arc;

use tsoracle_core::{Epoch, Version};

use crate::{
    disk::{Commit, Entry},
    world::World,
};

/// What was committed, as seen from outside.
#[derive(Default)]
pub(crate) struct Ledger {
    entries: Vec<Entry>,
    /// The place of the last commit that was stored, and the version that it made.
    stored: (u64, Version),
    epoch: Epoch,
}

impl World {
    /// Notes what a node has applied: it must be what all others apply there.
    pub(crate) fn applied(&self, place: u64, entry: &Entry) {
        let mut ledger = self.ledger.lock().unwrap();
        match ledger.entries.get(place as usize - 1) {
            Some(before) if !Arc::ptr_eq(&before.payload, &entry.payload) => {
                self.found(format!("two entries were committed at {place}"));
            }
            Some(_) => {}
            None => ledger.entries.push(entry.clone()),
        }
    }

    /// Notes a commit that was stored, as some node's: each follows the one before, and none is of a reign
    /// that is over.
    pub(crate) fn stored(&self, place: u64, commit: &Commit, reign: Option<Epoch>) {
        let mut ledger = self.ledger.lock().unwrap();
        if place <= ledger.stored.0 {
            return;
        }
        if commit.base != ledger.stored.1 {
            let version = ledger.stored.1;
            self.found(format!("{:?} was stored on {version:?}", commit));
        }
        ledger.stored = (place, commit.next);
        if let Some(epoch) = reign {
            if epoch < ledger.epoch {
                self.found(format!("G5 fenced: epoch {epoch} wrote after {}", ledger.epoch));
            }
            ledger.epoch = ledger.epoch.max(epoch);
        }
    }
}
