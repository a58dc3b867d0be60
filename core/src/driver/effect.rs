use std::collections::{BTreeMap, btree_map};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use serde_bytes::{ByteBuf, Bytes};

use super::{VERSION, Version};
use crate::{Error, ErrorKind, Result};

/// A key with its value.
pub type Entry = (Vec<u8>, Vec<u8>);

/// The first byte of an encoded effect.
const FORMAT: u8 = 1;

/// What each write takes besides its key and value, in any encoding: lengths and the like.
const WRITE_BYTES: usize = 10;

/// The writes to make, all or none: a value per key, or `None` to delete it.
///
/// Values are absolute. Iteration is in the order of keys. The effect of a commit writes the state's
/// new version among the others.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Effect(BTreeMap<Vec<u8>, Option<Vec<u8>>>);

impl Effect {
    /// Writes `value` under `key`.
    pub fn put(&mut self, key: impl Into<Vec<u8>>, value: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), Some(value.into()));
    }

    /// Deletes `key`; that it does not exist is no error.
    pub fn delete(&mut self, key: impl Into<Vec<u8>>) {
        self.0.insert(key.into(), None);
    }

    /// Adds the writes of `later`, which win.
    pub fn merge(&mut self, later: Self) {
        self.0.extend(later.0);
    }

    /// What is written under `key`: a value, or `Some(None)` if it is deleted.
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.0.get(key).map(Option::as_deref)
    }

    /// Whether `key` is written or deleted, even if that changes nothing.
    pub fn touches(&self, key: &[u8]) -> bool {
        self.0.contains_key(key)
    }

    /// Writes the version that the commit makes.
    pub fn set_version(&mut self, version: Version) {
        self.put(VERSION, version.encode());
    }

    /// The version that the commit makes.
    ///
    /// # Errors
    /// `Fatal` if the effect writes none, which no effect that is committed does.
    pub fn version(&self) -> Result<Version> {
        match self.get(VERSION) {
            Some(Some(bytes)) => Version::decode(Some(bytes)),
            _ => Err(Error::new(ErrorKind::Fatal, "a commit does not write the state's version")),
        }
    }

    /// How many keys are written or deleted.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// About how many bytes the writes take, and never less than any encoding of them.
    pub fn size(&self) -> usize {
        self.iter().map(|(key, value)| Self::size_of(key, value)).sum()
    }

    /// How much one write adds to the [`size`](Self::size).
    pub fn size_of(key: &[u8], value: Option<&[u8]>) -> usize {
        key.len() + value.map_or(0, <[u8]>::len) + WRITE_BYTES
    }

    /// The writes: key, and value or `None` to delete.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        self.0.iter().map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// The writes from `from` (inclusive) to `to` (exclusive).
    pub fn range(&self, from: &[u8], to: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        use std::ops::Bound::{Excluded, Included};
        // An empty range, where `BTreeMap` would panic for one that ends before it begins.
        let to = to.max(from);
        let range = self.0.range::<[u8], _>((Included(from), Excluded(to)));
        range.map(|(key, value)| (key.as_slice(), value.as_deref()))
    }

    /// The effect as bytes that stand for themselves: in a log, or on a wire.
    ///
    /// # Errors
    /// `Fatal` if it cannot be encoded, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1 + WRITE_BYTES + self.size());
        bytes.push(FORMAT);
        postcard::to_extend(self, bytes).map_err(|source| {
            Error::new(ErrorKind::Fatal, "cannot encode an effect").with_source(source)
        })
    }

    /// The effect that was encoded.
    ///
    /// # Errors
    /// `Corrupt` for what is no effect of a format that this release knows.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |what| Error::new(ErrorKind::Corrupt, format!("an encoded effect {what}"));
        let Some(body) = bytes.strip_prefix(&[FORMAT]) else {
            return Err(corrupt("has an unknown format"));
        };
        match postcard::take_from_bytes(body) {
            Ok((effect, [])) => Ok(effect),
            Ok(_) => Err(corrupt("has more bytes than it should")),
            Err(source) => Err(corrupt("cannot be read").with_source(source)),
        }
    }
}

impl Serialize for Effect {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer
            .collect_map(self.iter().map(|(key, value)| (Bytes::new(key), value.map(Bytes::new))))
    }
}

impl<'de> Deserialize<'de> for Effect {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let writes = BTreeMap::<ByteBuf, Option<ByteBuf>>::deserialize(deserializer)?;
        let writes = writes.into_iter();
        Ok(Self(
            writes.map(|(key, value)| (key.into_vec(), value.map(ByteBuf::into_vec))).collect(),
        ))
    }
}

impl FromIterator<(Vec<u8>, Option<Vec<u8>>)> for Effect {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>>(writes: I) -> Self {
        Self(writes.into_iter().collect())
    }
}

impl IntoIterator for Effect {
    type Item = (Vec<u8>, Option<Vec<u8>>);
    type IntoIter = btree_map::IntoIter<Vec<u8>, Option<Vec<u8>>>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.into_iter()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn effects() -> impl Strategy<Value = Effect> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let writes = prop::collection::btree_map(bytes(), prop::option::of(bytes()), 0..8);
        writes.prop_map(Effect)
    }

    proptest! {
        #[test]
        fn an_effect_is_read_as_written(effect in effects()) {
            let bytes = effect.encode().unwrap();
            prop_assert!(bytes.len() <= effect.size() + WRITE_BYTES);
            prop_assert_eq!(Effect::decode(&bytes).unwrap(), effect);
        }

        #[test]
        fn a_part_of_an_effect_is_none(effect in effects(), cut: prop::sample::Index) {
            let bytes = effect.encode().unwrap();
            prop_assert!(Effect::decode(&bytes[..cut.index(bytes.len())]).is_err());
        }
    }

    #[test]
    fn an_effect_tells_the_version_that_it_makes() {
        let mut effect = Effect::default();
        assert_eq!(*effect.version().unwrap_err().kind(), ErrorKind::Fatal);
        let version = Version { era: 0, number: 7, name: 9 };
        effect.set_version(version);
        assert_eq!(effect.version().unwrap(), version);
        effect.delete(VERSION);
        assert_eq!(*effect.version().unwrap_err().kind(), ErrorKind::Fatal);
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let mut effect = Effect::default();
        effect.put([2], [1]);
        assert_eq!(effect.range(&[1], &[3]).count(), 1);
        assert_eq!(effect.range(&[3], &[1]).count(), 0);
    }
}
