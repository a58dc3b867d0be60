use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    ops::Bound,
};

use tsoracle_core::{
    Error, ErrorKind, Result,
    state::{Effect, Entry, Reads, View},
};

/// How many entries of a range are fetched at first: ranges are named with the most that they may
/// ever hold, and mostly hold next to nothing.
const FIRST_ENTRIES: usize = 16;

/// How many keys are remembered from one commit to the next.
const REMEMBERED: usize = 20_000;

/// What is known of the state as of one version of it.
///
/// It answers from what was fetched, exactly, or not at all: then it notes what is missing, and the
/// caller fetches that and asks again.
#[derive(Debug, Default)]
pub(crate) struct Snapshot {
    /// The revision that wrote this version; 0 if nothing was ever written. `None` if nothing is
    /// known.
    pub(crate) of: Option<i64>,
    keys: HashMap<Vec<u8>, Option<Vec<u8>>>,
    ranges: Vec<Range>,
    missing: RefCell<Reads>,
}

/// All entries there are from one key to before another.
#[derive(Debug)]
struct Range {
    from: Vec<u8>,
    to: Vec<u8>,
    entries: BTreeMap<Vec<u8>, Vec<u8>>,
}

/// A write, as etcd is asked for it.
#[derive(PartialEq, Eq, Debug)]
pub(crate) enum Write {
    Put(Vec<u8>, Vec<u8>),
    Delete(Vec<u8>),
    /// From the first key to the last one, both included.
    DeleteRange(Vec<u8>, Vec<u8>),
}

impl Snapshot {
    /// What of `reads` is not known yet, with ranges cut to what they mostly hold.
    pub(crate) fn lacks<'a>(&self, reads: impl Iterator<Item = &'a Reads>) -> Reads {
        let mut lacking = Reads::default();
        for reads in reads {
            let unknown = reads.keys.iter().filter(|key| !self.keys.contains_key(*key));
            lacking.keys.extend(unknown.cloned());
            let some = |(from, to, limit): &(Vec<u8>, Vec<u8>, usize)| {
                (from.clone(), to.clone(), FIRST_ENTRIES.min(*limit))
            };
            lacking.ranges.extend(reads.ranges.iter().filter(|(from, to, _)| from < to).map(some));
        }
        lacking.keys.sort_unstable();
        lacking.keys.dedup();
        lacking.ranges.sort_unstable();
        lacking.ranges.dedup();
        lacking
    }

    /// What was asked for and not known since this was last called, if anything.
    pub(crate) fn take_missing(&self) -> Option<Reads> {
        Some(self.missing.take()).filter(|missing| *missing != Reads::default())
    }

    pub(crate) fn learn_key(&mut self, key: Vec<u8>, value: Option<Vec<u8>>) {
        self.keys.insert(key, value);
    }

    /// Takes in the first entries of a range, of which at most `limit` were asked for.
    pub(crate) fn learn_range(
        &mut self,
        (from, mut to, limit): (Vec<u8>, Vec<u8>, usize),
        entries: Vec<Entry>,
    ) {
        if entries.len() >= limit
            && let Some((last, _)) = entries.last()
        {
            to.clone_from(last);
            to.push(0);
        }
        let mut entries: BTreeMap<_, _> = entries.into_iter().collect();
        // What goes on where another range ends is one with it.
        if let Some(known) = self.ranges.iter_mut().find(|known| known.to == from) {
            known.to = to;
            known.entries.append(&mut entries);
        } else {
            self.ranges.push(Range { from, to, entries });
        }
    }

    /// Forgets everything.
    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Goes on with what a commit, made in this revision, has left. Ranges are not kept.
    pub(crate) fn follow(&mut self, revision: i64, effect: Effect) {
        self.of = Some(revision);
        self.ranges.clear();
        if self.keys.len() > REMEMBERED {
            self.keys.clear();
        }
        self.keys.extend(effect);
    }

    /// The writes of `effect`. Neighbours that are all deleted become one write: a session with many
    /// answers, when it is cleared, has one.
    pub(crate) fn writes(&self, effect: &Effect) -> Vec<Write> {
        let mut writes = Vec::new();
        let mut run: Vec<&[u8]> = Vec::new();
        for (key, value) in effect.iter() {
            match value {
                None => {
                    let joins =
                        run.first().is_none_or(|first| self.is_whole(first, key, run.len() + 1));
                    if !joins {
                        end_run(&mut run, &mut writes);
                    }
                    run.push(key);
                }
                Some(value) => {
                    end_run(&mut run, &mut writes);
                    writes.push(Write::Put(key.into(), value.into()));
                }
            }
        }
        end_run(&mut run, &mut writes);
        writes
    }

    /// Whether it is certain that there are exactly so many entries from one key to another.
    fn is_whole(&self, first: &[u8], last: &[u8], count: usize) -> bool {
        self.ranges.iter().any(|range| {
            let bounds = (Bound::Included(first), Bound::Included(last));
            range.from.as_slice() <= first
                && last < range.to.as_slice()
                && range.entries.range::<[u8], _>(bounds).take(count + 1).count() == count
        })
    }
}

