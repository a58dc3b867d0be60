use super::{Entry, VERSION, Version};
use crate::{Result, SeqStore};

/// What is to be read, all of it from one version of the state.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Reads {
    /// Single keys.
    pub keys: Vec<Vec<u8>>,
    /// Ranges of keys.
    pub ranges: Vec<KeyRange>,
}

/// A bounded range of keys.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub struct KeyRange {
    /// The first key.
    pub from: Vec<u8>,
    /// The key behind the last one.
    pub to: Vec<u8>,
    /// How many entries at most: the first ones.
    pub limit: usize,
}

/// What was read, as of one version.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Snapshot {
    /// The state's version; [`Version::EMPTY`] for one without any entry.
    pub version: Version,
    /// Per key asked for, in that order: its value, `None` if it does not exist.
    pub values: Vec<Option<Vec<u8>>>,
    /// Per range asked for, in that order: its first entries, ordered by key, byte by byte.
    pub ranges: Vec<Vec<Entry>>,
}

impl Reads {
    /// Reads of single keys.
    pub fn keys<K: Into<Vec<u8>>>(keys: impl IntoIterator<Item = K>) -> Self {
        Self { keys: keys.into_iter().map(Into::into).collect(), ranges: vec![] }
    }

    /// Whether nothing is to be read but the version.
    pub fn is_empty(&self) -> bool {
        self.keys.is_empty() && self.ranges.is_empty()
    }

    /// Puts everything in order, once.
    pub(crate) fn settle(&mut self) {
        self.keys.sort_unstable();
        self.keys.dedup();
        self.ranges.sort_unstable();
        self.ranges.dedup();
    }

    /// Reads all of it from a store that does not change meanwhile.
    ///
    /// # Errors
    /// Those of the store, and `Corrupt` for a version that cannot be read.
    pub fn read_from<S: SeqStore + ?Sized>(&self, store: &S) -> Result<Snapshot> {
        let keys = self.keys.iter();
        let ranges = self.ranges.iter();
        Ok(Snapshot {
            version: Version::decode(store.get(VERSION)?.as_deref())?,
            values: keys.map(|key| store.get(key)).collect::<Result<_>>()?,
            ranges: ranges
                .map(|range| store.scan(&range.from, &range.to, range.limit))
                .collect::<Result<_>>()?,
        })
    }
}
