//! Sequences of a state that was restored from a backup: values granted after it was taken would be granted
//! once more. They are closed until an operator says from where they go on, or that this may happen.
//!
//! A sequence that the backup does not know may have been used since, so one is closed as the other.

use std::collections::BTreeMap;

use super::{
    OpenSequences, Record, Reject, Reply, View, Writes, keys,
    plan::Planned,
    record::{Meta, RESTORED_RULES, RestoredRecord, load},
    reign,
    sequence::LAST_START,
};
use crate::{Epoch, Result, SeqKey, driver::Entry};

/// Whether values of a sequence may be granted.
pub(super) fn check(view: &dyn View, meta: &Meta, key: &SeqKey) -> Result<Result<(), Reject>> {
    // Nearly always: no state has anything to look at before.
    if meta.rules < RESTORED_RULES {
        return Ok(Ok(()));
    }
    let Some(restored) = load::<RestoredRecord>(view, keys::RESTORED)? else { return Ok(Ok(())) };
    match view.get(&keys::opened(key))? {
        Some(_) => Ok(Ok(())),
        None => Ok(Err(Reject::SequenceClosed { key: key.clone(), taken_ms: restored.taken_ms })),
    }
}

/// Lets sequences be granted from: some not below a floor, or all wherever they stand.
pub(super) fn open(view: &dyn View, epoch: Epoch, open: &OpenSequences) -> Result<Planned> {
    if let Err(reject) = reign::serving(view, epoch)? {
        return Ok(Err(reject));
    }
    let is_closed = load::<RestoredRecord>(view, keys::RESTORED)?.is_some();
    let stored = Meta::load(view)?;
    let mut meta = stored.clone();
    let (mut writes, mut nexts) = (Writes::default(), Vec::with_capacity(open.floors.len()));
    for (key, floor) in &open.floors {
        if *floor > LAST_START {
            return Ok(Err(Reject::NothingLeft { key: key.clone(), start: *floor }));
        }
        let place = keys::sequence(key);
        let before = load::<u64>(view, &place)?.copied();
        if !is_closed {
            // A repeated request, whose first answer was lost, finds what it has made.
            match before {
                Some(next) if next >= *floor => nexts.push(next),
                _ => return Ok(Err(Reject::NotRestored)),
            }
            continue;
        }
        let next = before.unwrap_or_default().max(*floor);
        if before.is_none() {
            meta.keys += 1;
        }
        writes.put(place, next);
        writes.put(keys::opened(key), Record::Mark);
        nexts.push(next);
    }
    if meta != stored {
        writes.put(keys::META, meta);
    }
    if open.all && is_closed {
        writes.delete(keys::RESTORED);
    }
    Ok(Ok((Reply::SequencesOpened { nexts, closed: is_closed && !open.all }, writes)))
}

/// Whether an entry is a trace of an earlier restore, which a backup carries along and the next restore leaves out.
fn is_of_restoring(key: &[u8]) -> bool {
    key.first() == keys::RESTORED.first()
}

/// What a restore makes of the entries of a backup: sequences begin not below their floors, and all others are
/// closed unless their loss is accepted.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    /// Nothing if their loss is accepted.
    pub(crate) taken_ms: Option<u64>,
    /// In the order of their keys.
    pub(crate) floors: BTreeMap<SeqKey, u64>,
    /// How many of the floors are of sequences that the backup does not have.
    pub(crate) new_keys: u64,
}

impl Closing {
    /// What becomes of an entry of the backup, in the order of their keys. Nothing of one that is left out.
    ///
    /// # Errors
    /// `Corrupt` for one that cannot be read.
    pub(crate) fn of(&self, (key, value): Entry) -> Result<Option<Entry>> {
        if is_of_restoring(&key) {
            return Ok(None);
        }
        if key != keys::META && key.first() != Some(&b's') {
            return Ok(Some((key, value)));
        }
        let record = match Record::decode(&key, value)? {
            Record::Meta(meta) => Record::Meta(Meta {
                keys: meta.keys + self.new_keys,
                rules: match self.taken_ms {
                    Some(_) => meta.rules.max(RESTORED_RULES),
                    None => meta.rules,
                },
                ..meta
            }),
            Record::Next(next) => {
                let floor = keys::name_of(&key).and_then(|name| self.floors.get(&name).copied());
                Record::Next(next.max(floor.unwrap_or_default()))
            }
            other => other,
        };
        let value = record.encode();
        Ok(Some((key, value)))
    }

    /// The entries that are added, in the order of their keys.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn added(
        &self,
        has_counts: bool,
        is_known: impl Fn(&SeqKey) -> bool,
    ) -> Result<Vec<Entry>> {
        let new = self.floors.iter().filter(|(key, _)| !is_known(key));
        let entry = |key: &[u8], record: Record| (key.to_vec(), record.encode());
        let mut added = vec![];
        if !has_counts {
            added.extend(self.of(entry(keys::META, Meta::default().into()))?);
        }
        added.extend(new.map(|(key, floor)| entry(&keys::sequence(key), Record::Next(*floor))));
        if let Some(taken_ms) = self.taken_ms {
            added.push(entry(keys::RESTORED, RestoredRecord { taken_ms }.into()));
            let marks = self.floors.keys().map(|key| entry(&keys::opened(key), Record::Mark));
            added.extend(marks);
        }
        Ok(added)
    }
}
