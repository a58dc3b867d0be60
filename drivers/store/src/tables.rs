//! The state in memory: ordered maps, of which a copy costs nothing.

use std::{
    cmp::Ordering,
    ops::Bound::{Excluded, Included},
    sync::Arc,
};

use equivalent::{Comparable, Equivalent};
use imbl::OrdSet;
use tsoracle_core::{Effect, Entry};

/// The beginning of a key, as a number of the same order. Most keys differ in it, so that a search compares what lies
/// in the nodes of the tree, and does not follow a pointer for each comparison.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
struct Prefix(u128);

impl Prefix {
    fn of(key: &[u8]) -> Self {
        let mut bytes = [0; 16];
        let length = key.len().min(bytes.len());
        bytes[..length].copy_from_slice(&key[..length]);
        Self(u128::from_be_bytes(bytes))
    }
}

/// A key with its value, in one allocation: the key's length, the key, the value.
#[derive(Clone, Debug)]
struct Record {
    prefix: Prefix,
    bytes: Arc<[u8]>,
}

impl Record {
    fn new(key: &[u8], value: &[u8], buffer: &mut Vec<u8>) -> Self {
        let length = u32::try_from(key.len()).expect("a journal takes no key of 4 GiB");
        buffer.clear();
        buffer.extend_from_slice(&length.to_le_bytes());
        buffer.extend_from_slice(key);
        buffer.extend_from_slice(value);
        Self { prefix: Prefix::of(key), bytes: buffer.as_slice().into() }
    }

    fn split(&self) -> (&[u8], &[u8]) {
        let (length, rest) = self.bytes.split_first_chunk().expect("a record has a length");
        rest.split_at(u32::from_le_bytes(*length) as usize)
    }
}

/// A key that is looked for.
#[derive(Clone, Copy)]
struct Wanted<'a> {
    prefix: Prefix,
    key: &'a [u8],
}

impl<'a> Wanted<'a> {
    fn new(key: &'a [u8]) -> Self {
        Self { prefix: Prefix::of(key), key }
    }
}

impl Equivalent<Record> for Wanted<'_> {
    fn equivalent(&self, record: &Record) -> bool {
        self.compare(record).is_eq()
    }
}

impl Comparable<Record> for Wanted<'_> {
    fn compare(&self, record: &Record) -> Ordering {
        self.prefix.cmp(&record.prefix).then_with(|| self.key.cmp(record.split().0))
    }
}

impl Ord for Record {
    fn cmp(&self, other: &Self) -> Ordering {
        self.prefix.cmp(&other.prefix).then_with(|| self.split().0.cmp(other.split().0))
    }
}

impl PartialOrd for Record {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Record {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Record {}

/// One table. A clone shares everything with it that neither changes.
#[derive(Clone, Default, Debug)]
pub(crate) struct Map {
    records: OrdSet<Record>,
    buffer: Vec<u8>,
}

impl Map {
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        self.records.insert(Record::new(key, value, &mut self.buffer));
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        self.records.remove(&Wanted::new(key));
    }

    pub(crate) fn apply(&mut self, effect: &Effect) {
        for (key, value) in effect.iter() {
            match value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.records.get(&Wanted::new(key)).map(|record| record.split().1)
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.records.iter().map(Record::split)
    }

    pub(crate) fn entries(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Entry> {
        if from >= to {
            return vec![];
        }
        let range = (Included(Wanted::new(from)), Excluded(Wanted::new(to)));
        self.records.range(range).take(limit).map(|record| owned(record.split())).collect()
    }

    pub(crate) fn last(&self) -> Option<Entry> {
        self.records.get_max().map(|record| owned(record.split()))
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.records.len()
    }
}

fn owned((key, value): (&[u8], &[u8])) -> Entry {
    (key.to_vec(), value.to_vec())
}

/// All tables, by their names. There are a handful.
#[derive(Clone, Default, Debug)]
pub(crate) struct Tables(Vec<(Arc<str>, Map)>);

impl Tables {
    pub(crate) fn get(&self, name: &str) -> Option<&Map> {
        self.0.iter().find(|(found, _)| **found == *name).map(|(_, map)| map)
    }

    /// The table of that name; created if it does not exist.
    pub(crate) fn table(&mut self, name: &str) -> &mut Map {
        let index = self.0.iter().position(|(found, _)| **found == *name);
        let index = index.unwrap_or_else(|| {
            self.0.push((name.into(), Map::default()));
            self.0.len() - 1
        });
        &mut self.0[index].1
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&str, &Map)> {
        self.0.iter().map(|(name, map)| (&**name, map))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clone_keeps_what_it_held() {
        let mut tables = Tables::default();
        (0..1_000_u32).for_each(|key| tables.table("t").put(&key.to_be_bytes(), b"old"));
        let before = tables.clone();
        (0..1_000_u32).for_each(|key| tables.table("t").put(&key.to_be_bytes(), b"newer"));
        tables.table("t").delete(&7_u32.to_be_bytes());
        let (map, before) = (tables.get("t").unwrap(), before.get("t").unwrap());
        assert_eq!((map.len(), before.len()), (999, 1_000));
        assert!(before.iter().all(|(_, value)| value == b"old"));
        assert!(map.iter().all(|(_, value)| value == b"newer"));
        assert_eq!(map.get(&7_u32.to_be_bytes()), None);
    }

    /// Those too that have the same beginning, or end within it.
    #[test]
    fn a_search_finds_what_a_comparison_of_whole_keys_would() {
        let long = |end: &[u8]| [&b"sixteen bytes at"[..], end].concat();
        let mut keys = vec![vec![], long(b""), long(b"1"), long(b"12"), long(b"2"), long(&[0])];
        keys.extend(
            [&b"a"[..], b"a\0", b"a\0\0b", b"b", &[255; 17], &[255; 16], &[0; 3]]
                .map(<[u8]>::to_vec),
        );
        let mut map = Map::default();
        for key in keys.iter().rev() {
            map.put(key, key);
        }
        keys.sort();
        assert!(map.iter().map(|(key, _)| key).eq(&keys));
        for (at, key) in keys.iter().enumerate() {
            assert_eq!(map.get(key), Some(&key[..]));
            assert_eq!(map.get(&[&key[..], b"x"].concat()), None);
            assert!(map.entries(key, &[255; 18], 99).iter().map(|(key, _)| key).eq(&keys[at..]));
        }
        for key in &keys {
            map.delete(key);
            assert_eq!(map.get(key), None);
        }
        assert_eq!(map.len(), 0);
    }

    #[test]
    fn entries_are_in_the_order_of_their_keys() {
        let mut map = Map::default();
        for key in [&b"b"[..], b"", b"ab", b"a"] {
            map.put(key, key);
        }
        let keys = |from: &[u8], to: &[u8], limit| {
            map.entries(from, to, limit).into_iter().map(|(key, _)| key).collect::<Vec<_>>()
        };
        assert_eq!(keys(b"", b"z", 9), [&b""[..], b"a", b"ab", b"b"]);
        assert_eq!(keys(b"a", b"b", 9), [&b"a"[..], b"ab"]);
        assert_eq!(keys(b"a", b"z", 1), [b"a"]);
        assert!(keys(b"b", b"a", 9).is_empty() && keys(b"b", b"b", 9).is_empty());
        assert_eq!(map.last(), Some((b"b".to_vec(), b"b".to_vec())));
    }
}
