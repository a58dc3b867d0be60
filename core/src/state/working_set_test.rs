//! That a working set and an overlay answer as the state itself would, or not at all.

use proptest::prelude::*;

use super::{
    Record, View, WorkingSet, Writes,
    testing::{version, whole},
    view::Overlay,
    written::Written,
};
use crate::{KeyRange, MemoryStore, Reads, SeqStore, Snapshot, Version};

type Found = Vec<(Vec<u8>, Record)>;

/// What happens to a state and to the set that a leader keeps of it.
#[derive(Clone, Debug)]
enum Step {
    /// Something is read along.
    Learn {
        keys: Vec<Vec<u8>>,
        ranges: Vec<KeyRange>,
    },
    /// An own commit.
    Commit(Vec<(Vec<u8>, Option<u64>)>),
    /// A question that is answered from what is known, or not.
    Get(Vec<u8>),
    Scan(KeyRange),
    /// A question that is asked until it is answered.
    Insist(KeyRange),
}

/// Few keys, some of which follow others directly.
fn keys() -> impl Strategy<Value = Vec<u8>> {
    let parts = prop::collection::vec(prop::sample::select(vec![0, b'a', b'b', 255]), 0..3);
    parts.prop_map(|parts| [&b"s"[..], &parts].concat())
}

fn ranges() -> impl Strategy<Value = KeyRange> {
    let limit = prop_oneof![0..5usize, Just(usize::MAX)];
    // Some end before they begin.
    (keys(), keys(), limit).prop_map(|(from, to, limit)| KeyRange { from, to, limit })
}

fn writes() -> impl Strategy<Value = Vec<(Vec<u8>, Option<u64>)>> {
    prop::collection::vec((keys(), any::<Option<u64>>()), 0..4)
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let reads = (prop::collection::vec(keys(), 0..3), prop::collection::vec(ranges(), 0..3));
    let step = prop_oneof![
        2 => reads.prop_map(|(keys, ranges)| Step::Learn { keys, ranges }),
        2 => writes().prop_map(Step::Commit),
        2 => keys().prop_map(Step::Get),
        3 => ranges().prop_map(Step::Scan),
        1 => ranges().prop_map(Step::Insist),
    ];
    prop::collection::vec(step, 0..40)
}

fn made(writes: &[(Vec<u8>, Option<u64>)]) -> Writes {
    let mut made = Writes::default();
    for (key, next) in writes {
        match next {
            Some(next) => made.put(key.clone(), *next),
            None => made.delete(key.clone()),
        }
    }
    made
}

fn together(writes: &Writes) -> Written {
    let mut written = Written::default();
    // Plain writes need not know anything.
    written.merge(&WorkingSet::default(), writes.clone()).unwrap();
    written
}

fn commit(store: &mut MemoryStore, writes: &Writes, next: Version) {
    let (mut effect, _) = together(writes).finish();
    effect.set_version(next);
    store.commit(effect).unwrap();
}

/// What the state itself answers.
fn got(store: &MemoryStore, key: &[u8]) -> Option<Record> {
    store.get(key).unwrap().map(|bytes| Record::decode(key, bytes).unwrap())
}

fn scanned(store: &MemoryStore, range: &KeyRange) -> Found {
    let entries = store.scan(&range.from, &range.to, range.limit).unwrap().into_iter();
    entries.map(|(key, bytes)| (key.clone(), Record::decode(&key, bytes).unwrap())).collect()
}

fn found(view: &dyn View, range: &KeyRange) -> crate::Result<Found> {
    let found = view.scan(&range.from, &range.to, range.limit)?.into_iter();
    Ok(found.map(|(key, record)| (key.to_vec(), record.clone())).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_024))]

    #[test]
    fn it_answers_exactly_or_notes_what_is_missing(stored in writes(), steps in steps()) {
        let mut store = MemoryStore::default();
        commit(&mut store, &made(&stored), Version { era: 0, number: 1, name: 1 });
        let mut known = WorkingSet::at(version(&store));
        for step in steps {
            match step {
                Step::Learn { keys, ranges } => {
                    let reads = Reads { keys, ranges };
                    let snapshot = reads.read_from(&store).unwrap();
                    known.learn(reads.clone(), snapshot).unwrap();
                    prop_assert!(reads.keys.iter().all(|key| known.knows(key)), "{reads:?}");
                    // A range may have been read to its limit only.
                    let whole = |range: &&KeyRange| range.limit == usize::MAX;
                    let knows = |range: &KeyRange| known.knows_range(&range.from, &range.to);
                    prop_assert!(reads.ranges.iter().filter(whole).all(knows), "{reads:?}");
                }
                Step::Commit(writes) => {
                    let next = known.version().next(7).unwrap();
                    let writes = made(&writes);
                    commit(&mut store, &writes, next);
                    known.advance(next, writes);
                }
                Step::Get(key) => match known.get(&key) {
                    Ok(record) => prop_assert_eq!(record.cloned(), got(&store, &key)),
                    Err(_) => {
                        let missing = known.take_missing();
                        prop_assert_eq!(missing, Some(Reads::keys([key])));
                    }
                },
                Step::Scan(range) => match found(&known, &range) {
                    Ok(found) => prop_assert_eq!(found, scanned(&store, &range)),
                    Err(_) => prop_assert!(known.take_missing().is_some()),
                },
                Step::Insist(range) => {
                    let mut attempts = 0;
                    let answered = loop {
                        let answered = found(&known, &range);
                        let Some(missing) = known.take_missing() else { break answered };
                        let snapshot = missing.read_from(&store).unwrap();
                        known.learn(missing, snapshot).unwrap();
                        attempts += 1;
                        prop_assert!(attempts < 30, "each read brings it nearer to the end");
                    };
                    prop_assert_eq!(answered.unwrap(), scanned(&store, &range));
                }
            }
            prop_assert_eq!(known.take_missing(), None);
            prop_assert_eq!(known.version(), version(&store));
        }
    }

    #[test]
    fn an_overlay_reads_as_if_its_writes_were_stored(
        stored in writes(),
        more in writes(),
        written in writes(),
        range in ranges(),
        key in keys(),
    ) {
        let mut store = MemoryStore::default();
        commit(&mut store, &made(&stored), Version { era: 0, number: 1, name: 1 });
        commit(&mut store, &made(&more), Version { era: 0, number: 2, name: 2 });
        let (below, writes) = (whole(&store), made(&written));
        let laid = together(&writes);
        let overlay = Overlay { below: &below, writes: &laid };
        let mut after = store.clone();
        commit(&mut after, &writes, Version { era: 0, number: 3, name: 3 });
        prop_assert_eq!(overlay.get(&key).unwrap().cloned(), got(&after, &key));
        prop_assert_eq!(found(&overlay, &range).unwrap(), scanned(&after, &range));
    }
}

