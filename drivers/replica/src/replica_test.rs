use proptest::prelude::*;
use tempfile::TempDir;
use tsoracle_core::{
    BootTime, Effect, ErrorKind, KeyRange, MemoryStore, Outcome, Reads, SeqStore, Version,
};
use tsoracle_store::{Store, Table};

use crate::Replica;

/// A replica in a directory of its own.
struct Fixture {
    directory: TempDir,
    replica: Option<Replica>,
    names: u128,
}

impl Fixture {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let mut fixture = Self { directory, replica: None, names: 0 };
        fixture.reopen(at(0));
        fixture
    }

    fn reopen(&mut self, now: BootTime) {
        self.replica = None;
        let store = Store::open(self.directory.path(), Default::default()).unwrap();
        self.replica = Some(Replica::open(store, now).unwrap());
    }

    fn replica(&mut self) -> &mut Replica {
        self.replica.as_mut().unwrap()
    }

    /// A commit on `base` that nothing was made of before.
    fn commit(&mut self, base: Version, key: u8) -> Effect {
        self.names += 1;
        let mut effect = Effect::default();
        effect.put([key], self.names.to_be_bytes());
        effect.set_version(base.next(self.names).unwrap());
        effect
    }

    /// Applies a commit on the state's own version.
    fn advance(&mut self, key: u8, now: BootTime) -> Version {
        let base = self.replica().version();
        let effect = self.commit(base, key);
        let outcome = self.replica().apply(base, effect, now).unwrap().unwrap();
        assert_eq!(outcome, Outcome::Stored);
        self.replica().version()
    }
}

fn at(millis: u64) -> BootTime {
    BootTime::from_nanos(millis * 1_000_000)
}

#[test]
fn at_most_one_commit_follows_a_base() {
    let mut fixture = Fixture::new();
    let base = fixture.advance(1, at(1));
    let (first, second) = (fixture.commit(base, 2), fixture.commit(base, 3));
    let made = first.version().unwrap();
    let replica = fixture.replica();
    assert_eq!(replica.apply(base, first.clone(), at(2)).unwrap().unwrap(), Outcome::Stored);
    let outcome = replica.apply(base, second.clone(), at(3)).unwrap().unwrap();
    assert_eq!(outcome, Outcome::Conflict { found: made });
    // The one that was stored is so however often it comes, and whatever came after it.
    assert_eq!(replica.apply(base, first.clone(), at(4)).unwrap().unwrap(), Outcome::Stored);
    let found = fixture.advance(4, at(5));
    let replica = fixture.replica();
    assert_eq!(replica.apply(base, first.clone(), at(6)).unwrap().unwrap(), Outcome::Stored);
    let outcome = replica.apply(base, second, at(7)).unwrap().unwrap();
    assert_eq!(outcome, Outcome::Conflict { found });
    let snapshot = replica.read(&Reads::keys([[2], [3], [4]])).unwrap();
    let stored: Vec<_> = snapshot.values.iter().map(Option::is_some).collect();
    assert_eq!((snapshot.version, stored), (found, vec![true, false, true]));
    // A later process does not remember it.
    replica.settle().unwrap();
    fixture.reopen(at(8));
    fixture.advance(5, at(9));
    let error = fixture.replica().apply(base, first, at(10)).unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Uncertain);
}

#[test]
fn a_base_that_the_state_has_never_been_at_is_refused() {
    let mut fixture = Fixture::new();
    let at_first = fixture.advance(1, at(1));
    let ahead = Version { number: 9, ..at_first };
    let effect = fixture.commit(ahead, 2);
    let error = fixture.replica().apply(ahead, effect, at(2)).unwrap().unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Unavailable);
    assert_eq!(fixture.replica().version(), at_first);
}

#[test]
fn a_commit_whose_number_another_state_has_passed_conflicts_though_nothing_is_remembered() {
    let mut fixture = Fixture::new();
    let first = fixture.advance(1, at(1));
    fixture.replica().settle().unwrap();
    fixture.reopen(at(2));
    let other = Version { name: first.name + 1, ..first };
    let effect = fixture.commit(other, 2);
    let outcome = fixture.replica().apply(other, effect, at(3)).unwrap().unwrap();
    assert_eq!(outcome, Outcome::Conflict { found: first });
}

#[test]
fn commits_that_are_refused_leave_room_for_the_evidence_of_others() {
    let mut fixture = Fixture::new();
    let base = fixture.advance(1, at(1));
    fixture.advance(1, at(2));
    let evidence = fixture.replica().evidence();
    for _ in 0..5_000 {
        let late = fixture.commit(base, 2);
        evidence.logged(late.version().unwrap(), at(3));
        let outcome = fixture.replica().apply(base, late, at(4)).unwrap().unwrap();
        assert!(matches!(outcome, Outcome::Conflict { .. }));
    }
    let base = fixture.replica().version();
    let effect = fixture.commit(base, 3);
    let made = effect.version().unwrap();
    evidence.logged(made, at(6));
    fixture.replica().apply(base, effect, at(9)).unwrap().unwrap();
    assert_eq!(evidence.seen(&made), Some(at(6)));
}

