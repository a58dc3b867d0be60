//! The files alone tell that one of them is damaged, or not theirs: there is no `LOCK` that remembers
//! the last commit.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{Contents, Disk, Image, WRITE_BEHIND, contents, made, open, put};
use tsoracle_core::{ErrorKind, SeqStore};
use tsoracle_store::{Store, Table};

const FIRST: &str = "journal-00000000000000000001";

/// What a store leaves that has made three commits.
fn three_commits(value: u64) -> Image {
    let disk = made();
    let mut store = open(&disk).unwrap();
    ["a", "b", "c"].into_iter().for_each(|key| store.commit(put(key, value)).unwrap());
    drop(store);
    disk.image()
}

fn is_refused(image: Image, name: &str, how: &str) {
    let error = open(&Disk::holding(image)).expect_err(how);
    let text = error.to_string();
    assert_eq!(*error.kind(), ErrorKind::Corrupt, "{text}");
    assert!(text.contains(&format!("disk/{name} ")) && text.contains(how), "{text}");
}

/// Two stores that did as much, so that only the header of the segment says whose it is.
#[test]
fn a_segment_of_another_store() {
    let (mut image, mut other) = (three_commits(1), three_commits(2));
    *image.file(FIRST) = other.file(FIRST).clone();
    is_refused(image, FIRST, "part of another journal");
}

/// The older one holds none of the commits that should be there, as if they were never finished.
#[test]
fn an_older_segment_of_the_same_store_in_the_place_of_the_last() {
    let disk = made();
    let mut store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
    let hanging = disk.hold("snapshot.new");
    let is_last = |name: &String| name.starts_with("journal-") && *name != FIRST;
    let last = (0..).find_map(|number| {
        store.commit(put(&format!("{number:0>100}"), number)).unwrap();
        disk.image().names.into_keys().find(is_last)
    });
    store.commit(put("last", 1)).unwrap();
    let (last, mut image) = (last.unwrap(), disk.image());
    drop(hanging);
    *image.file(&last) = image.file(FIRST).clone();
    is_refused(image, &last, "part of another journal");
}

/// A state that was replaced as a whole, with two more tables that take a block of equal length each.
fn replaced() -> (Disk, Contents) {
    let disk = made();
    let store = open(&disk).unwrap();
    let tables = [(Table::new("one"), put("a", 1)), (Table::new("two"), put("b", 2))];
    let state = [(b"state".to_vec(), b"replaced".to_vec())];
    store.replace_state(state.clone().into_iter().map(Ok), tables).unwrap();
    (disk, Contents::from(state))
}

#[test]
fn a_block_of_the_snapshot_in_the_place_of_another_or_missing() {
    let (disk, _) = replaced();
    let image = disk.image();
    let snapshot = image.clone().file("snapshot").clone();
    let length =
        |at: usize| 8 + u32::from_le_bytes(snapshot[at + 4..at + 8].try_into().unwrap()) as usize;
    // After the block of the state.
    let one = 64 + length(64);
    let two = one + length(one);
    let end = two + length(two);
    assert_eq!((end - two, length(end)), (two - one, snapshot.len() - end));
    let [mut copied, mut missing] = [image.clone(), image];
    copied.file("snapshot").copy_within(one..two, two);
    is_refused(copied, "snapshot", "block 2 fails its checksum");
    missing.file("snapshot").drain(two..end);
    is_refused(missing, "snapshot", "block 2 fails its checksum");
}

/// Each that follows says that the one before was on the disk.
#[test]
fn a_record_before_the_last() {
    let image = three_commits(1);
    let segment = image.clone().file(FIRST).clone();
    let size =
        |at: usize| 24 + u32::from_le_bytes(segment[at + 4..at + 8].try_into().unwrap()) as usize;
    let second = 64 + size(64);
    let third = second + size(second);
    for byte in 64..third {
        let mut damaged = image.clone();
        damaged.file(FIRST)[byte] ^= 1 << (byte % 8);
        let commit = if byte < second { 1 } else { 2 };
        is_refused(damaged, FIRST, &format!("commit {commit} is not in it"));
    }
}

/// A start leaves nothing that the one before did not finish, or did not come to remove.
#[test]
fn files_that_are_not_needed_are_removed() {
    let (disk, state) = replaced();
    let mut image = disk.image();
    assert!(image.names.contains_key(FIRST), "{:?}", image.names);
    let snapshot = image.names["snapshot"];
    let copy = image.files[&snapshot].clone();
    for (number, name) in ["snapshot.new", "journal.new"].into_iter().enumerate() {
        image.names.insert(name.into(), 100 + number);
        image.files.insert(100 + number, copy.clone());
    }
    let disk = Disk::holding(image);
    let store = open(&disk).unwrap();
    assert_eq!(contents(&store).unwrap(), state);
    let names: Vec<_> = disk.image().names.into_keys().collect();
    assert_eq!(names, ["journal-00000000000000000002", "snapshot"]);
}
