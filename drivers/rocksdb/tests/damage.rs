//! A damaged, cut, foreign or missing file of the database is refused by its name, or the store
//! holds exactly what it held. It is never taken for a fresh one.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tsoracle_core::{Effect, Error, ErrorKind, SeqStore};
use tsoracle_rocksdb::{Config, Store};

type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// In memory where that is possible, since each case syncs a dozen times.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

fn open(directory: &Path) -> Result<Store, Error> {
    // Small enough that the state lies in tables and in the log.
    Store::open(&Config { path: directory.into(), write_buffer_mb: 1, ..Config::default() })
}

fn contents(store: &Store) -> Contents {
    store.scan(&[], &[0xff; 8], usize::MAX).unwrap().into_iter().collect()
}

/// A commit of about `bytes` bytes.
fn effect(commit: u32, bytes: usize) -> Effect {
    let mut effect = Effect::default();
    for key in 0..10 {
        effect.put(format!("key {}", commit * 7 + key), vec![commit as u8; bytes / 10]);
    }
    effect.delete(format!("key {commit}"));
    effect
}

/// The files of a state directory at some moment, and what they hold.
struct Case {
    directory: TempDir,
    files: BTreeMap<PathBuf, Vec<u8>>,
    contents: Contents,
}

impl Case {
    fn take(commits: u32, bytes: usize) -> Self {
        let directory = directory();
        let mut store = open(directory.path()).unwrap();
        (0..commits).for_each(|commit| store.commit(effect(commit, bytes)).unwrap());
        let contents = contents(&store);
        // What a killed process leaves is what the files hold while the store is open.
        Self { files: files(directory.path()), directory, contents }
    }

    /// As [`take`](Self::take), but everything lies in tables: recovery writes them, and leaves
    /// nothing for RocksDB's threads to do meanwhile.
    fn take_in_tables(commits: u32, bytes: usize) -> Self {
        let case = Self::take(commits, bytes);
        let store = open(case.directory.path()).unwrap();
        assert!(contents(&store) == case.contents);
        Self { files: files(case.directory.path()), ..case }
    }

    fn state(&self) -> PathBuf {
        self.directory.path().join("state.rocksdb")
    }

    fn find(&self, is_it: impl Fn(&str) -> bool) -> (PathBuf, Vec<u8>) {
        let name = |path: &Path| path.file_name().unwrap().to_str().unwrap().to_owned();
        let mut found = self.files.iter().filter(|(path, _)| is_it(&name(path)));
        let (path, bytes) = found.next_back().unwrap();
        (path.clone(), bytes.clone())
    }

    fn restore(&self) {
        fs::remove_dir_all(self.state()).unwrap();
        fs::create_dir(self.state()).unwrap();
        self.files.iter().for_each(|(path, bytes)| fs::write(path, bytes).unwrap());
    }

    /// Whether the state is refused with `name` in the error when the file at `path` holds `bytes`,
    /// or is missing; if it is not refused, it has to hold everything.
    fn is_refused(&self, path: &Path, bytes: Option<&[u8]>, name: &str, what: &str) -> bool {
        self.restore();
        match bytes {
            Some(bytes) => fs::write(path, bytes).unwrap(),
            None => fs::remove_file(path).unwrap(),
        }
        match open(self.directory.path()) {
            Ok(store) => {
                assert!(contents(&store) == self.contents, "{what}: opened, but holds less");
                false
            }
            Err(error) => {
                let text = error.to_string();
                assert_eq!(*error.kind(), ErrorKind::Corrupt, "{what}: {text}");
                assert!(text.contains(name), "{what}: {name} is not in: {text}");
                true
            }
        }
    }

