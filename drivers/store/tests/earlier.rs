//! A directory of a release before the journal is converted by itself, all of it, and once.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{fs, path::Path};

use common::{Contents, contents};
use rand::{Rng, SeedableRng, rngs::StdRng};
use redb::{Database, ReadableDatabase as _, ReadableTable as _, TableDefinition};
use tempfile::TempDir;
use tsoracle_core::{Directory, ErrorKind, Result, SeqStore};
use tsoracle_store::{Options, Store, Table};

/// What such a release has left, after 16 commits.
const FIXTURE: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../tests/local/fixtures/file");

fn fixture() -> TempDir {
    let directory = tempfile::tempdir().unwrap();
    for name in ["LOCK", "state.redb"] {
        fs::copy(Path::new(FIXTURE).join(name), directory.path().join(name)).unwrap();
    }
    directory
}

fn open(directory: &TempDir) -> Result<Store> {
    Store::open(directory.path(), Options::default())
}

fn names(directory: &TempDir) -> Vec<String> {
    let entries = fs::read_dir(directory.path()).unwrap();
    let mut names: Vec<_> =
        entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect();
    names.sort();
    names
}

fn lock(directory: &TempDir) -> String {
    fs::read_to_string(directory.path().join("LOCK")).unwrap()
}

/// What redb itself finds in the state of the fixture.
fn expected() -> Contents {
    let directory = fixture();
    let database = Database::open(directory.path().join("state.redb")).unwrap();
    let transaction = database.begin_read().unwrap();
    let table = transaction.open_table(TableDefinition::<&[u8], &[u8]>::new("state")).unwrap();
    let entries = table.iter().unwrap().map(|entry| {
        let (key, record) = entry.unwrap();
        (key.value().to_vec(), record.value()[4..].to_vec())
    });
    entries.collect()
}

#[test]
fn a_directory_of_before_is_converted() {
    let (directory, expected) = (fixture(), expected());
    assert!(expected.len() > 5, "{}", expected.len());
    for round in 0..2 {
        let mut store = open(&directory).unwrap();
        assert_eq!(names(&directory), ["LOCK", "state.journal"]);
        assert_eq!(contents(&store).unwrap(), expected);
        let (text, commits) = (lock(&directory), 16 + round);
        assert!(text.contains("state.journal. Keep"), "{text}");
        assert!(text.contains(&format!("\ncommit {commits:020} ")), "{text}");
        store.commit(Default::default()).unwrap();
        assert_eq!(*store.belong_to("other").unwrap_err().kind(), ErrorKind::Config);
    }
}

/// Makes a file as such a release does, after 7 commits: with a log, and a state of so many `keys`.
fn make(path: &Path, keys: u32) {
    let database = Database::create(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let write = |table: &str, key: &[u8], value: &[u8]| {
        let sealed = [&(key.len() as u64).to_le_bytes(), key, value].concat();
        let record = [&crc32c::crc32c(&sealed).to_le_bytes(), value].concat();
        let table = TableDefinition::<&[u8], &[u8]>::new(table);
        transaction.open_table(table).unwrap().insert(key, &*record).unwrap();
    };
    write("meta", b"format", b"tsoracle state, format \0\0\0\x01");
    write("meta", b"commits", &7_u64.to_be_bytes());
    write("meta", b"driver", b"some");
    write("log", b"1", b"first");
    write("log", b"2", b"");
    (0..keys).for_each(|key| write("state", &key.to_be_bytes(), b"value"));
    transaction.commit().unwrap();
}

fn set_meta(path: &Path, key: &[u8], value: &[u8]) {
    let database = Database::open(path).unwrap();
    let transaction = database.begin_write().unwrap();
    let sealed = [&(key.len() as u64).to_le_bytes(), key, value].concat();
    let record = [&crc32c::crc32c(&sealed).to_le_bytes(), value].concat();
    let table = TableDefinition::<&[u8], &[u8]>::new("meta");
    transaction.open_table(table).unwrap().insert(key, &*record).unwrap();
    transaction.commit().unwrap();
}

/// As drivers that keep a log have it.
#[test]
fn all_tables_are_carried_over() {
    let directory = tempfile::tempdir().unwrap();
    make(&directory.path().join("state.redb"), 1);
    let store = open(&directory).unwrap();
    store.belong_to("some").unwrap();
    let log = store.entries(Table::new("log"), &[], &[u8::MAX], 9).unwrap();
    assert_eq!(log, [(b"1".to_vec(), b"first".to_vec()), (b"2".to_vec(), vec![])]);
    assert_eq!(store.get(&[0; 4]).unwrap(), Some(b"value".to_vec()));
    let meta = store.entries(Table::new("meta"), &[], &[u8::MAX], 9).unwrap();
    assert_eq!(meta, [(b"driver".to_vec(), b"some".to_vec())]);
    assert!(lock(&directory).contains("\ncommit 00000000000000000007 "));
}

#[test]
fn an_empty_one_is_refused_and_stays_empty() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    fs::write(&path, "").unwrap();
    let error = open(&directory).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    assert_eq!(fs::metadata(&path).unwrap().len(), 0);
}

