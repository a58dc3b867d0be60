use std::{fmt, mem, vec};

use super::{VERSION, Version};
use crate::{Error, ErrorKind, Result, varint};

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
#[derive(Clone, Default)]
pub struct Effect {
    /// All keys and values, each key followed by its value. What was replaced stays there, unused.
    bytes: Vec<u8>,
    /// In the order of their keys.
    writes: Vec<Write>,
}

/// Where the key and the value of one write lie.
#[derive(Clone, Copy)]
struct Write {
    key: usize,
    value: usize,
    /// Where the value ends; `None` to delete.
    end: Option<usize>,
}

impl Effect {
    /// No writes yet, with room for that many.
    pub(crate) fn with_capacity(writes: usize, bytes: usize) -> Self {
        Self { bytes: Vec::with_capacity(bytes), writes: Vec::with_capacity(writes) }
    }

    /// Writes `value` under `key`.
    pub fn put(&mut self, key: impl AsRef<[u8]>, value: impl AsRef<[u8]>) {
        self.put_with(key.as_ref(), |mut bytes| {
            bytes.extend_from_slice(value.as_ref());
            bytes
        });
    }

    /// Writes under `key` what `encode` appends to the bytes that it is given.
    pub(crate) fn put_with(&mut self, key: &[u8], encode: impl FnOnce(Vec<u8>) -> Vec<u8>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key);
        let value = self.bytes.len();
        self.bytes = encode(mem::take(&mut self.bytes));
        self.insert(Write { key: start, value, end: Some(self.bytes.len()) });
    }

    /// Deletes `key`; that it does not exist is no error.
    pub fn delete(&mut self, key: impl AsRef<[u8]>) {
        let start = self.bytes.len();
        self.bytes.extend_from_slice(key.as_ref());
        self.insert(Write { key: start, value: self.bytes.len(), end: None });
    }

    fn insert(&mut self, write: Write) {
        let place = match self.writes.last() {
            Some(last) if self.key(last) >= self.key(&write) => self.find(self.key(&write)),
            // Nearly always: what is put in order needs no search.
            _ => Err(self.writes.len()),
        };
        match place {
            Ok(at) => self.writes[at] = write,
            Err(at) => self.writes.insert(at, write),
        }
    }

    fn key(&self, write: &Write) -> &[u8] {
        &self.bytes[write.key..write.value]
    }

    fn value(&self, write: &Write) -> Option<&[u8]> {
        write.end.map(|end| &self.bytes[write.value..end])
    }

    fn find(&self, key: &[u8]) -> Result<usize, usize> {
        self.writes.binary_search_by(|write| self.key(write).cmp(key))
    }

    /// Adds the writes of `later`, which win.
    pub fn merge(&mut self, later: Self) {
        for (key, value) in later.iter() {
            match value {
                Some(value) => self.put(key, value),
                None => self.delete(key),
            }
        }
    }

    /// What is written under `key`: a value, or `Some(None)` if it is deleted.
    pub fn get(&self, key: &[u8]) -> Option<Option<&[u8]>> {
        self.find(key).ok().map(|at| self.value(&self.writes[at]))
    }

    /// Whether `key` is written or deleted, even if that changes nothing.
    pub fn touches(&self, key: &[u8]) -> bool {
        self.find(key).is_ok()
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
        self.writes.len()
    }

    /// Whether there is nothing to write.
    pub fn is_empty(&self) -> bool {
        self.writes.is_empty()
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
        self.writes.iter().map(|write| (self.key(write), self.value(write)))
    }

    /// The writes from `from` (inclusive) to `to` (exclusive).
    pub fn range(&self, from: &[u8], to: &[u8]) -> impl Iterator<Item = (&[u8], Option<&[u8]>)> {
        let first = self.find(from).unwrap_or_else(|at| at);
        // An empty range if it ends before it begins.
        let end = self.find(to.max(from)).unwrap_or_else(|at| at);
        self.writes[first..end].iter().map(|write| (self.key(write), self.value(write)))
    }

    /// The effect as bytes that stand for themselves: in a log, or on a wire.
    ///
    /// # Errors
    /// `Fatal` if it cannot be encoded, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(1 + WRITE_BYTES + self.size());
        bytes.push(FORMAT);
        // As postcard encodes a map from bytes to an option of bytes.
        varint::push(&mut bytes, self.len() as u64);
        for (key, value) in self.iter() {
            push_bytes(&mut bytes, key);
            bytes.push(u8::from(value.is_some()));
            if let Some(value) = value {
                push_bytes(&mut bytes, value);
            }
        }
        Ok(bytes)
    }

    /// The effect that was encoded.
    ///
    /// # Errors
    /// `Corrupt` for what is no effect of a format that this release knows.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let corrupt = |what| Error::new(ErrorKind::Corrupt, format!("an encoded effect {what}"));
        let unreadable = |source| corrupt("cannot be read").with_source(source);
        let body = match bytes.split_first() {
            Some((&FORMAT, body)) => body,
            Some((&format, _)) => {
                let (found, known) = (u64::from(format), u64::from(FORMAT));
                return Err(Error::unknown_format("an encoded effect", found, known));
            }
            None => return Err(corrupt("is empty")),
        };
        let (count, mut rest): (u64, _) = postcard::take_from_bytes(body).map_err(unreadable)?;
        let mut effect = Self { bytes: Vec::with_capacity(rest.len()), writes: vec![] };
        for _ in 0..count {
            let (write, behind) = postcard::take_from_bytes(rest).map_err(unreadable)?;
            let (key, value): (&[u8], Option<&[u8]>) = write;
            // As they are encoded. To sort them here would take the longer the worse they are.
            if effect.writes.last().is_some_and(|last| effect.key(last) >= key) {
                return Err(corrupt("has keys out of order"));
            }
            match value {
                Some(value) => effect.put(key, value),
                None => effect.delete(key),
            }
            rest = behind;
        }
        if !rest.is_empty() {
            return Err(corrupt("has more bytes than it should"));
        }
        Ok(effect)
    }
}