    /// Flips bits of the file, cuts it, empties it and removes it: how often that is refused.
    fn damage(&self, path: &Path, name: &str, seed: u64) -> usize {
        let mut random = StdRng::seed_from_u64(seed);
        let whole = &self.files[path];
        let mut refused = 0;
        for _ in 0..40 {
            let mut damaged = whole.clone();
            let at = random.random_range(0..whole.len());
            damaged[at] ^= 1 << random.random_range(0..8);
            refused += usize::from(self.is_refused(path, Some(&damaged), name, &format!("{at}")));
        }
        for _ in 0..30 {
            let length = random.random_range(0..whole.len());
            let what = format!("{length} of {}", whole.len());
            refused += usize::from(self.is_refused(path, Some(&whole[..length]), name, &what));
        }
        assert!(self.is_refused(path, Some(&[]), name, "empty"), "{name}, empty");
        assert!(self.is_refused(path, None, name, "missing"), "{name}, missing");
        refused
    }
}

fn is_log(name: &str) -> bool {
    name.ends_with(".log")
}

/// All files below `directory`, once RocksDB's threads leave them alone.
fn files(directory: &Path) -> BTreeMap<PathBuf, Vec<u8>> {
    let mut before = None;
    loop {
        let now = try_files(directory).ok();
        match now {
            Some(files) if Some(&files) == before.as_ref() => return files,
            now => before = now,
        }
    }
}

fn try_files(directory: &Path) -> io::Result<BTreeMap<PathBuf, Vec<u8>>> {
    let mut paths = vec![directory.join("LOCK")];
    for entry in fs::read_dir(directory.join("state.rocksdb"))? {
        paths.push(entry?.path());
    }
    paths.into_iter().map(|path| Ok((path.clone(), fs::read(path)?))).collect()
}

#[test]
fn an_undamaged_state_is_what_it_was() {
    let case = Case::take_in_tables(80, 20_000);
    let (lock, bytes) = case.find(|name| name == "LOCK");
    assert!(!case.is_refused(&lock, Some(&bytes), "", "undamaged"));
}

#[test]
fn damage_in_the_log() {
    let case = Case::take(100, 2_000);
    let (log, _) = case.find(is_log);
    let refused = case.damage(&log, "state.rocksdb", 1);
    assert_eq!(refused, 70);
}

/// After a power loss `LOCK` may be behind, and is no help.
#[test]
fn damage_in_mid_log_is_refused_without_a_note_as_well() {
    let mut case = Case::take(100, 2_000);
    case.files.remove(&case.directory.path().join("LOCK"));
    let (log, whole) = case.find(is_log);
    let name = log.to_str().unwrap();
    let is_refused = |damaged: &[u8], what: &str| {
        fs::remove_file(case.directory.path().join("LOCK")).unwrap();
        case.is_refused(&log, Some(damaged), name, what)
    };
    let mut random = StdRng::seed_from_u64(5);
    // What is in the last commit may be taken for unfinished.
    let end = whole.len() - 2_500;
    // The first record, whose type tells how the rest is read, and random bytes.
    let positions = (0..7).chain((0..150).map(|_| random.random_range(7..end)));
    for position in Vec::from_iter(positions) {
        for bit in 0..8 {
            let mut damaged = whole.clone();
            damaged[position] ^= 1 << bit;
            assert!(is_refused(&damaged, "flipped"), "byte {position}:{bit}");
        }
    }
    for size in [512, 4_096, 32_768] {
        for start in (0..end - size).step_by(size) {
            let mut damaged = whole.clone();
            damaged[start..start + size].fill(0);
            assert!(is_refused(&damaged, "zeroed"), "{size} bytes from {start}");
        }
    }
}