#[test]
fn one_of_another_format_is_refused() {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("state.redb");
    make(&path, 1);
    set_meta(&path, b"format", b"tsoracle state, format \0\0\0\x02");
    let error = open(&directory).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("not a state of format 1"), "{error}");
}

#[test]
fn a_damaged_one_is_refused_by_its_name_and_stays() {
    let directory = tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap();
    let path = directory.path().join("state.redb");
    make(&path, 300);
    fs::write(directory.path().join("LOCK"), "").unwrap();
    let value = |key: u32| (key.to_be_bytes().to_vec(), b"value".to_vec());
    let expected: Contents = (0..300).map(value).collect();
    let (file, note) = (fs::read(&path).unwrap(), lock(&directory));
    let used: Vec<usize> = (0..file.len()).filter(|at| file[*at] != 0).collect();
    let mut random = StdRng::seed_from_u64(1);
    let mut refused = 0;
    let mut cases: Vec<(String, Vec<u8>)> = (0..150)
        .map(|_| {
            let (at, bit) = (used[random.random_range(0..used.len())], random.random_range(0..8));
            let mut damaged = file.clone();
            damaged[at] ^= 1 << bit;
            (format!("byte {at}:{bit}"), damaged)
        })
        .collect();
    cases
        .extend([0, 1, 100, 4_096, 20_000].map(|cut| (format!("{cut} bytes"), file[..cut].into())));
    cases.push(("a text".into(), b"to be or not to be\n".repeat(1_000)));
    for (what, damaged) in cases {
        drop(fs::remove_dir_all(directory.path().join("state.journal")));
        fs::write(&path, &damaged).unwrap();
        fs::write(directory.path().join("LOCK"), &note).unwrap();
        match open(&directory) {
            Ok(store) => assert_eq!(contents(&store).expect(&what), expected, "{what}"),
            Err(error) => {
                assert_eq!(*error.kind(), ErrorKind::Corrupt, "{what}: {error}");
                assert!(error.to_string().contains("state.redb"), "{what}: {error}");
                assert!(path.exists() && !directory.path().join("state.journal").exists());
                assert_eq!(lock(&directory), note, "{what}");
                refused += 1;
            }
        }
    }
    assert!(refused > 20, "{refused}");
}

#[test]
fn one_that_went_back_is_refused() {
    let directory = fixture();
    let line = "commit 00000000000000000017";
    let text = lock(&directory);
    let (kept, _) = text.split_once("commit 0").unwrap();
    let note = format!("{kept}{line} {:08x}\n", crc32c::crc32c(line.as_bytes()));
    fs::write(directory.path().join("LOCK"), note).unwrap();
    for _ in 0..2 {
        let text = open(&directory).unwrap_err().to_string();
        assert!(text.contains("state.redb is at commit 16, though 17 was acknowledged"), "{text}");
        assert!(!directory.path().join("state.journal").exists());
    }
}

#[test]
fn a_conversion_that_was_cut_short_is_begun_again_or_ended() {
    // Before the new state has its name.
    let expected = expected();
    for left in ["snapshot", "snapshot.new", "journal-00000000000000000017"] {
        let directory = fixture();
        let unfinished = directory.path().join("state.journal.new");
        fs::create_dir(&unfinished).unwrap();
        fs::write(unfinished.join(left), "a part").unwrap();
        assert_eq!(contents(&open(&directory).unwrap()).unwrap(), expected);
        assert_eq!(names(&directory), ["LOCK", "state.journal"]);
    }
    // After it has, with the note of before or with the next one.
    for is_noted in [true, false] {
        let directory = fixture();
        drop(open(&directory).unwrap());
        for name in ["LOCK", "state.redb"] {
            if name == "state.redb" || !is_noted {
                fs::copy(Path::new(FIXTURE).join(name), directory.path().join(name)).unwrap();
            }
        }
        assert_eq!(contents(&open(&directory).unwrap()).unwrap(), expected);
        assert_eq!(names(&directory), ["LOCK", "state.journal"]);
    }
}

#[test]
fn of_two_states_none_is_taken() {
    let directory = fixture();
    open(&directory).unwrap().commit(Default::default()).unwrap();
    let earlier = directory.path().join("state.redb");
    fs::copy(Path::new(FIXTURE).join("state.redb"), &earlier).unwrap();
    for _ in 0..2 {
        let error = open(&directory).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().contains("state.redb at commit 16"), "{error}");
        assert!(error.to_string().contains("state.journal at 17"), "{error}");
        assert_eq!(names(&directory), ["LOCK", "state.journal", "state.redb"]);
    }
}

/// This is how a release of before opens a directory.
#[test]
fn a_release_of_before_takes_no_state_for_a_fresh_one() {
    let converted = fixture();
    let fresh = tempfile::tempdir().unwrap();
    for directory in [converted, fresh] {
        drop(open(&directory).unwrap());
        let mut earlier = Directory::lock(directory.path(), "state.redb").unwrap();
        let error = earlier.state(|_| panic!("a state was made")).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
        assert!(error.to_string().contains("state.redb is missing, though it was"), "{error}");
        assert!(lock(&directory).contains("in state.journal. Keep this file"));
    }
}