fn end_run(run: &mut Vec<&[u8]>, writes: &mut Vec<Write>) {
    match run[..] {
        [] => {}
        [key] => writes.push(Write::Delete(key.into())),
        [first, .., last] => writes.push(Write::DeleteRange(first.into(), last.into())),
    }
    run.clear();
}

/// The error of a view that has to fetch something first. No caller of the driver sees it.
fn unknown() -> Error {
    Error::new(ErrorKind::Unavailable, "a part of the state has to be fetched first")
}

impl View for Snapshot {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.keys.get(key).cloned().ok_or_else(|| {
            self.missing.borrow_mut().keys.push(key.into());
            unknown()
        })
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        if limit == 0 || from >= to {
            return Ok(vec![]);
        }
        let known = self
            .ranges
            .iter()
            .filter(|range| range.from.as_slice() <= from && from < range.to.as_slice())
            .max_by_key(|range| &range.to);
        let Some(range) = known else {
            self.missing.borrow_mut().ranges.push((from.into(), to.into(), limit));
            return Err(unknown());
        };
        let end = to.min(range.to.as_slice());
        let bounds = (Bound::Included(from), Bound::Excluded(end));
        let owned = |(key, value): (&Vec<u8>, &Vec<u8>)| (key.clone(), value.clone());
        let entries: Vec<_> =
            range.entries.range::<[u8], _>(bounds).take(limit).map(owned).collect();
        if entries.len() < limit && end < to {
            // More at a time each time, so that many are there soon.
            let more = limit.max(entries.len());
            self.missing.borrow_mut().ranges.push((range.to.clone(), to.into(), more));
            return Err(unknown());
        }
        Ok(entries)
    }
}

#[cfg(test)]
mod tests {
    use tsoracle_core::{MemoryStore, SeqStore};

    use super::*;

    fn key(text: &str) -> Vec<u8> {
        text.as_bytes().to_vec()
    }

    fn store(keys: &[&str]) -> MemoryStore {
        let mut store = MemoryStore::default();
        let mut effect = Effect::default();
        keys.iter().for_each(|name| effect.put(*name, *name));
        store.commit(effect).unwrap();
        store
    }

    /// Scans as a driver does: fetching what is missing until nothing is. Returns how often that was.
    fn scan(
        snapshot: &mut Snapshot,
        below: &MemoryStore,
        from: &str,
        to: &str,
        limit: usize,
    ) -> usize {
        for fetched in 0.. {
            match snapshot.scan(from.as_bytes(), to.as_bytes(), limit) {
                Ok(entries) => {
                    let there = View::scan(below, from.as_bytes(), to.as_bytes(), limit).unwrap();
                    assert_eq!(entries, there, "{from} {to} {limit}");
                    return fetched;
                }
                Err(_) => fetch(snapshot, below),
            }
        }
        unreachable!("it is asked until it answers")
    }

