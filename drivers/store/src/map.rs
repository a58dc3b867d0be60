//! One table in memory: its records by the hash of their keys, and its keys in order.
//!
//! Most writes replace the value of a key that is there, and most reads name their key. Neither goes through the
//! order, since among a million keys each comparison on the way down a tree waits for memory.

use std::{
    hash::BuildHasher as _,
    ops::Bound::{Excluded, Included},
    sync::Arc,
};

use foldhash::fast::RandomState;
use hashbrown::HashTable;
use imbl::OrdSet;
use smallvec::SmallVec;
use tsoracle_core::{Effect, Entry};

/// How many records a shard has, on average, when another one is added.
const SHARD_RECORDS: usize = 128;

/// Values of up to so many bytes need no allocation; those of sequences have eleven at most.
const IN_PLACE: usize = 16;

/// A table. A clone shares everything with it that neither changes.
#[derive(Clone, Default, Debug)]
pub(crate) struct Map {
    /// Each grows by one at a time (linear hashing), so that no write waits for all of them to be copied.
    shards: Vec<Arc<Shard>>,
    order: OrdSet<Arc<[u8]>>,
    hasher: RandomState,
}

/// The records whose hashes end alike. Copied by the first write after a [`Map`] was cloned.
type Shard = HashTable<Record>;

#[derive(Clone, Debug)]
struct Record {
    /// Also in the order.
    key: Arc<[u8]>,
    value: SmallVec<[u8; IN_PLACE]>,
}

impl Map {
    pub(crate) fn put(&mut self, key: &[u8], value: &[u8]) {
        let hash = self.hasher.hash_one(key);
        if let Some(shard) = shard_of(hash, self.shards.len()).map(|at| &mut self.shards[at])
            && let Some(record) = Arc::make_mut(shard).find_mut(hash, |record| *record.key == *key)
        {
            record.value.clear();
            record.value.extend_from_slice(value);
            return;
        }
        let record = Record { key: key.into(), value: value.into() };
        self.order.insert(record.key.clone());
        if self.order.len() > self.shards.len() * SHARD_RECORDS {
            self.split_a_shard();
        }
        let at = shard_of(hash, self.shards.len()).expect("one was added for the first record");
        let hasher = &self.hasher;
        Arc::make_mut(&mut self.shards[at])
            .insert_unique(hash, record, |record| hasher.hash_one(&*record.key));
    }

    pub(crate) fn delete(&mut self, key: &[u8]) {
        if self.order.remove(key).is_none() {
            return;
        }
        let hash = self.hasher.hash_one(key);
        let shard = shard_of(hash, self.shards.len()).map(|at| &mut self.shards[at]);
        let shard = Arc::make_mut(shard.expect("there is a record"));
        if let Ok(entry) = shard.find_entry(hash, |record| *record.key == *key) {
            entry.remove();
        }
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
        let hash = self.hasher.hash_one(key);
        let shard = &self.shards[shard_of(hash, self.shards.len())?];
        shard.find(hash, |record| *record.key == *key).map(|record| &record.value[..])
    }

    /// All entries, in the order of their keys.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.order.iter().map(|key| self.entry(key))
    }

    pub(crate) fn entries(&self, from: &[u8], to: &[u8], limit: usize) -> Vec<Entry> {
        if from >= to {
            return vec![];
        }
        let keys = self.order.range::<_, [u8]>((Included(from), Excluded(to))).take(limit);
        keys.map(|key| owned(self.entry(key))).collect()
    }

    pub(crate) fn last(&self) -> Option<Entry> {
        self.order.get_max().map(|key| owned(self.entry(key)))
    }

    fn entry<'a>(&'a self, key: &'a Arc<[u8]>) -> (&'a [u8], &'a [u8]) {
        (key, self.get(key).expect("each key in the order has a record"))
    }

    /// Adds a shard, with those records of an older one that now belong to it.
    fn split_a_shard(&mut self) {
        let (hasher, added) = (&self.hasher, self.shards.len());
        let shards = added + 1;
        let moves =
            |record: &mut Record| shard_of(hasher.hash_one(&*record.key), shards) == Some(added);
        let mut shard = Shard::new();
        if let Some(from) = added.checked_sub(1 << added.checked_ilog2().unwrap_or(0)) {
            let from = Arc::make_mut(&mut self.shards[from]);
            for record in from.extract_if(moves) {
                let hash = hasher.hash_one(&*record.key);
                shard.insert_unique(hash, record, |record| hasher.hash_one(&*record.key));
            }
        }
        self.shards.push(Arc::new(shard));
    }

    #[cfg(test)]
    pub(crate) fn len(&self) -> usize {
        self.order.len()
    }
}

/// The shard of a hash, if there are that many: by as many bits as it takes, or one less where the shard that
/// they name was not added yet. A table takes the lowest and the highest bits of a hash, so these are others.
fn shard_of(hash: u64, shards: usize) -> Option<usize> {
    let mask = shards.checked_next_power_of_two()?.checked_sub(1)?;
    let at = (hash >> 24) as usize & mask;
    let at = if at < shards { at } else { at & (mask >> 1) };
    (shards > 0).then_some(at)
}

fn owned((key, value): (&[u8], &[u8])) -> Entry {
    (key.to_vec(), value.to_vec())
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use rand::{Rng as _, SeedableRng as _, rngs::StdRng};

    use super::*;

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

    /// A thousand of some four thousand keys at a time, so that shards are split, emptied and filled again.
    #[test]
    fn it_holds_what_an_ordered_map_holds_and_a_clone_what_it_held() {
        let mut random = StdRng::seed_from_u64(7);
        let (mut map, mut model) = (Map::default(), BTreeMap::new());
        let mut kept = vec![];
        for round in 0..20_000_u32 {
            let key = random.random_range(0..4_000_u16).to_be_bytes();
            if random.random_ratio(1, 5) {
                map.delete(&key);
                model.remove(&key[..]);
            } else {
                let value = vec![round as u8; random.random_range(0..3)];
                map.put(&key, &value);
                model.insert(key.to_vec(), value);
            }
            if round % 4_000 == 7 {
                kept.push((map.clone(), model.clone()));
            }
            let key = random.random_range(0..4_000_u16).to_be_bytes();
            assert_eq!(map.get(&key), model.get(&key[..]).map(Vec::as_slice));
        }
        kept.push((map, model));
        for (map, model) in kept {
            let held = map.iter().map(|(key, value)| (key.to_vec(), value.to_vec()));
            assert!(held.eq(model.clone()), "it holds other entries");
            assert_eq!(map.len(), model.len());
            assert!(map.shards.len() * SHARD_RECORDS >= map.len(), "{} shards", map.shards.len());
            let records = map.shards.iter().map(|shard| shard.len()).sum::<usize>();
            assert_eq!(records, model.len(), "some record has no key");
        }
    }
}
