//! A damaged, cut, foreign or missing file is refused by its name, or everything is there that was
//! held. It is never taken for the end of a journal, or for a fresh state.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use common::{Contents, Disk, WRITE_BEHIND, contents, made};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tempfile::TempDir;
use tsoracle_core::{Effect, Error, ErrorKind, SeqStore};
use tsoracle_store::{Options, Store, Table};

/// In memory where that is possible, since each case syncs a dozen times.
fn directory() -> TempDir {
    let memory = Path::new("/dev/shm");
    let place = if memory.is_dir() { memory.into() } else { std::env::temp_dir() };
    tempfile::tempdir_in(place).unwrap()
}

/// A little more than what one of the commits below takes.
const OPTIONS: Options = Options { journal_bytes: 20_000 };

fn open(directory: &Path) -> Result<Store, Error> {
    Store::open(directory, OPTIONS)
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
    let mut effect = Effect::default();
    effect.put("key 7", "last");
    store.commit(effect).unwrap();
}

type Files = BTreeMap<String, Vec<u8>>;

/// The files of a state directory at some moment, and what they hold.
struct Case {
    directory: TempDir,
    /// Those in `state.journal`.
    files: Files,
    lock: Vec<u8>,
    contents: Contents,
}

impl Case {
    fn take(closed: bool) -> Self {
        let directory = directory();
        let mut store = open(directory.path()).unwrap();
        fill(&mut store);
        let contents = contents(&store).unwrap();
        // What a killed process leaves is what the files hold while the store is open.
        let (mut files, mut lock) = read(directory.path());
        drop(store);
        if closed {
            (files, lock) = read(directory.path());
        }
        Self { directory, files, lock, contents }
    }

    fn path(&self) -> PathBuf {
        self.directory.path().join("state.journal")
    }

    /// The files that a start reads: the snapshot, and the segments after it.
    fn needed(&self) -> Vec<String> {
        let sequence = u64::from_le_bytes(self.files["snapshot"][36..44].try_into().unwrap());
        let needs = |name: &str| match name.strip_prefix("journal-") {
            Some(first) => first.parse().is_ok_and(|first: u64| first > sequence),
            None => name == "snapshot",
        };
        self.files.keys().filter(|name| needs(name)).cloned().collect()
    }

    fn with(&self, files: &Files) -> Result<Store, Error> {
        fs::remove_dir_all(self.path()).unwrap();
        fs::create_dir(self.path()).unwrap();
        files.iter().for_each(|(name, file)| fs::write(self.path().join(name), file).unwrap());
        fs::write(self.directory.path().join("LOCK"), &self.lock).unwrap();
        open(self.directory.path())
    }

    /// How a state is refused whose file `name` is `changed`; if it is not, it has to hold everything.
    fn refusal(&self, name: &str, changed: Option<Vec<u8>>, what: &str) -> Option<String> {
        let mut files = self.files.clone();
        match changed {
            Some(changed) => drop(files.insert(name.into(), changed)),
            None => drop(files.remove(name)),
        }
        let what = format!("{name}: {what}");
        match self.with(&files) {
            Ok(store) => {
                let found = contents(&store).expect(&what);
                assert!(found == self.contents, "{what}: opened, but holds something else");
                None
            }
            Err(error) => {
                let text = error.to_string();
                assert_eq!(*error.kind(), ErrorKind::Corrupt, "{what}: {text}");
                assert!(text.contains(self.path().to_str().unwrap()), "{what}: {text}");
                assert_eq!(read(self.directory.path()).0, files, "{what}: was changed");
                // Nor has the first start made anything of it.
                let again = open(self.directory.path()).expect_err(&what);
                assert_eq!(again.to_string(), text, "{what}");
                Some(text)
            }
        }
    }

    fn is_refused(&self, name: &str, changed: Option<Vec<u8>>, what: &str) -> bool {
        self.refusal(name, changed, what).is_some()
    }
}

/// What is there. A store that is open may remove a file in between; then all is read again.
fn read(directory: &Path) -> (Files, Vec<u8>) {
    let files = || {
        let names = fs::read_dir(directory.join("state.journal"))?;
        let files = names.map(|entry| {
            let entry = entry?;
            Ok((entry.file_name().into_string().expect("text"), fs::read(entry.path())?))
        });
        files.collect::<std::io::Result<Files>>()
    };
    let files = loop {
        match files() {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => {}
            files => break files.unwrap(),
        }
    };
    (files, fs::read(directory.join("LOCK")).unwrap())
}

