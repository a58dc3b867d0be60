use std::{collections::BTreeSet, ops::Bound};

use foldhash::fast::RandomState;
use indexmap::{IndexMap, map::Entry};

use super::{
    Record, View, Writes,
    answers::AnswerPage,
    keys::{self, Key},
    record::load,
    view::Write,
};
use crate::{
    Result,
    driver::{CommitLimits, Effect},
};

/// Room for the version that each commit writes.
const VERSION_BYTES: usize = 64;

/// What the commands of one commit write, together: one record per key, or `None` to delete it.
#[derive(Default, Debug)]
pub(super) struct Written {
    /// In the order in which they were first written.
    records: IndexMap<Key, Option<Record>, RandomState>,
    /// How many of them have a key of one byte.
    singles: usize,
    /// Those keys that rules look for in ranges, in order.
    ordered: BTreeSet<Key>,
    /// No less than what the effect takes.
    bytes: usize,
}

impl Written {
    /// Nothing yet, with room for that many records.
    pub(super) fn with_capacity(records: usize) -> Self {
        let records = IndexMap::with_capacity_and_hasher(records, RandomState::default());
        Self { records, ..Self::default() }
    }

    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Record>> {
        // Every command looks at keys of one byte, and few write them.
        if key.len() == 1 && self.singles == 0 {
            return None;
        }
        self.records.get(key).map(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Record> {
        self.records.get_mut(key)?.as_mut()
    }

    /// What is written from `from` (inclusive) to `to` (exclusive), in the order of keys.
    pub(super) fn range(&self, from: &[u8], to: &[u8]) -> Vec<(&[u8], Option<&Record>)> {
        if from >= to {
            return vec![];
        }
        if keys::are_ordered(from, to) {
            let bounds = (Bound::Included(from), Bound::Excluded(to));
            let within = self.ordered.range::<[u8], _>(bounds);
            return within.map(|key| (&key[..], self.records[key].as_ref())).collect();
        }
        let all = self.records.iter().map(|(key, record)| (&key[..], record.as_ref()));
        let mut within: Vec<_> = all.filter(|(key, _)| *key >= from && *key < to).collect();
        within.sort_unstable_by_key(|(key, _)| *key);
        within
    }

    /// Whether there is room for `writes` as well.
    ///
    /// # Errors
    /// Those of `known`, of which the command that writes this has read what is asked for here.
    pub(super) fn has_room(
        &self,
        known: &dyn View,
        writes: &Writes,
        limits: CommitLimits,
    ) -> Result<bool> {
        let mut bytes = self.bytes + VERSION_BYTES;
        let mut pages = 0;
        for (key, write) in writes.iter() {
            bytes += match write {
                Write::Put(record) => size_of(key, Some(record)),
                Write::Delete => size_of(key, None),
                Write::Answer(number, answer) => {
                    pages += 1;
                    size_of(key, None) + answer.size(*number)
                }
            };
        }
        // One more for the version.
        if self.len() + writes.len() + 1 > limits.writes {
            return Ok(false);
        }
        // Nearly always the pages need no look.
        if bytes + pages * AnswerPage::MOST_BYTES <= limits.bytes {
            return Ok(true);
        }
        for (key, write) in writes.iter() {
            if matches!(write, Write::Answer(..)) && !matches!(self.get(key), Some(Some(_))) {
                let page = load::<AnswerPage>(known, key)?.map(|page| page.as_bytes().len());
                bytes += page.unwrap_or(AnswerPage::EMPTY_BYTES);
            }
        }
        Ok(bytes <= limits.bytes)
    }

    /// Adds the writes of one more command, which win.
    ///
    /// # Errors
    /// As [`has_room`](Self::has_room).
    pub(super) fn merge(&mut self, known: &dyn View, writes: Writes) -> Result<()> {
        for (key, write) in writes.into_parts() {
            match write {
                Write::Put(record) => self.set(key, Some(record)),
                Write::Delete => self.set(key, None),
                Write::Answer(number, answer) => match self.records.get_mut(&key) {
                    Some(Some(Record::Answers(page))) => {
                        self.bytes += answer.size(number);
                        page.append(number, &answer);
                    }
                    Some(_) => self.set(key, Some(AnswerPage::with(None, number, &answer).into())),
                    None => {
                        let page = load::<AnswerPage>(known, &key)?;
                        let page = AnswerPage::with(page, number, &answer);
                        self.set(key, Some(page.into()));
                    }
                },
            }
        }
        Ok(())
    }

    fn set(&mut self, key: Key, record: Option<Record>) {
        let size = size_of(&key, record.as_ref());
        match self.records.entry(key) {
            Entry::Occupied(mut old) => {
                self.bytes += size.saturating_sub(size_of(old.key(), old.get().as_ref()));
                old.insert(record);
            }
            Entry::Vacant(new) => {
                self.bytes += size;
                self.singles += usize::from(new.key().len() == 1);
                if keys::is_ordered(new.key()) {
                    self.ordered.insert(new.key().clone());
                }
                new.insert(record);
            }
        }
    }

    /// The effect that makes these writes, and the writes themselves.
    pub(super) fn finish(self) -> (Effect, Writes) {
        let mut order: Vec<_> =
            self.records.keys().enumerate().map(|(at, key)| (first_bytes(key), at)).collect();
        let key = |at: usize| self.records.get_index(at).map(|(key, _)| key);
        order.sort_unstable_by(|(one, one_at), (other, other_at)| {
            one.cmp(other).then_with(|| key(*one_at).cmp(&key(*other_at)))
        });
        // One more for the version.
        let mut effect = Effect::with_capacity(self.records.len() + 1, self.bytes + VERSION_BYTES);
        for (_, at) in order {
            match self.records.get_index(at) {
                Some((key, Some(record))) => effect.put_with(key, |bytes| record.encode_to(bytes)),
                Some((key, None)) => effect.delete(key),
                None => {}
            }
        }
        (effect, self.records.into_iter().collect())
    }
}

/// What keys are compared by first, which is quicker than to compare all of them.
fn first_bytes(key: &[u8]) -> u128 {
    let mut bytes = [0; 16];
    let len = key.len().min(bytes.len());
    bytes[..len].copy_from_slice(&key[..len]);
    u128::from_be_bytes(bytes)
}

fn size_of(key: &[u8], record: Option<&Record>) -> usize {
    Effect::size_of(key, None) + record.map_or(0, Record::size)
}
