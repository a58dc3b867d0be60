//! A damaged, cut, foreign or missing state file is refused by its name, or holds exactly what it
//! held. It is never taken for a fresh one.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{
    fs,
    path::{Path, PathBuf},
};

use common::{Contents, Disk, contents, create};
use rand::{Rng, SeedableRng, rngs::StdRng};
use redb::{Database, TableDefinition};
use tempfile::TempDir;
use tsoracle_core::{Effect, Error, ErrorKind, SeqStore};
use tsoracle_store::{Options, Store};

/// In memory where that is possible, since each case syncs a dozen times.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

fn open(directory: &Path) -> Result<Store, Error> {
    Store::open(directory, Options::default())
}

fn fill(store: &mut Store) {
    for commit in 0..12_u8 {
        let mut effect = Effect::default();
        for key in 0..40_u8 {
            effect.put(format!("key {}", u32::from(key) * 7 % 160), vec![commit; usize::from(key)]);
        }
        effect.put(format!("long {commit}"), vec![commit; 9_000]);
        effect.delete(format!("long {}", commit / 2));
        store.commit(effect).unwrap();
    }
}

/// The files of a state directory at some moment, and what they hold.
struct Case {
    directory: TempDir,
    state: Vec<u8>,
    lock: Vec<u8>,
    contents: Contents,
}

impl Case {
    fn take(closed: bool) -> Self {
        let directory = directory();
        let mut store = open(directory.path()).unwrap();
        fill(&mut store);
        let contents = contents(&store).unwrap();
        let files = |name: &str| fs::read(directory.path().join(name)).unwrap();
        // What a killed process leaves is what the files hold while the store is open.
        let (mut state, mut lock) = (files("state.redb"), files("LOCK"));
        drop(store);
        if closed {
            (state, lock) = (files("state.redb"), files("LOCK"));
        }
        Self { directory, state, lock, contents }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state.redb")
    }

    fn with(&self, state: &[u8]) -> Result<Store, Error> {
        fs::write(self.path(), state).unwrap();
        fs::write(self.directory.path().join("LOCK"), &self.lock).unwrap();
        open(self.directory.path())
    }

    /// Whether `state` is refused in the right way; if not, it has to hold everything.
    fn is_refused(&self, state: &[u8], what: &str) -> bool {
        match self.with(state) {
            Ok(store) => {
                let found = contents(&store).expect(what);
                assert!(found == self.contents, "{what}: opened, but holds something else");
                false
            }
            Err(error) => {
                let text = error.to_string();
                assert_eq!(*error.kind(), ErrorKind::Corrupt, "{what}: {text}");
                assert!(text.contains(self.path().to_str().unwrap()), "{what}: {text}");
                true
            }
        }
    }
}

/// Bytes that matter: the header, and random ones among those in use.
fn positions(state: &[u8], random: &mut StdRng) -> Vec<usize> {
    let used: Vec<usize> = (320..state.len()).filter(|&at| state[at] != 0).collect();
    let mut positions: Vec<usize> = (0..320).collect();
    positions.extend((0..400).map(|_| used[random.random_range(0..used.len())]));
    positions.extend((0..100).map(|_| random.random_range(320..state.len())));
    positions
}

fn flips(closed: bool) {
    let case = Case::take(closed);
    assert!(!case.is_refused(&case.state, "undamaged"));
    let mut random = StdRng::seed_from_u64(1);
    let mut refused = 0;
    for position in positions(&case.state, &mut random) {
        let bits = match position {
            9 => (0..8).collect(), // redb keeps the flags of the whole file in this byte
            _ => vec![random.random_range(0..8)],
        };
        for bit in bits {
            let mut damaged = case.state.clone();
            damaged[position] ^= 1 << bit;
            refused += usize::from(case.is_refused(&damaged, &format!("byte {position}:{bit}")));
        }
    }
    assert!(refused > 100, "only {refused} were refused, so most damage was not where it matters");
}

#[test]
fn flipped_bits_after_a_clean_stop() {
    flips(true);
}

#[test]
fn flipped_bits_after_a_kill() {
    flips(false);
}

#[test]
fn cut_and_extended_files() {
    for closed in [true, false] {
        let case = Case::take(closed);
        let whole = case.state.len();
        let mut random = StdRng::seed_from_u64(2);
        let mut lengths = vec![0, 1, 8, 9, 100, 319, 320, 4_095, 4_096, 8_192, whole - 4_096];
        lengths.extend([whole - 1, whole + 1, whole + 4_096]);
        lengths.extend((0..60).map(|_| random.random_range(0..whole)));
        lengths.extend((0..60).map(|_| random.random_range(0..whole / 4_096) * 4_096));
        for length in lengths {
            let mut cut = case.state.clone();
            cut.resize(length, 0);
            let refused = case.is_refused(&cut, &format!("{length} of {whole} bytes"));
            assert!(refused || length > whole / 2, "{length} of {whole} bytes");
        }
    }
}