/// Where the records of a segment begin, and where the last one ends.
fn records(segment: &[u8]) -> Vec<usize> {
    let number = |at: usize| u64::from_le_bytes(segment[at..at + 8].try_into().unwrap());
    let (mut at, mut places) = (64, vec![64]);
    let mut next = number(36);
    while at + 24 <= segment.len() && number(at + 8) == next {
        at += 24 + (number(at) >> 32) as usize;
        next += 1;
        places.push(at);
    }
    places
}

fn end(segment: &[u8]) -> usize {
    *records(segment).last().unwrap()
}

fn last_record(segment: &[u8]) -> usize {
    match &records(segment)[..] {
        [.., last, _] => *last,
        _ => 64,
    }
}

/// Bytes that matter: the header, and random ones among those in use.
fn positions(file: &[u8], random: &mut StdRng) -> Vec<usize> {
    let used: Vec<usize> = (64..file.len()).filter(|&at| file[at] != 0).collect();
    let mut positions: Vec<usize> = (0..100).collect();
    positions.extend((0..400).map(|_| used[random.random_range(0..used.len())]));
    positions.extend((0..100).map(|_| random.random_range(64..file.len())));
    positions
}

fn flips(closed: bool) {
    let case = Case::take(closed);
    assert!(case.needed().len() > 1, "{:?}", case.files.keys());
    let mut random = StdRng::seed_from_u64(1);
    for name in case.needed() {
        let file = &case.files[&name];
        assert!(!case.is_refused(&name, Some(file.clone()), "undamaged"));
        let mut refused = 0;
        for position in positions(file, &mut random) {
            let bit = random.random_range(0..8);
            let mut damaged = file.clone();
            damaged[position] ^= 1 << bit;
            let what = format!("{name}, byte {position}:{bit}");
            if let Some(text) = case.refusal(&name, Some(damaged), &what) {
                // The last commit could be one that was never finished, but for the note of it.
                let is_last = position >= last_record(file) && text.contains("was acknowledged");
                let is_named = text.contains(&format!("state.journal/{name} "));
                assert!(is_named || is_last, "{what}: {text}");
                refused += 1;
            } else {
                assert!(name != "snapshot" && position >= end(file), "{what}: was not noticed");
            }
        }
        assert!(refused > 100, "{name}: only {refused} were refused");
    }
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
        for name in case.needed() {
            let file = &case.files[&name];
            let (whole, is_journal) = (file.len(), name != "snapshot");
            let mut random = StdRng::seed_from_u64(2);
            let mut lengths = vec![0, 1, 8, 9, 63, 64, 65, 88, 319, 320, 4_095, 4_096, 8_192];
            lengths.extend([whole - 4_096, whole - 1, whole + 1, whole + 4_096]);
            lengths.extend((0..60).map(|_| random.random_range(0..whole)));
            lengths.extend((0..20).map(|_| random.random_range(0..whole / 512) * 512));
            for length in lengths {
                let mut cut = file.clone();
                cut.resize(length, 0);
                let what = format!("{length} of {whole} bytes");
                let refused = case.is_refused(&name, Some(cut), &what);
                let may_be_opened = length == whole || is_journal && length >= end(file);
                assert!(refused || may_be_opened, "{name}: {what}");
            }
        }
    }
}

#[test]
fn zeroed_and_swapped_parts() {
    for closed in [true, false] {
        let case = Case::take(closed);
        for name in case.needed() {
            let file = &case.files[&name];
            for size in [8, 512, 4_096] {
                let parts = file.len() / size;
                for part in (0..parts).step_by(parts.div_ceil(60)) {
                    let mut damaged = file.clone();
                    damaged[part * size..][..size].fill(0);
                    case.is_refused(&name, Some(damaged), &format!("{size}: {part} zeroed"));
                    let mut swapped = file.clone();
                    let other = (part * 31 + 7) % parts;
                    swapped.copy_within(part * size..(part + 1) * size, other * size);
                    let what = format!("{size}: {part} written over {other}");
                    case.is_refused(&name, Some(swapped), &what);
                }
            }
        }
    }
}