#[test]
fn what_is_not_written_hides_what_is() {
    let mut fixture = Fixture::new();
    for key in 1..6 {
        fixture.advance(key, at(1));
    }
    fixture.replica().settle().unwrap();
    let base = fixture.replica().version();
    let mut effect = fixture.commit(base, 7);
    effect.delete([1]);
    effect.delete([2]);
    fixture.replica().apply(base, effect, at(2)).unwrap().unwrap();
    let range = KeyRange { from: vec![0], to: vec![9], limit: 2 };
    let found = fixture.replica().read(&Reads { keys: vec![], ranges: vec![range] }).unwrap();
    let keys: Vec<_> = found.ranges[0].iter().map(|(key, _)| key[0]).collect();
    assert_eq!(keys, [3, 4]);
}

#[test]
fn how_far_it_has_come_is_kept_though_nothing_else_has_changed() {
    let mut fixture = Fixture::new();
    fixture.advance(1, at(1));
    fixture.replica().settle().unwrap();
    fixture.replica().set_applied(b"9".to_vec());
    fixture.replica().settle().unwrap();
    fixture.reopen(at(2));
    assert_eq!(fixture.replica().applied(), Some(&b"9"[..]));
}

#[test]
fn evidence_is_of_commits_that_were_applied() {
    let mut fixture = Fixture::new();
    assert_eq!(fixture.replica().evidence().seen(&Version::EMPTY), Some(at(0)));
    let first = fixture.advance(1, at(5));
    let (logged, lost) = (fixture.commit(first, 2), fixture.commit(first, 3));
    let evidence = fixture.replica().evidence();
    let (logged_version, lost_version) = (logged.version().unwrap(), lost.version().unwrap());
    evidence.logged(logged_version, at(6));
    evidence.logged(lost_version, at(6));
    assert_eq!(evidence.seen(&logged_version), None);
    let replica = fixture.replica();
    replica.apply(first, logged, at(8)).unwrap().unwrap();
    replica.apply(first, lost, at(9)).unwrap().unwrap();
    assert_eq!(evidence.seen(&logged_version), Some(at(6)));
    assert_eq!(evidence.seen(&lost_version), None);
    assert_eq!(evidence.seen(&first), Some(at(5)));
    // What is found in a store was observed when it was opened.
    replica.settle().unwrap();
    fixture.reopen(at(50));
    let evidence = fixture.replica().evidence();
    assert_eq!(evidence.seen(&logged_version), Some(at(50)));
    assert_eq!(evidence.seen(&first), Some(at(50)));
}

#[test]
fn a_snapshot_counts_from_when_it_was_installed() {
    let (mut source, mut target) = (Fixture::new(), Fixture::new());
    let versions: Vec<_> = (1..4).map(|key| source.advance(key, at(key.into()))).collect();
    let chunks = source.replica().snapshot().unwrap();
    target.replica().restore(chunks, [], at(70)).unwrap();
    let evidence = target.replica().evidence();
    for version in &versions {
        assert_eq!(evidence.seen(version), Some(at(70)));
    }
    assert_eq!(target.replica().version(), versions[2]);
    assert_eq!(evidence.seen(&versions[2].next(9).unwrap()), None);
}

#[test]
fn a_snapshot_replaces_what_was_there_written_or_not() {
    let (mut source, mut target) = (Fixture::new(), Fixture::new());
    source.advance(1, at(1));
    target.names = 100;
    target.advance(9, at(2));
    let chunks = source.replica().snapshot().unwrap();
    target.replica().restore(chunks, [], at(3)).unwrap();
    let state = target.replica().read(&Reads::keys([[1], [9]])).unwrap();
    assert_eq!(state.values.iter().map(Option::is_some).collect::<Vec<_>>(), [true, false]);
    target.replica().settle().unwrap();
    assert_eq!(SeqStore::get(target.replica().store(), &[9]).unwrap(), None);
}