#[test]
fn zeroed_and_swapped_pages() {
    for closed in [true, false] {
        let case = Case::take(closed);
        let pages = case.state.len() / 4_096;
        for page in 0..pages.min(60) {
            let mut damaged = case.state.clone();
            damaged[page * 4_096..][..4_096].fill(0);
            case.is_refused(&damaged, &format!("page {page} zeroed"));
            let mut swapped = case.state.clone();
            let other = (page * 31 + 7) % pages;
            swapped.copy_within(page * 4_096..(page + 1) * 4_096, other * 4_096);
            case.is_refused(&swapped, &format!("page {page} written over page {other}"));
        }
    }
}

#[test]
fn foreign_files() {
    let case = Case::take(true);
    let elsewhere = directory();
    let foreign = |name: &str, write: &dyn Fn(&Database)| {
        let path = elsewhere.path().join(name);
        let database = Database::create(&path).unwrap();
        write(&database);
        drop(database);
        fs::read(path).unwrap()
    };
    let empty = foreign("empty", &|_| {});
    let other = foreign("other", &|database| {
        let table = TableDefinition::<&str, u64>::new("state");
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert("key", 1).unwrap();
        transaction.commit().unwrap();
    });
    let fresh = directory();
    drop(open(fresh.path()).unwrap());
    let fresh = fs::read(fresh.path().join("state.redb")).unwrap();
    for (what, file) in [
        ("an empty file", vec![]),
        ("a text", b"to be or not to be\n".repeat(1_000)),
        ("noughts", vec![0; 100_000]),
        ("an empty redb file", empty),
        ("another program's redb file", other),
        ("a state that was never used", fresh),
    ] {
        assert!(case.is_refused(&file, what), "{what}");
        assert!(case.is_refused(&file, what), "{what} was changed, and then opened");
    }
    fs::remove_file(case.path()).unwrap();
    fs::create_dir(case.path()).unwrap();
    let error = open(case.directory.path()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
}

#[test]
fn an_older_copy() {
    let case = Case::take(true);
    let mut store = case.with(&case.state).unwrap();
    let mut effect = Effect::default();
    effect.put("key 1", "newer");
    store.commit(effect).unwrap();
    drop(store);
    fs::write(case.path(), &case.state).unwrap();
    let error = open(case.directory.path()).unwrap_err();
    assert!(error.to_string().contains("at commit 13, though 14 was acknowledged"), "{error}");
    // Whoever means it says so.
    fs::remove_file(case.directory.path().join("LOCK")).unwrap();
    assert_eq!(contents(&open(case.directory.path()).unwrap()).unwrap(), case.contents);
}

#[test]
fn a_missing_file_and_a_start_that_was_cut_short() {
    let case = Case::take(true);
    fs::remove_file(case.path()).unwrap();
    let error = open(case.directory.path()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("state.redb is missing"), "{error}");

    // A first start is killed before the state has its name, at any length of what it had written.
    for left in [0, 100, 5_000, case.state.len()] {
        let fresh = directory();
        fs::write(fresh.path().join("LOCK"), "").unwrap();
        fs::write(fresh.path().join("state.redb.new"), &case.state[..left]).unwrap();
        assert_eq!(contents(&open(fresh.path()).unwrap()).unwrap(), Contents::new());
        assert!(!fresh.path().join("state.redb.new").exists());
    }
}

#[test]
fn damage_that_happens_while_the_store_is_open() {
    let disk = Disk::default();
    create(&disk).unwrap();
    let no_cache = Options { cache_bytes: 0 };
    let open = |disk: &Disk| Store::open_on(disk.clone(), "disk.redb", no_cache).unwrap();
    let mut store = open(&disk);
    fill(&mut store);
    let held = contents(&store).unwrap();
    drop(store);
    let image = disk.image();
    let mut random = StdRng::seed_from_u64(3);
    let mut noticed = 0;
    for position in positions(&image, &mut random) {
        let disk = Disk::holding(image.clone());
        let store = open(&disk);
        disk.flip(position, random.random_range(0..8));
        for (key, value) in &held {
            match store.get(key) {
                Ok(found) => assert_eq!(found.as_ref(), Some(value), "byte {position}"),
                Err(error) => {
                    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
                    assert!(error.to_string().contains("disk.redb"), "{error}");
                    noticed += 1;
                    break;
                }
            }
        }
    }
    assert!(noticed > 50, "only {noticed} were noticed");
}

#[test]
fn a_value_that_is_not_what_was_sealed() {
    let case = Case::take(true);
    {
        let database = Database::open(case.path()).unwrap();
        let table = TableDefinition::<&[u8], &[u8]>::new("state");
        let transaction = database.begin_write().unwrap();
        transaction.open_table(table).unwrap().insert(&b"key 7"[..], &b"1234value"[..]).unwrap();
        transaction.commit().unwrap();
    }
    let store = open(case.directory.path()).unwrap();
    let error = store.get(b"key 7").unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("state.redb") && error.to_string().contains("key 7"));
    assert_eq!(store.get(b"key 14").unwrap(), case.contents.get(&b"key 14"[..]).cloned());
}