#[test]
fn a_last_record_cut_short_is_that_of_a_commit_never_acknowledged() {
    let directory = directory();
    let mut store = open(directory.path()).unwrap();
    (0..10).for_each(|commit| store.commit(effect(commit, 40_000)).unwrap());
    let acknowledged = contents(&store);
    let before = files(directory.path());
    store.commit(effect(10, 40_000)).unwrap();
    let mut case = Case { files: files(directory.path()), directory, contents: acknowledged };
    drop(store);
    let lock = case.directory.path().join("LOCK");
    case.files.insert(lock.clone(), before[&lock].clone());
    let (log, whole) = case.find(is_log);
    let begun = before[&log].len();
    let mut random = StdRng::seed_from_u64(6);
    let lengths =
        (begun..begun + 10).chain((0..40).map(|_| random.random_range(begun..whole.len())));
    for length in Vec::from_iter(lengths) {
        let torn = &whole[..length];
        assert!(!case.is_refused(&log, Some(torn), "", "torn"), "{length} of {}", whole.len());
        let zeros = [&whole[..begun], &vec![0; length - begun]].concat();
        assert!(!case.is_refused(&log, Some(&zeros), "", "allocated"), "{length}");
    }
    // Cut before its beginning, it has lost what was acknowledged.
    for length in [0, 7, begun / 2, begun - 1] {
        assert!(case.is_refused(&log, Some(&whole[..length]), "state.rocksdb", "cut"));
    }
}

#[test]
fn damage_in_a_table() {
    let case = Case::take_in_tables(80, 20_000);
    let (table, _) = case.find(|name| name.ends_with(".sst"));
    let name = table.to_str().unwrap();
    let refused = case.damage(&table, name, 2);
    assert!(refused > 60, "{refused}");
}

#[test]
fn damage_in_the_manifest() {
    let case = Case::take_in_tables(80, 20_000);
    let (manifest, _) = case.find(|name| name.starts_with("MANIFEST"));
    let refused = case.damage(&manifest, "state.rocksdb", 3);
    assert!(refused > 60, "{refused}");
}

#[test]
fn damage_in_the_name_of_the_manifest() {
    let case = Case::take(10, 2_000);
    let (current, _) = case.find(|name| name == "CURRENT");
    let refused = case.damage(&current, "state.rocksdb", 4);
    assert_eq!(refused, 70);
}

#[test]
fn foreign_and_newer_databases() {
    let case = Case::take(10, 2_000);
    let refused = |name: &str| {
        let error = open(case.directory.path()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
        let text = error.to_string();
        assert!(text.starts_with(case.state().to_str().unwrap()) && text.contains(name), "{text}");
    };
    fs::remove_dir_all(case.state()).unwrap();
    refused("is missing, though it was there");
    fs::create_dir(case.state()).unwrap();
    refused("CURRENT");
    let foreign = rocksdb::DB::open_default(case.state()).unwrap();
    foreign.put(b"key", b"value").unwrap();
    drop(foreign);
    refused("not a state of tsoracle's");

    case.restore();
    let newer = rocksdb::DB::open_default(case.state()).unwrap();
    newer.put(b"meta format", b"tsoracle state, format \0\0\0\x07").unwrap();
    drop(newer);
    refused("has format 7, this release reads 1: it was made by a newer release");

    let fresh = directory();
    drop(open(fresh.path()).unwrap());
    fs::remove_dir_all(case.state()).unwrap();
    fs::rename(fresh.path().join("state.rocksdb"), case.state()).unwrap();
    refused("at commit 0, though 10 was acknowledged");
}

#[test]
fn a_first_start_that_was_cut_short_is_begun_again() {
    let case = Case::take(10, 2_000);
    let fresh = directory();
    fs::write(fresh.path().join("LOCK"), "").unwrap();
    fs::rename(case.state(), fresh.path().join("state.rocksdb.new")).unwrap();
    assert_eq!(contents(&open(fresh.path()).unwrap()), Contents::new());
    assert!(!fresh.path().join("state.rocksdb.new").exists());
}

#[test]
fn another_program_in_the_database_is_kept_out_and_keeps_this_one_out() {
    let case = Case::take(10, 2_000);
    let path = case.state();
    let other = rocksdb::DB::open_default(&path).unwrap();
    let error = open(case.directory.path()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
    assert!(error.to_string().contains(path.to_str().unwrap()), "{error}");
    drop(other);
    let _store = open(case.directory.path()).unwrap();
    rocksdb::DB::open_default(&path).unwrap_err();
}
