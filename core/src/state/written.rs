use std::{
    collections::{BTreeSet, hash_map::Entry},
    ops::Bound,
};

use foldhash::HashMap;

use super::{
    Record, View, Writes,
    answers::AnswerPage,
    keys::{self, Key},
    record::load,
    view::Write,
};
use crate::{Result, driver::Effect};

/// What the commands of one commit write, together: one record per key, or `None` to delete it.
#[derive(Default, Debug)]
pub(super) struct Written {
    records: HashMap<Key, Option<Record>>,
    /// Those keys that rules look for in ranges, in order.
    ordered: BTreeSet<Key>,
    /// No less than what the effect takes.
    bytes: usize,
}

impl Written {
    pub(super) fn len(&self) -> usize {
        self.records.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.records.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Record>> {
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

    /// The most writes and bytes that `writes` would add.
    ///
    /// # Errors
    /// Those of `known`, of which the command that writes this has read what is asked for here.
    pub(super) fn growth(&self, known: &dyn View, writes: &Writes) -> Result<(usize, usize)> {
        let mut bytes = 0;
        for (key, write) in writes.iter() {
            bytes += match write {
                Write::Put(record) => size_of(key, Some(record)),
                Write::Delete => size_of(key, None),
                Write::Answer(number, answer) => {
                    let page = match self.get(key) {
                        Some(Some(_)) => 0,
                        Some(None) => AnswerPage::EMPTY_BYTES,
                        None => load::<AnswerPage>(known, key)?
                            .map_or(AnswerPage::EMPTY_BYTES, |page| page.as_bytes().len()),
                    };
                    size_of(key, None) + page + answer.size(*number)
                }
            };
        }
        Ok((writes.len(), bytes))
    }

    /// Adds the writes of one more command, which win.
    ///
    /// # Errors
    /// As [`growth`](Self::growth).
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
                if keys::is_ordered(new.key()) {
                    self.ordered.insert(new.key().clone());
                }
                new.insert(record);
            }
        }
    }

    /// The effect that makes these writes, and the writes themselves, both in the order of keys.
    pub(super) fn finish(self) -> (Effect, Writes) {
        // One more for the version.
        let mut effect = Effect::with_capacity(self.records.len() + 1, self.bytes);
        let mut records: Vec<_> = self.records.into_iter().collect();
        records.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        for (key, record) in &records {
            match record {
                Some(record) => effect.put_with(key, |bytes| record.encode_to(bytes)),
                None => effect.delete(key),
            }
        }
        (effect, records.into_iter().collect())
    }
}

fn size_of(key: &[u8], record: Option<&Record>) -> usize {
    Effect::size_of(key, None) + record.map_or(0, Record::size)
}
