use std::{collections::BTreeMap, ops::Bound};

use super::Record;
use crate::{Result, driver::Effect};

/// What the rules read through.
pub trait View {
    /// The record under `key`.
    ///
    /// # Errors
    /// `Unavailable` where that has to be fetched first.
    fn get(&self, key: &[u8]) -> Result<Option<&Record>>;

    /// The first `limit` records from `from` (inclusive) to `to` (exclusive), in the order of keys.
    ///
    /// # Errors
    /// As [`get`](Self::get).
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(&[u8], &Record)>>;
}

/// The records to write, all or none: one per key, or `None` to delete it.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Writes(BTreeMap<Vec<u8>, Option<Record>>);

impl Writes {
    /// Writes a record under `key`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, record: impl Into<Record>) {
        self.0.insert(key.into(), Some(record.into()));
    }

    /// Deletes `key`; that it does not exist is no error.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), None);
    }

    /// Adds the writes of `later`, which win.
    pub fn merge(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many records are written or deleted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    fn size_of(key: &[u8], record: Option<&Record>) -> usize {
        Effect::size_of(key, None) + record.map_or(0, Record::size)
    }

    pub(super) fn get(&self, key: &[u8]) -> Option<Option<&Record>> {
        self.0.get(key).map(Option::as_ref)
    }

    pub(super) fn get_mut(&mut self, key: &[u8]) -> Option<&mut Record> {
        self.0.get_mut(key)?.as_mut()
    }

    /// What `later` would add to the count of writes and to their bytes.
    pub(super) fn growth(&self, later: &Self) -> (usize, usize) {
        later.0.iter().fold((0, 0), |(writes, bytes), (key, record)| {
            let size = Self::size_of(key, record.as_ref());
            match self.0.get(key) {
                None => (writes + 1, bytes + size),
                Some(old) => {
                    (writes, bytes + size.saturating_sub(Self::size_of(key, old.as_ref())))
                }
            }
        })
    }

    /// The effect that makes these writes.
    pub(super) fn encode(&self) -> Effect {
        let writes = self.0.iter();
        writes.map(|(key, record)| (key.clone(), record.as_ref().map(Record::encode))).collect()
    }

    fn range(&self, from: &[u8], to: &[u8]) -> impl Iterator<Item = (&Vec<u8>, &Option<Record>)> {
        self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to.max(from))))
    }
}

/// A view with writes over it that are not stored yet.
pub(super) struct Overlay<'a> {
    pub(super) below: &'a dyn View,
    pub(super) writes: &'a Writes,
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<&Record>> {
        match self.writes.get(key) {
            Some(written) => Ok(written),
            None => self.below.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(&[u8], &Record)>> {
        let written: Vec<_> = self.writes.range(from, to).collect();
        if written.is_empty() {
            return self.below.scan(from, to, limit);
        }
        // Each deletion may hide one record from below, so that many more are asked for.
        let hidden = written.iter().filter(|(_, record)| record.is_none()).count();
        let below = self.below.scan(from, to, limit.saturating_add(hidden))?;
        let mut merged: BTreeMap<&[u8], &Record> = below.into_iter().collect();
        for (key, record) in written {
            match record {
                Some(record) => drop(merged.insert(key, record)),
                None => drop(merged.remove(key.as_slice())),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

impl IntoIterator for Writes {
    type Item = (Vec<u8>, Option<Record>);
    type IntoIter = std::collections::btree_map::IntoIter<Vec<u8>, Option<Record>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}
