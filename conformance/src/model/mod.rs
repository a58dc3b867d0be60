//! What a versioned state should hold, to compare drivers and stores with.

mod random;
mod sample;
mod settle;
mod walk;

use std::{collections::BTreeMap, ops::Bound};

use anyhow::{Result, ensure};
use tsoracle_core::{BootTime, Effect, Entry, KeyRange, Reads, Snapshot, Version, state::NODE};

pub(crate) use self::{
    random::{Random, SEED, seeds, steps},
    sample::{END, LONGEST_KEY, effect, reads},
    walk::{Answer, PATIENCE, Walk, read, send},
};

/// How many bytes one page of a comparison holds, about.
const PAGE_BYTES: usize = 1 << 20;

/// A sorted map.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub(crate) struct Entries(BTreeMap<Vec<u8>, Vec<u8>>);

impl Entries {
    /// Makes the writes, and returns those that would undo them.
    pub(crate) fn write(&mut self, effect: &Effect) -> Effect {
        let mut undo = Effect::default();
        for (key, value) in effect.iter() {
            let before = match value {
                Some(value) => self.0.insert(key.to_vec(), value.to_vec()),
                None => self.0.remove(key),
            };
            match before {
                Some(before) => undo.put(key, before),
                None => undo.delete(key),
            }
        }
        undo
    }

    pub(crate) fn insert(&mut self, entries: Vec<Entry>) {
        self.0.extend(entries);
    }

    pub(crate) fn len(&self) -> usize {
        self.0.len()
    }

    pub(crate) fn get(&self, key: &[u8]) -> Option<&[u8]> {
        self.0.get(key).map(Vec::as_slice)
    }

    pub(crate) fn keys(&self) -> impl Iterator<Item = &[u8]> {
        self.0.keys().map(Vec::as_slice)
    }

    fn from(&self, from: &[u8]) -> impl Iterator<Item = (&[u8], &[u8])> {
        let range = self.0.range::<[u8], _>((Bound::Included(from), Bound::Unbounded));
        range.map(|(key, value)| (key.as_slice(), value.as_slice()))
    }

    /// Compares a value that was read.
    pub(crate) fn expect(&self, key: &[u8], found: Option<&[u8]>) -> Result<()> {
        let expected = self.get(key);
        ensure!(
            found == expected || is_of_the_directory(key),
            "under {} is {}, and not {}",
            text(key),
            described(found),
            described(expected)
        );
        Ok(())
    }

    /// Compares the entries that were read of a range.
    pub(crate) fn expect_range(&self, range: &KeyRange, found: &[Entry]) -> Result<()> {
        let KeyRange { from, to, limit } = range;
        let expected = self.from(from).take_while(|(key, _)| key < &to.as_slice()).take(*limit);
        let mut found = found.iter();
        for (key, value) in expected {
            let Some((found_key, found_value)) = found.next() else {
                anyhow::bail!("{} is missing in {}", text(key), describe(range));
            };
            ensure!(
                found_key == key,
                "{} is where {} should be, in {}",
                text(found_key),
                text(key),
                describe(range)
            );
            ensure!(
                found_value == value || is_of_the_directory(key),
                "under {} is {}, and not {}, in {}",
                text(key),
                described(Some(found_value)),
                described(Some(value)),
                describe(range)
            );
        }
        let more = found.next().map(|(key, _)| text(key));
        ensure!(more.is_none(), "{more:?} should not be in {}", describe(range));
        Ok(())
    }

    /// How many entries from `from` on a page has, of about [`PAGE_BYTES`] and `most` entries.
    pub(crate) fn page(&self, from: &[u8], most: usize) -> usize {
        let mut bytes = 0;
        let fits = self.from(from).take(most).take_while(|(key, value)| {
            bytes += key.len() + value.len();
            bytes <= PAGE_BYTES
        });
        fits.count() + 1
    }
}

/// Whether what is under `key` belongs to the directory: a crash is simulated by a copy, and the node of a copy has
/// another id.
fn is_of_the_directory(key: &[u8]) -> bool {
    key == NODE
}

/// A commit, and when it was first sent.
#[derive(Clone, Debug)]
pub(crate) struct Commit {
    pub(crate) base: Version,
    pub(crate) next: Version,
    pub(crate) effect: Effect,
    pub(crate) begun: BootTime,
}

/// All versions of a state, of which the last one is what it should hold now.
#[derive(Default)]
pub(crate) struct Model {
    pub(crate) version: Version,
    pub(crate) entries: Entries,
    /// Per commit that was stored, the oldest first: its base, when it was sent, and what undoes it.
    history: Vec<(Version, BootTime, Effect)>,
}

impl Model {
    pub(crate) fn of(version: Version, entries: Entries) -> Self {
        Self { version, entries, history: vec![] }
    }

    /// Makes a commit.
    pub(crate) fn store(&mut self, commit: &Commit) {
        assert_eq!(commit.base, self.version, "the suite mixes up its own commits");
        let undo = self.entries.write(&commit.effect);
        self.history.push((self.version, commit.begun, undo));
        self.version = commit.next;
    }

    /// The versions of this state that are known, the newest first, each with the time before which no
    /// process can have seen it.
    pub(crate) fn versions(&self) -> impl Iterator<Item = (Version, BootTime)> {
        let made = self.history.iter().rev();
        let newer = made.clone().map(|(base, ..)| *base);
        std::iter::once(self.version).chain(newer).zip(made.map(|(_, begun, _)| *begun))
    }

    /// The version before the last `commits` ones.
    pub(crate) fn before(&self, commits: usize) -> Option<Version> {
        let index = self.history.len().checked_sub(commits)?;
        self.history.get(index).map(|(base, ..)| *base)
    }

    pub(crate) fn knows(&self, version: Version) -> bool {
        self.version == version || self.history.iter().any(|(base, ..)| *base == version)
    }

    /// Compares what was read with the version that it is said to be of.
    pub(crate) fn expect(&self, reads: &Reads, found: &Snapshot) -> Result<()> {
        let version = found.version;
        ensure!(self.knows(version), "{version:?} was read, which no commit has made");
        let older;
        let entries = if version == self.version {
            &self.entries
        } else {
            let mut entries = self.entries.clone();
            for (base, _, undo) in self.history.iter().rev() {
                entries.write(undo);
                if *base == version {
                    break;
                }
            }
            older = entries;
            &older
        };
        ensure!(
            (found.values.len(), found.ranges.len()) == (reads.keys.len(), reads.ranges.len()),
            "{} keys and {} ranges were read, and {} and {} came",
            reads.keys.len(),
            reads.ranges.len(),
            found.values.len(),
            found.ranges.len()
        );
        for (key, value) in reads.keys.iter().zip(&found.values) {
            entries.expect(key, value.as_deref())?;
        }
        for (range, found) in reads.ranges.iter().zip(&found.ranges) {
            entries.expect_range(range, found)?;
        }
        Ok(())
    }
}

fn describe(KeyRange { from, to, limit }: &KeyRange) -> String {
    format!("the first {limit} from {} to {}", text(from), text(to))
}

fn described(value: Option<&[u8]>) -> String {
    value.map_or("nothing".into(), |value| format!("{} bytes ({})", value.len(), text(value)))
}

/// Bytes as text, of which a person needs no more than the beginning.
pub(crate) fn text(bytes: &[u8]) -> String {
    let start = bytes[..bytes.len().min(24)].escape_ascii();
    match bytes.len() {
        0..=24 => format!("\"{start}\""),
        more => format!("\"{start}…\" of {more} bytes"),
    }
}
