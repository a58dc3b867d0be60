use std::{collections::BTreeMap, ops::Bound};

use crate::{Effect, Entry, Result, SeqStore};

/// A store that forgets everything when the process ends, for tests and trials.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct MemoryStore(BTreeMap<Vec<u8>, Vec<u8>>);

impl SeqStore for MemoryStore {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        Ok(self.0.get(key).cloned())
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        if from >= to {
            return Ok(vec![]);
        }
        let range = self.0.range::<[u8], _>((Bound::Included(from), Bound::Excluded(to)));
        Ok(range.take(limit).map(|(key, value)| (key.clone(), value.clone())).collect())
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        for (key, value) in effect {
            match value {
                Some(value) => drop(self.0.insert(key, value)),
                None => drop(self.0.remove(&key)),
            }
        }
        Ok(())
    }
}

impl FromIterator<Entry> for MemoryStore {
    fn from_iter<I: IntoIterator<Item = Entry>>(entries: I) -> Self {
        Self(entries.into_iter().collect())
    }
}