#[test]
fn foreign_and_missing_files() {
    let case = Case::take(true);
    let fresh = directory();
    drop(open(fresh.path()).unwrap());
    let (fresh, _) = read(fresh.path());
    let first = |files: &Files| files.keys().find(|name| *name != "snapshot").unwrap().clone();
    let first = first(&fresh);
    for name in case.needed() {
        let other = if name == "snapshot" { &fresh["snapshot"] } else { &fresh[&first] };
        for (what, file) in [
            ("an empty file", vec![]),
            ("a text", b"to be or not to be\n".repeat(1_000)),
            ("noughts", vec![0; 100_000]),
            ("a file of another store", other.clone()),
            ("a file of the other kind", case.files[&case.needed()[0]].clone()),
        ] {
            let is_itself = file == case.files[&name];
            assert!(is_itself || case.is_refused(&name, Some(file), what), "{name}: {what}");
        }
        assert!(case.is_refused(&name, None, "missing"), "{name}");
    }
    fs::remove_dir_all(case.path()).unwrap();
    fs::write(case.path(), "").unwrap();
    let error = open(case.directory.path()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
}

#[test]
fn a_whole_store_in_the_place_of_another() {
    let case = Case::take(true);
    let fresh = directory();
    drop(open(fresh.path()).unwrap());
    let error = case.with(&read(fresh.path()).0).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("at commit 0, though 13 was acknowledged"), "{error}");
}

#[test]
fn an_older_copy() {
    let case = Case::take(true);
    let mut store = case.with(&case.files).unwrap();
    let mut effect = Effect::default();
    effect.put("key 1", "newer");
    store.commit(effect).unwrap();
    drop(store);
    let (_, newer) = read(case.directory.path());
    let case = Case { lock: newer, ..case };
    let error = case.with(&case.files).unwrap_err();
    assert!(error.to_string().contains("at commit 13, though 14 was acknowledged"), "{error}");
    // An operator who means it says so.
    fs::remove_file(case.directory.path().join("LOCK")).unwrap();
    assert_eq!(contents(&open(case.directory.path()).unwrap()).unwrap(), case.contents);
}

/// Of the same store, so that only the order of the segments tells.
#[test]
fn segments_of_different_times() {
    let directory = directory();
    let mut store = Store::open(directory.path(), WRITE_BEHIND).unwrap();
    let mut copies = vec![];
    for _ in 0..4 {
        fill(&mut store);
        copies.push(read(directory.path()));
    }
    let held = contents(&store).unwrap();
    drop(store);
    let (files, lock) = read(directory.path());
    let case = Case { directory, files, lock, contents: held };
    let mut refused = 0;
    for (older, _) in copies {
        for name in case.needed() {
            let Some(older) = older.iter().find(|(other, _)| other.len() == name.len()) else {
                continue;
            };
            // Refused, unless what follows is all there yet.
            refused += usize::from(case.is_refused(&name, Some(older.1.clone()), "older"));
        }
    }
    assert!(refused > 3, "{refused}");
}

#[test]
fn a_missing_state_and_a_start_that_was_cut_short() {
    let case = Case::take(true);
    fs::remove_dir_all(case.path()).unwrap();
    let error = open(case.directory.path()).unwrap_err();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
    assert!(error.to_string().contains("state.journal is missing"), "{error}");

    // A first start is killed before the state has its name, at any length of what it had written.
    for left in [0, 30, 64, 1_000, usize::MAX] {
        let fresh = directory();
        fs::write(fresh.path().join("LOCK"), "").unwrap();
        let unfinished = fresh.path().join("state.journal.new");
        fs::create_dir(&unfinished).unwrap();
        for (name, file) in &case.files {
            fs::write(unfinished.join(name), &file[..left.min(file.len())]).unwrap();
        }
        assert_eq!(contents(&open(fresh.path()).unwrap()).unwrap(), Contents::new());
        assert!(!unfinished.exists());
    }
}

#[test]
fn an_unknown_format_is_refused_by_its_number() {
    let case = Case::take(true);
    for name in case.needed() {
        let mut files = case.files.clone();
        files.get_mut(&name).unwrap()[16] = 7;
        let error = case.with(&files).unwrap_err();
        let text = error.to_string();
        assert!(
            text.contains("has format 7, this release reads 2: it was made by a newer release"),
            "{text}"
        );
        assert!(text.contains(&name), "{text}");
        assert_eq!(*error.kind(), ErrorKind::Corrupt);
    }
}