    fn fetch(snapshot: &mut Snapshot, below: &MemoryStore) {
        let missing = snapshot.take_missing().unwrap();
        for key in missing.keys {
            let value = View::get(below, &key).unwrap();
            snapshot.learn_key(key, value);
        }
        for range in missing.ranges {
            let entries = View::scan(below, &range.0, &range.1, range.2).unwrap();
            snapshot.learn_range(range, entries);
        }
    }

    #[test]
    fn it_answers_exactly_whatever_was_fetched_before() {
        let names: Vec<_> = (0..40).map(|index| format!("a{index:02}")).collect();
        let names: Vec<_> = names.iter().map(String::as_str).collect();
        let below = store(&names);
        for fetched in [1, 3, 16, 40, 60] {
            for from in ["a", "a00", "a07", "a39", "b"] {
                for limit in [0, 1, 2, 20, 39, 40, 41] {
                    let mut snapshot = Snapshot::default();
                    let range = (key("a"), key("b"), fetched);
                    let entries = View::scan(&below, &range.0, &range.1, fetched).unwrap();
                    snapshot.learn_range(range, entries);
                    scan(&mut snapshot, &below, from, "b", limit);
                    scan(&mut snapshot, &below, "a", "b", 40);
                }
            }
        }
    }

    #[test]
    fn what_is_known_is_not_asked_for_again() {
        let below = store(&["a1", "a2"]);
        let mut snapshot = Snapshot::default();
        assert_eq!(scan(&mut snapshot, &below, "a", "b", 5), 1);
        assert_eq!(scan(&mut snapshot, &below, "a1", "b", 500), 0, "the range is known to its end");
        assert!(snapshot.get(b"x").is_err());
        fetch(&mut snapshot, &below);
        assert_eq!(snapshot.get(b"x").unwrap(), None);
        let reads = Reads { keys: vec![key("x"), key("y")], ranges: vec![] };
        assert_eq!(snapshot.lacks([&reads].into_iter()).keys, [key("y")]);
    }

    #[test]
    fn a_commit_is_followed() {
        let mut snapshot = Snapshot::default();
        snapshot.learn_key(key("a"), Some(key("1")));
        snapshot.learn_range((key("r"), key("s"), 5), vec![]);
        let mut effect = Effect::default();
        effect.put("a", "2");
        effect.delete("b");
        snapshot.follow(7, effect);
        assert_eq!(snapshot.get(b"a").unwrap(), Some(key("2")));
        assert_eq!(snapshot.get(b"b").unwrap(), None);
        assert!(snapshot.scan(b"r", b"s", 1).is_err(), "ranges are not kept");
    }

    #[test]
    fn only_neighbours_are_deleted_at_once() {
        let below = store(&["a1", "a2", "a3", "a4", "a5", "a6"]);
        let mut snapshot = Snapshot::default();
        let mut effect = Effect::default();
        for name in ["a1", "a2", "a4", "a5", "x1", "x2"] {
            effect.delete(name);
        }
        effect.put("a6", "new");
        let single = |name| Write::Delete(key(name));
        let put = || Write::Put(key("a6"), key("new"));
        let expected = ["a1", "a2", "a4", "a5"].map(single).into_iter();
        let expected = expected.chain([put()]).chain(["x1", "x2"].map(single));
        assert_eq!(snapshot.writes(&effect), expected.collect::<Vec<_>>(), "nothing is known");
        scan(&mut snapshot, &below, "a", "b", 10);
        let range = |first, last| Write::DeleteRange(key(first), key(last));
        let expected = [range("a1", "a2"), range("a4", "a5"), put(), single("x1"), single("x2")];
        assert_eq!(snapshot.writes(&effect), expected);
    }
}
