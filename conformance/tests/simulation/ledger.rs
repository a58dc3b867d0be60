//! What was committed, as seen from outside: checked whatever callers see.

use std::{collections::BTreeMap, sync::Arc};

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
    /// By how many entries were applied, where that is all that is seen of a log, what they have made.
    states: BTreeMap<u64, (Version, Epoch)>,
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

    /// Notes what a node has made of the first entries of its log: it must be what all others make of them, and
    /// neither version nor epoch ever falls.
    pub(crate) fn has_applied(&self, entries: u64, version: Version, epoch: Option<Epoch>) {
        let mut ledger = self.ledger.lock().unwrap();
        let state = (version, epoch.unwrap_or_default());
        let known = *ledger.states.entry(entries).or_insert(state);
        if known != state {
            let found = format!("{entries} entries have made {known:?}, and {state:?}");
            self.found(format!("two entries were committed: {found}"));
        }
        let is_before = |one: &(Version, Epoch), other: &(Version, Epoch)| {
            let (before, after) = (one.0.position(), other.0.position());
            before < after && one.1 <= other.1 || one == other
        };
        let before = ledger.states.range(..entries).next_back().map(|(_, state)| *state);
        let after = ledger.states.range(entries + 1..).next().map(|(_, state)| *state);
        for (one, other) in [(before, Some(state)), (Some(state), after)] {
            if let (Some(one), Some(other)) = (one, other)
                && !is_before(&one, &other)
            {
                self.found(format!("G5 fenced: {one:?} was followed by {other:?}"));
            }
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