/// What was read stays in memory, so that damage changes nothing before the next start, which refuses it
/// or finds everything.
#[test]
fn damage_that_happens_while_the_store_is_open() {
    let disk = made();
    let open = |disk: &Disk| Store::open_on(disk.clone(), "disk", OPTIONS);
    let mut store = open(&disk).unwrap();
    fill(&mut store);
    let held = contents(&store).unwrap();
    drop(store);
    let image = disk.image();
    let last = image.names.keys().rfind(|name| name.starts_with("journal-")).unwrap();
    let mut random = StdRng::seed_from_u64(3);
    let mut noticed = 0;
    for name in ["snapshot", last] {
        for position in positions(image.clone().file(name), &mut random) {
            let disk = Disk::holding(image.clone());
            let mut store = open(&disk).unwrap();
            disk.change(|image| image.file(name)[position] ^= 1 << random.random_range(0..8));
            assert_eq!(contents(&store).unwrap(), held, "{name} at {position}");
            // One that follows tells that the others were on the disk.
            store.commit(Effect::default()).unwrap();
            drop(store);
            match open(&disk) {
                Ok(store) => assert_eq!(contents(&store).unwrap(), held, "{name} at {position}"),
                Err(error) => {
                    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{error}");
                    assert!(error.to_string().contains(&format!("disk/{name} ")), "{error}");
                    noticed += 1;
                }
            }
        }
    }
    assert!(noticed > 500, "only {noticed} were noticed");
}

/// Nothing that is there while a snapshot is written, or right after, is less protected.
#[test]
fn damage_while_the_state_is_written_behind() {
    let disk = made();
    let mut store = Store::open_on(disk.clone(), "disk", OPTIONS).unwrap();
    let hanging = disk.hold("snapshot.new");
    for commit in 0..3_u8 {
        let mut effect = Effect::default();
        effect.put([commit], vec![commit; 9_000]);
        store.commit(effect).unwrap();
    }
    disk.wait_until_held();
    store.commit(Effect::default()).unwrap();
    let held = contents(&store).unwrap();
    let during = disk.image();
    drop(hanging);
    drop(store);
    let mut random = StdRng::seed_from_u64(4);
    for image in [during, disk.image()] {
        for (name, file) in image.names.clone() {
            let length = image.files[&file].len();
            let mut positions: Vec<_> = (0..64).collect();
            positions.extend((0..200).map(|_| random.random_range(0..length)));
            for position in positions {
                let mut damaged = image.clone();
                damaged.file(&name)[position] ^= 1 << random.random_range(0..8);
                match Store::open_on(Disk::holding(damaged), "disk", OPTIONS) {
                    Ok(store) => {
                        assert_eq!(contents(&store).unwrap(), held, "{name} at {position}")
                    }
                    Err(error) => {
                        assert!(error.to_string().contains(&format!("disk/{name} ")), "{error}");
                        assert_ne!(name, "snapshot.new");
                    }
                }
            }
        }
    }
}

/// Bytes that a caller has stored never pass for a record, wherever the journal is read from.
#[test]
fn a_value_that_looks_like_a_record() {
    let disk = made();
    let store = Store::open_on(disk.clone(), "disk", Options::default()).unwrap();
    let state = Table::new("state");
    let write = |value: Vec<u8>| {
        let mut effect = Effect::default();
        effect.put("key", value);
        store.write([(state, effect)]).unwrap();
    };
    write(b"before".to_vec());
    let last = |disk: &Disk| match disk.journal().iter().rev().nth(1).unwrap() {
        common::Operation::Write { data, .. } => data.clone(),
        other => panic!("{other:?}"),
    };
    // A record as another store would write it, which says that the one that holds it is on the disk.
    let other = made();
    let shown = Store::open_on(other.clone(), "other", Options::default()).unwrap();
    for _ in 0..3 {
        let mut effect = Effect::default();
        effect.put("key", "forged");
        shown.write([(state, effect)]).unwrap();
    }
    let forged = last(&other);
    let torn = disk.image();
    // At each of eight places, one of which is where a record could begin.
    write((0..8).flat_map(|shift| [vec![0; shift], forged.clone()].concat()).collect());
    let mut record = last(&disk);
    let operation = disk.journal().iter().rev().nth(1).unwrap().clone();
    let common::Operation::Write { file, offset, .. } = operation else { unreachable!() };
    record[8] ^= 1;
    let mut torn = torn;
    torn.apply(&common::Operation::Write { file, offset, data: record });
    let store = Store::open_on(Disk::holding(torn), "disk", Options::default()).unwrap();
    assert_eq!(store.get(b"key").unwrap(), Some(b"before".to_vec()));
}