#[test]
#[should_panic(expected = "records of two versions must not be mixed")]
fn records_of_two_versions_are_never_mixed() {
    let store = MemoryStore::default();
    let reads = Reads::keys([b"sa"]);
    let snapshot = reads.read_from(&store).unwrap();
    let mut known = WorkingSet::at(Version { era: 0, number: 1, name: 1 });
    let _ = known.learn(reads, snapshot);
}

/// A set that holds `count` records of that size.
fn filled(records: usize, size: usize) -> WorkingSet {
    let version = Version { era: 0, number: 1, name: 1 };
    let mut known = WorkingSet::at(version);
    let keys: Vec<_> = (0..records).map(|index| format!("z{index}").into_bytes()).collect();
    let values = keys.iter().map(|_| Some(vec![7; size])).collect();
    let snapshot = Snapshot { version, values, ranges: vec![] };
    known.learn(Reads { keys, ranges: vec![] }, snapshot).unwrap();
    known
}

/// Whether a record is still known after a commit that does not touch it.
fn keeps(mut known: WorkingSet) -> bool {
    known.get(b"z0").unwrap();
    known.advance(known.version().next(2).unwrap(), Writes::default());
    known.get(b"z0").is_ok()
}

#[test]
fn what_is_known_is_dropped_beyond_a_number_of_records() {
    assert!(keeps(filled(99_999, 0)));
    assert!(!keeps(filled(100_000, 0)));
}

#[test]
fn what_is_known_is_dropped_beyond_a_number_of_bytes() {
    const MEBIBYTE: usize = 1 << 20;
    assert!(keeps(filled(63, MEBIBYTE)));
    assert!(!keeps(filled(64, MEBIBYTE)));
    // What is replaced or removed counts no more.
    let mut known = filled(63, MEBIBYTE);
    for _ in 0..3 {
        let mut writes = Writes::default();
        writes.put(b"z1", Record::Raw(vec![8; MEBIBYTE]));
        known.advance(known.version().next(2).unwrap(), writes);
    }
    assert!(keeps(known));
    let range = KeyRange { from: b"z".into(), to: b"{".into(), limit: usize::MAX };
    let mut known = filled(63, MEBIBYTE);
    let entries = (0..63).map(|index| (format!("z{index}").into_bytes(), vec![7; MEBIBYTE]));
    let mut entries: Vec<_> = entries.collect();
    entries.sort();
    let snapshot = Snapshot { version: known.version(), values: vec![], ranges: vec![entries] };
    known.learn(Reads { keys: vec![], ranges: vec![range] }, snapshot).unwrap();
    for _ in 0..3 {
        for record in [None, Some(Record::Raw(vec![8; 2 * MEBIBYTE - 1]))] {
            let mut writes = Writes::default();
            match record {
                Some(record) => writes.put(b"z1", record),
                None => writes.delete(b"z1"),
            }
            known.advance(known.version().next(2).unwrap(), writes);
        }
    }
    assert!(keeps(known));
}

#[test]
fn a_value_that_cannot_be_read_is_damage() {
    let mut store = MemoryStore::default();
    let mut effect = crate::Effect::default();
    effect.put(b"sa", [9, 9]);
    store.commit(effect).unwrap();
    let range = KeyRange { from: b"s".into(), to: b"t".into(), limit: 9 };
    for reads in [Reads::keys([b"sa"]), Reads { keys: vec![], ranges: vec![range] }] {
        let snapshot = reads.read_from(&store).unwrap();
        let error = WorkingSet::default().learn(reads, snapshot).unwrap_err();
        assert_eq!(*error.kind(), crate::ErrorKind::Corrupt);
    }
}
