//! Replays the corpora of the fuzz targets, and mutations of what is in them, the same in every run.

#![allow(clippy::unwrap_used, reason = "what fails here fails the test")]

use std::{
    alloc::System,
    fs,
    panic::catch_unwind,
    path::Path,
    sync::{Mutex, PoisonError},
};

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use tsoracle_fuzz_targets::{TARGETS, Target};

#[global_allocator]
static COUNTING: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// How often what is in a corpus is mutated.
const MUTATIONS: u64 = 5_000;

/// How much a target may allocate, all in all: for itself, and for each byte that it reads.
const ALLOCATED: usize = 640 << 10;
const ALLOCATED_A_BYTE: usize = 512;

/// Counts what is allocated, one target at a time.
static ALONE: Mutex<()> = Mutex::new(());

fn replay(name: &str) {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let target = TARGETS.iter().find(|target| target.name == name).unwrap();
    let corpus = Path::new(env!("CARGO_MANIFEST_DIR")).join("../corpus").join(name);
    let mut files: Vec<_> = fs::read_dir(&corpus)
        .unwrap_or_else(|error| panic!("{}: {error}", corpus.display()))
        .map(|file| file.unwrap().path())
        .collect();
    files.sort();
    let inputs: Vec<_> = files.iter().map(|file| fs::read(file).unwrap()).collect();
    let mut real = 0;
    for (file, input) in files.iter().zip(&inputs) {
        let was_read = run(target, input);
        if file.file_name().unwrap().to_string_lossy().starts_with("real-") {
            assert!(was_read, "{} cannot be read; see CONTRIBUTING.md", file.display());
            real += 1;
        }
    }
    assert!(real > 0, "{} has no real encoding", corpus.display());
    let mut random = Random(1);
    for input in &inputs {
        for _ in 0..MUTATIONS {
            run(target, &mutate(input, &inputs, &mut random));
        }
    }
}

fn run(target: &Target, input: &[u8]) -> bool {
    let region = Region::new(COUNTING);
    let ran = catch_unwind(|| (target.run)(input));
    let allocated = region.change().bytes_allocated;
    let name = target.name;
    let Ok(was_read) = ran else {
        panic!("{name} fails on {:?}", input.escape_ascii().to_string())
    };
    let most = ALLOCATED + input.len() * ALLOCATED_A_BYTE;
    let shown = input.escape_ascii();
    assert!(allocated <= most, "{name} allocates {allocated} bytes, {most} at most: \"{shown}\"");
    was_read
}

struct Random(u64);

impl Random {
    /// A number below `end`.
    fn below(&mut self, end: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 >> 11) as usize % end.max(1)
    }
}

/// Changes an input in one to four places, or puts a part of another one there.
fn mutate(input: &[u8], others: &[Vec<u8>], random: &mut Random) -> Vec<u8> {
    const LARGE: [&[u8]; 4] = [&[0xff; 8], &[0xff; 10], &[0x80, 0x80, 0x80, 0x80, 0x10], &[0; 8]];
    let mut bytes = input.to_vec();
    for _ in 0..=random.below(4) {
        let at = random.below(bytes.len() + 1);
        let end = bytes.len().min(at + 1 + random.below(16));
        match random.below(7) {
            0 => bytes.truncate(at),
            1 => drop(bytes.drain(at..end)),
            2 => bytes.insert(at, random.below(256) as u8),
            3 => bytes.extend_from_within(at..end),
            4 => {
                let other = &others[random.below(others.len())];
                let from = random.below(other.len());
                let to = other.len().min(from + 1 + random.below(32));
                bytes.splice(at..end, other[from..to].iter().copied());
            }
            5 => {
                let large = LARGE[random.below(LARGE.len())].iter().copied();
                bytes.splice(at..end, large);
            }
            _ => {
                if let Some(byte) = bytes.get_mut(at) {
                    *byte ^= 1 << random.below(8);
                }
            }
        }
    }
    bytes
}

macro_rules! replayed {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            replay(stringify!($name));
        })*

        #[test]
        fn every_target_is_replayed() {
            let names: Vec<_> = TARGETS.iter().map(|target| target.name).collect();
            assert_eq!(names, [$(stringify!($name)),*]);
        }
    };
}

replayed!(
    address,
    backup,
    config_string,
    config_table,
    effect,
    frame,
    history_lines,
    identity,
    log_entry,
    message_parts,
    metadata,
    omnipaxos_message,
    openraft_message,
    openraft_stored,
    record,
    request,
    snapshot,
    store,
    transfer,
    version,
);