fn push_bytes(bytes: &mut Vec<u8>, part: &[u8]) {
    varint::push(bytes, part.len() as u64);
    bytes.extend_from_slice(part);
}

impl FromIterator<(Vec<u8>, Option<Vec<u8>>)> for Effect {
    fn from_iter<I: IntoIterator<Item = (Vec<u8>, Option<Vec<u8>>)>>(writes: I) -> Self {
        let mut effect = Self::default();
        for (key, value) in writes {
            match value {
                Some(value) => effect.put(key, value),
                None => effect.delete(key),
            }
        }
        effect
    }
}

impl IntoIterator for Effect {
    type Item = (Vec<u8>, Option<Vec<u8>>);
    type IntoIter = vec::IntoIter<(Vec<u8>, Option<Vec<u8>>)>;

    fn into_iter(self) -> Self::IntoIter {
        let owned = self.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec)));
        owned.collect::<Vec<_>>().into_iter()
    }
}

impl PartialEq for Effect {
    fn eq(&self, other: &Self) -> bool {
        self.iter().eq(other.iter())
    }
}

impl Eq for Effect {}

impl fmt::Debug for Effect {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_map().entries(self.iter()).finish()
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;
    use serde_bytes::ByteBuf;

    use super::*;

    fn effects() -> impl Strategy<Value = Effect> {
        let bytes = || prop::collection::vec(any::<u8>(), 0..300);
        let writes = prop::collection::btree_map(bytes(), prop::option::of(bytes()), 0..8);
        writes.prop_map(Effect::from_iter)
    }

    proptest! {
        #[test]
        fn an_effect_is_read_as_written(effect in effects()) {
            let bytes = effect.encode().unwrap();
            prop_assert!(bytes.len() <= effect.size() + WRITE_BYTES);
            let writes = effect.clone().into_iter();
            let map: BTreeMap<_, _> = writes
                .map(|(key, value)| (ByteBuf::from(key), value.map(ByteBuf::from)))
                .collect();
            prop_assert_eq!(&bytes[1..], postcard::to_stdvec(&map).unwrap());
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

    proptest! {
        /// In any order, also twice under one key.
        #[test]
        fn an_effect_is_what_was_put_and_deleted_last(
            writes in prop::collection::vec((0..9_u8, any::<Option<u16>>()), 0..30),
            range in (0..9_u8, 0..9_u8),
        ) {
            let mut expected = BTreeMap::new();
            let mut effect = Effect::default();
            for (key, value) in &writes {
                let (key, value) = (vec![b'k', *key], value.map(|value| value.to_be_bytes().to_vec()));
                match &value {
                    Some(value) => effect.put(&key, value),
                    None => effect.delete(&key),
                }
                expected.insert(key, value);
            }
            let all: Vec<_> = expected.clone().into_iter().collect();
            prop_assert_eq!(effect.clone().into_iter().collect::<Vec<_>>(), all);
            prop_assert_eq!(effect.len(), expected.len());
            let (from, to) = (vec![b'k', range.0], vec![b'k', range.1]);
            let within = expected.iter().filter(|(key, _)| **key >= from && **key < to);
            prop_assert_eq!(effect.range(&from, &to).count(), within.count());
            prop_assert_eq!(effect.touches(&from), expected.contains_key(&from));
        }
    }

    #[test]
    fn writes_that_are_out_of_order_or_doubled_are_no_effect() {
        let of = |keys: [u8; 2]| [FORMAT, 2, 1, keys[0], 0, 1, keys[1], 0];
        assert_eq!(Effect::decode(&of([1, 2])).unwrap().len(), 2);
        for keys in [[2, 1], [1, 1]] {
            assert_eq!(*Effect::decode(&of(keys)).unwrap_err().kind(), ErrorKind::Corrupt);
        }
    }

    #[test]
    fn a_range_that_ends_before_it_begins_is_empty() {
        let mut effect = Effect::default();
        effect.put([2], [1]);
        assert_eq!(effect.range(&[1], &[3]).count(), 1);
        assert_eq!(effect.range(&[3], &[1]).count(), 0);
    }
}