#[test]
fn what_is_not_written_is_undone_by_a_crash_together_with_how_far_it_was() {
    let mut fixture = Fixture::new();
    let first = fixture.advance(1, at(1));
    fixture.replica().set_applied(b"1".to_vec());
    fixture.replica().settle().unwrap();
    let base = first;
    let effect = fixture.commit(base, 2);
    fixture.replica().apply(base, effect.clone(), at(2)).unwrap().unwrap();
    fixture.replica().set_applied(b"2".to_vec());
    assert_eq!(fixture.replica().applied(), Some(&b"2"[..]));
    fixture.reopen(at(3));
    assert_eq!(
        (fixture.replica().version(), fixture.replica().applied()),
        (first, Some(&b"1"[..]))
    );
    // Applied again, it is the same.
    let outcome = fixture.replica().apply(base, effect.clone(), at(4)).unwrap().unwrap();
    assert_eq!(outcome, Outcome::Stored);
    fixture.replica().set_applied(b"2".to_vec());
    fixture.replica().settle().unwrap();
    fixture.reopen(at(5));
    assert_eq!(fixture.replica().version(), effect.version().unwrap());
    assert_eq!(fixture.replica().applied(), Some(&b"2"[..]));
}

#[test]
fn writes_of_another_table_are_settled_with_what_they_go_along_with() {
    const OWN: Table = Table::new("own");
    let mut fixture = Fixture::new();
    let version = fixture.advance(1, at(1));
    fixture.replica().set_applied(b"1".to_vec());
    let mut own = Effect::default();
    own.put(*b"own", *b"1");
    fixture.replica().settle_with([(OWN, own)]).unwrap();
    fixture.reopen(at(2));
    let replica = fixture.replica();
    assert_eq!((replica.version(), replica.applied()), (version, Some(&b"1"[..])));
    assert_eq!(replica.store().read(OWN, b"own").unwrap(), Some(b"1".to_vec()));
    // Nothing is no write.
    replica.settle_with([]).unwrap();
}

#[test]
fn much_that_is_not_written_goes_along_with_the_next_write() {
    const LOG: Table = Table::new("log");
    let mut fixture = Fixture::new();
    let log = || [(LOG, Effect::default())];
    fixture.advance(1, at(1));
    fixture.replica().write(log()).unwrap();
    assert_eq!(SeqStore::get(fixture.replica().store(), &[1]).unwrap(), None);
    for _ in 0..1_000 {
        fixture.advance(2, at(2));
    }
    fixture.replica().write(log()).unwrap();
    let version = fixture.replica().version();
    fixture.reopen(at(3));
    assert_eq!(fixture.replica().version(), version);
    // By keys as well, though it is a single commit.
    let mut effect = fixture.commit(version, 3);
    (0..2_000_u16).for_each(|key| effect.put(key.to_be_bytes(), [1]));
    let made = effect.version().unwrap();
    fixture.replica().apply(version, effect, at(4)).unwrap().unwrap();
    fixture.replica().write(log()).unwrap();
    fixture.reopen(at(5));
    assert_eq!(fixture.replica().version(), made);
    // And by bytes, though they are all one key's, and replaced.
    for _ in 0..300 {
        let base = fixture.replica().version();
        let mut effect = fixture.commit(base, 4);
        effect.put([4], [7; 1_024]);
        fixture.replica().apply(base, effect, at(6)).unwrap().unwrap();
    }
    fixture.replica().write(log()).unwrap();
    let version = fixture.replica().version();
    fixture.reopen(at(7));
    assert_eq!(fixture.replica().version(), version);
}

#[test]
fn entries_without_a_version_are_a_damaged_state() {
    let directory = tempfile::tempdir().unwrap();
    let mut store = Store::open(directory.path(), Default::default()).unwrap();
    let mut effect = Effect::default();
    effect.put(*b"key", *b"value");
    store.commit(effect).unwrap();
    assert_eq!(*Replica::open(store, at(0)).unwrap_err().kind(), ErrorKind::Corrupt);
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 24, ..ProptestConfig::default() })]

    #[test]
    fn it_reads_as_if_everything_were_written(
        commits in prop::collection::vec(
            (prop::collection::vec((0..12u8, any::<bool>()), 0..6), any::<bool>()), 0..12,
        ),
        from in 0..12u8, to in 0..13u8, limit in 0..8usize,
    ) {
        let mut fixture = Fixture::new();
        let mut model = MemoryStore::default();
        for (writes, settles) in commits {
            let base = fixture.replica().version();
            let mut effect = fixture.commit(base, 20);
            for (key, is_put) in writes {
                match is_put {
                    true => effect.put([key], [key]),
                    false => effect.delete([key]),
                }
            }
            model.commit(effect.clone()).unwrap();
            fixture.replica().apply(base, effect, at(1)).unwrap().unwrap();
            if settles {
                fixture.replica().settle().unwrap();
            }
        }
        let range = KeyRange { from: vec![from], to: vec![to], limit };
        let wanted = Reads { ranges: vec![range], ..Reads::keys((0..12u8).map(|key| [key])) };
        let expected = wanted.read_from(&model).unwrap();
        prop_assert_eq!(fixture.replica().read(&wanted).unwrap(), expected);
    }
}
