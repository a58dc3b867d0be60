use std::collections::BTreeMap;

use super::{Record, answers::AnswerRecord, keys::Key, written::Written};
use crate::Result;

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

/// The records that one command writes, in order: of two writes under one key the later one counts.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Writes(Vec<(Key, Write)>);

/// What is written under a key.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) enum Write {
    Put(Record),
    Delete,
    /// Adds the answer to this request to the page of answers, which is begun if there is none.
    Answer(u64, AnswerRecord),
}

impl Writes {
    /// None yet, with room for that many.
    pub(super) fn with_capacity(writes: usize) -> Self {
        Self(Vec::with_capacity(writes))
    }

    /// Writes a record under `key`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, record: impl Into<Record>) {
        self.0.push((Key::from_slice(key.as_ref()), Write::Put(record.into())));
    }

    /// As [`put`](Self::put), with a key that was made for it.
    pub(super) fn set(&mut self, key: Key, record: impl Into<Record>) {
        self.0.push((key, Write::Put(record.into())));
    }

    /// Deletes `key`; that it does not exist is no error.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        self.0.push((Key::from_slice(key.as_ref()), Write::Delete));
    }

    /// Adds an answer to the page under `key`.
    pub(super) fn answer(&mut self, key: Key, number: u64, answer: AnswerRecord) {
        self.0.push((key, Write::Answer(number, answer)));
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// How many writes there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = &(Key, Write)> {
        self.0.iter()
    }

    pub(super) fn into_parts(self) -> Vec<(Key, Write)> {
        self.0
    }
}

impl FromIterator<(Key, Option<Record>)> for Writes {
    fn from_iter<I: IntoIterator<Item = (Key, Option<Record>)>>(records: I) -> Self {
        let write = |record: Option<Record>| record.map_or(Write::Delete, Write::Put);
        Self(records.into_iter().map(|(key, record)| (key, write(record))).collect())
    }
}

/// A view with writes over it that are not stored yet.
pub(super) struct Overlay<'a> {
    pub(super) below: &'a dyn View,
    pub(super) writes: &'a Written,
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<&Record>> {
        match self.writes.get(key) {
            Some(written) => Ok(written),
            None => self.below.get(key),
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(&[u8], &Record)>> {
        let written = self.writes.range(from, to);
        if written.is_empty() {
            return self.below.scan(from, to, limit);
        }
        // Each deletion may hide one record from below, so this many more are read.
        let hidden = written.iter().filter(|(_, record)| record.is_none()).count();
        let below = self.below.scan(from, to, limit.saturating_add(hidden))?;
        let mut merged: BTreeMap<&[u8], &Record> = below.into_iter().collect();
        for (key, record) in written {
            match record {
                Some(record) => drop(merged.insert(key, record)),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}
