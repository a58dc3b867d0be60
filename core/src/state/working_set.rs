use std::{
    cell::RefCell,
    collections::{BTreeMap, BTreeSet},
    ops::Bound,
};

use foldhash::HashMap;

use super::{Record, View, Writes, answers::AnswerPage, keys::Key, record::load, view::Write};
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
    records: HashMap<Key, Option<Record>>,
    /// About how many bytes the records have.
    bytes: usize,
    /// Ranges of which every record there is stands in `records`, by their first keys.
    ranges: BTreeMap<Key, Range>,
    missing: RefCell<Reads>,
}

/// A range of which all is known.
#[derive(Default, Debug)]
struct Range {
    /// The key behind the last one.
    end: Key,
    /// The keys under which there are records, in order.
    keys: BTreeSet<Key>,
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
            self.set(Key::from_slice(&key), record);
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
            let mut keys = BTreeSet::new();
            for (key, value) in entries {
                let record = Record::decode(&key, value)?;
                let key = Key::from_slice(&key);
                self.set(key.clone(), Some(record));
                keys.insert(key);
            }
            self.learn_range(Key::from_slice(&from), Range { end: Key::from_slice(&to), keys });
        }
        Ok(())
    }

    /// Goes on with what a commit has left, which made `version` of the version that this is of.
    pub fn advance(&mut self, version: Version, writes: Writes) {
        self.version = version;
        if self.records.len() >= MOST_RECORDS || self.bytes >= MOST_BYTES {
            // As many will be kept again.
            self.records.clear();
            self.ranges.clear();
            self.bytes = 0;
        }
        for (key, write) in writes.into_parts() {
            match write {
                Write::Put(record) => self.replace(key, Some(record)),
                Write::Delete => self.replace(key, None),
                Write::Answer(number, answer) => {
                    // One that is not known stays so.
                    if let Ok(page) = load::<AnswerPage>(self, &key) {
                        let page = AnswerPage::with(page, number, &answer);
                        self.replace(key, Some(page.into()));
                    }
                }
            }
        }
    }

    /// Lays a write over what is known. What is not known of before stays so.
    fn replace(&mut self, key: Key, record: Option<Record>) {
        let size = record.as_ref().map_or(0, Record::size);
        match self.records.get_mut(&key) {
            Some(old) if old.is_some() && record.is_some() => {
                self.bytes += size;
                self.bytes -= old.as_ref().map_or(0, Record::size);
                *old = record;
            }
            old => {
                let is_known = old.is_some();
                if let Some(range) = self.range_of_mut(&key) {
                    match record {
                        Some(_) => drop(range.keys.insert(key.clone())),
                        None => drop(range.keys.remove(&key)),
                    }
                    if record.is_none() {
                        self.forget(&key);
                    } else {
                        self.set(key, record);
                    }
                } else if is_known {
                    self.set(key, record);
                }
            }
        }
    }

    fn set(&mut self, key: Key, record: Option<Record>) {
        self.bytes += record.as_ref().map_or(0, Record::size);
        let replaced = self.records.insert(key, record).flatten();
        self.bytes -= replaced.map_or(0, |replaced| replaced.size());
    }

    fn forget(&mut self, key: &Key) {
        let removed = self.records.remove(key).flatten();
        self.bytes -= removed.map_or(0, |removed| removed.size());
    }

    fn learn_range(&mut self, mut from: Key, mut learned: Range) {
        // Ranges that touch are one.
        if let Some((start, before)) = self.ranges.range::<[u8], _>(up_to(&from)).next_back()
            && before.end >= from
        {
            from = start.clone();
        }
        let within = (Bound::Included(&from[..]), Bound::Included(&learned.end[..]));
        let joined: Vec<_> =
            self.ranges.range::<[u8], _>(within).map(|(start, _)| start.clone()).collect();
        for start in joined {
            let mut joined = self.ranges.remove(&start).unwrap_or_default();
            learned.end = learned.end.max(joined.end);
            learned.keys.append(&mut joined.keys);
        }
        self.ranges.insert(from, learned);
    }

    /// The known range that holds `key`, if there is one.
    fn range_of(&self, key: &[u8]) -> Option<&Range> {
        let (_, range) = self.ranges.range::<[u8], _>(up_to(key)).next_back()?;
        Some(range).filter(|range| *key < range.end[..])
    }

    fn range_of_mut(&mut self, key: &[u8]) -> Option<&mut Range> {
        let (_, range) = self.ranges.range_mut::<[u8], _>(up_to(key)).next_back()?;
        Some(range).filter(|range| *key < range.end[..])
    }

    /// Whether it answers what stands under `key`.
    pub(super) fn knows(&self, key: &[u8]) -> bool {
        self.records.contains_key(key) || self.range_of(key).is_some()
    }

    /// Whether it answers what there is from `from` (inclusive) to `to` (exclusive).
    pub(super) fn knows_range(&self, from: &[u8], to: &[u8]) -> bool {
        from >= to || self.range_of(from).is_some_and(|known| to <= &known.end[..])
    }
}

fn up_to(key: &[u8]) -> (Bound<&[u8]>, Bound<&[u8]>) {
    (Bound::Unbounded, Bound::Included(key))
}

impl View for WorkingSet {
    fn get(&self, key: &[u8]) -> Result<Option<&Record>> {
        match self.records.get(key) {
            Some(record) => Ok(record.as_ref()),
            None if self.range_of(key).is_some() => Ok(None),
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
        let known = self.range_of(from).ok_or_else(|| lacks(from))?;
        let end = &known.end[..];
        let bounds = (Bound::Included(from), Bound::Excluded(to.min(end)));
        let there = known.keys.range::<[u8], _>(bounds);
        let there = there.filter_map(|key| Some((&key[..], self.records.get(key)?.as_ref()?)));
        let found: Vec<_> = there.take(limit).collect();
        if found.len() < limit && end < to {
            return Err(lacks(end));
        }
        Ok(found)
    }
}

/// The error of a question that has to wait for what is missing. No caller of the engine sees it.
fn missing() -> Error {
    Error::new(ErrorKind::Unavailable, "a part of the state has to be read first")
}
