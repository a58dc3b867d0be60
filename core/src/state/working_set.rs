use std::{cell::RefCell, collections::BTreeMap, ops::Bound};

use super::{Record, View, Writes};
use crate::{
    Error, ErrorKind, Result,
    driver::{KeyRange, Reads, Snapshot, Version},
};

/// How many records are kept at most, and how many bytes of them. Beyond that all are dropped, and those in
/// use are read again.
const MOST_RECORDS: usize = 100_000;
const MOST_BYTES: usize = 64 << 20;

/// The most entries of a range that are asked for at once.
const MOST_ENTRIES: usize = 1_024;

/// What is known of one version of the state, decoded.
///
/// It answers from what it holds, exactly, or not at all: then it notes what is missing, so that it can
/// be read and the question asked again. A leader keeps one for as long as its commits go through, and
/// lays each of them over it.
#[derive(Default, Debug)]
pub struct WorkingSet {
    version: Version,
    /// Per key what is known of it: its record, or that there is none.
    records: BTreeMap<Vec<u8>, Option<Record>>,
    /// About how many bytes the records have.
    bytes: usize,
    /// Ranges, from a first key to before another, of which every record there is stands in `records`.
    ranges: BTreeMap<Vec<u8>, Vec<u8>>,
    missing: RefCell<Reads>,
}

impl WorkingSet {
    /// Nothing but the version.
    pub fn at(version: Version) -> Self {
        Self { version, ..Self::default() }
    }

    /// The version that everything here is of.
    pub fn version(&self) -> Version {
        self.version
    }

    /// What of `reads` is not known.
    pub fn lacks(&self, reads: Reads) -> Reads {
        let keys = reads.keys.into_iter().filter(|key| !self.knows(key));
        let ranges = reads.ranges.into_iter().filter(|range| {
            range.from < range.to
                && self.end_of_known(&range.from).is_none_or(|end| *end < range.to)
        });
        Reads { keys: keys.collect(), ranges: ranges.collect() }
    }

    /// What was asked for and is not known, since this was last called; `None` if all was known.
    pub fn take_missing(&self) -> Option<Reads> {
        Some(self.missing.take()).filter(|missing| !missing.is_empty())
    }

    /// Takes in what was read of the version that this is of.
    ///
    /// # Errors
    /// `Corrupt` for a value that cannot be read.
    ///
    /// # Panics
    /// If the snapshot is of another version: its records would make the same block be handed out twice.
    pub fn learn(&mut self, reads: Reads, snapshot: Snapshot) -> Result<()> {
        assert_eq!(snapshot.version, self.version, "records of two versions must not be mixed");
        for (key, value) in reads.keys.into_iter().zip(snapshot.values) {
            let record = value.map(|bytes| Record::decode(&key, bytes)).transpose()?;
            self.set(key, record);
        }
        for (range, entries) in reads.ranges.into_iter().zip(snapshot.ranges) {
            let KeyRange { from, mut to, limit } = range;
            if from >= to || limit == 0 {
                // Nothing is known by it.
                continue;
            }
            if entries.len() >= limit
                && let Some((last, _)) = entries.last()
            {
                // Behind a key comes first the one that is a zero byte longer.
                to = [last, &[0][..]].concat();
            }
            for (key, value) in entries {
                let record = Record::decode(&key, value)?;
                self.set(key, Some(record));
            }
            self.learn_range(from, to);
        }
        Ok(())
    }

    /// Goes on with what a commit has left, which made `version` of the version that this is of.
    pub fn advance(&mut self, version: Version, writes: Writes) {
        self.version = version;
        if self.records.len() >= MOST_RECORDS || self.bytes >= MOST_BYTES {
            *self = Self::at(version);
        }
        for (key, record) in writes {
            if self.end_of_known(&key).is_some() && record.is_none() {
                let removed = self.records.remove(&key).flatten();
                self.bytes -= removed.map_or(0, |removed| removed.size());
            } else if self.knows(&key) {
                self.set(key, record);
            }
        }
    }

    fn set(&mut self, key: Vec<u8>, record: Option<Record>) {
        self.bytes += record.as_ref().map_or(0, Record::size);
        let replaced = self.records.insert(key, record).flatten();
        self.bytes -= replaced.map_or(0, |replaced| replaced.size());
    }

    fn learn_range(&mut self, mut from: Vec<u8>, mut to: Vec<u8>) {
        // Ranges that touch are one.
        if let Some((start, end)) = self.ranges.range(..=from.clone()).next_back()
            && *end >= from
        {
            to = to.max(end.clone());
            from.clone_from(start);
        }
        let within = (Bound::Excluded(from.clone()), Bound::Included(to.clone()));
        let joined: Vec<_> = self.ranges.range(within).map(|(start, _)| start.clone()).collect();
        for start in joined {
            to = to.max(self.ranges.remove(&start).unwrap_or_default());
        }
        self.ranges.insert(from, to);
    }

    /// Where the known range that holds `key` ends, if there is one.
    fn end_of_known(&self, key: &[u8]) -> Option<&Vec<u8>> {
        let before = (Bound::Unbounded, Bound::Included(key));
        let (_, end) = self.ranges.range::<[u8], _>(before).next_back()?;
        Some(end).filter(|end| key < end.as_slice())
    }

    fn knows(&self, key: &[u8]) -> bool {
        self.records.contains_key(key) || self.end_of_known(key).is_some()
    }
}

impl View for WorkingSet {
    fn get(&self, key: &[u8]) -> Result<Option<&Record>> {
        match self.records.get(key) {
            Some(record) => Ok(record.as_ref()),
            None if self.end_of_known(key).is_some() => Ok(None),
            None => {
                self.missing.borrow_mut().keys.push(key.into());
                Err(missing())
            }
        }
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<(&[u8], &Record)>> {
        if limit == 0 || from >= to {
            return Ok(vec![]);
        }
        let lacks = |from: &[u8]| {
            let range =
                KeyRange { from: from.into(), to: to.into(), limit: limit.min(MOST_ENTRIES) };
            self.missing.borrow_mut().ranges.push(range);
            missing()
        };
        let end = self.end_of_known(from).ok_or_else(|| lacks(from))?;
        let bounds = (Bound::Included(from), Bound::Excluded(to.min(end.as_slice())));
        let records = self.records.range::<[u8], _>(bounds);
        let there = records.filter_map(|(key, record)| Some((key.as_slice(), record.as_ref()?)));
        let found: Vec<_> = there.take(limit).collect();
        if found.len() < limit && end.as_slice() < to {
            return Err(lacks(end));
        }
        Ok(found)
    }
}

/// The error of a question that has to wait for what is missing. No caller of the engine sees it.
fn missing() -> Error {
    Error::new(ErrorKind::Unavailable, "a part of the state has to be read first")
}
