//! A disk that remembers every operation, loses what was not synced, and fails when told to.

#![allow(dead_code, unreachable_pub, reason = "each test uses a part")]

use std::{
    collections::BTreeMap,
    io,
    sync::{Arc, Mutex},
};

use rand::{Rng, rngs::StdRng};
use tsoracle_core::{
    ConsensusDriver, Effect, Leadership, LocalDriver, Outcome, Random, Reads, Result, SeqStore,
    Version,
};
use tsoracle_store::{Options, StorageBackend, Store};

/// What was done to a disk.
#[derive(Clone, Debug)]
pub enum Operation {
    Write { offset: usize, data: Vec<u8> },
    SetLen(usize),
    Sync,
}

/// Which operations fail, and how: the next one only, or all from now on.
#[derive(Clone, Copy, Debug)]
pub enum Fault {
    SyncOnce(io::ErrorKind),
    Growth(io::ErrorKind),
    Write(io::ErrorKind),
}

#[derive(Debug, Default)]
struct State {
    image: Vec<u8>,
    journal: Vec<Operation>,
    fault: Option<Fault>,
    /// Operations asked for since the last fault struck, reads aside.
    since_fault: Option<usize>,
}

/// A disk in memory. Clones are the same disk.
#[derive(Clone, Debug, Default)]
pub struct Disk(Arc<Mutex<State>>);

impl Disk {
    pub fn holding(image: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(State { image, ..State::default() })))
    }

    /// What lies on it, synced or not.
    pub fn image(&self) -> Vec<u8> {
        self.0.lock().unwrap().image.clone()
    }

    pub fn journal(&self) -> Vec<Operation> {
        self.0.lock().unwrap().journal.clone()
    }

    /// How many operations there have been.
    pub fn position(&self) -> usize {
        self.0.lock().unwrap().journal.len()
    }

    pub fn fail(&self, fault: Fault) {
        self.0.lock().unwrap().fault = Some(fault);
    }

    pub fn heal(&self) {
        self.0.lock().unwrap().fault = None;
    }

    /// How many writes and syncs were tried after one had failed.
    pub fn tried_since_fault(&self) -> Option<usize> {
        self.0.lock().unwrap().since_fault
    }

    /// Flips a bit behind the back of whoever uses the disk.
    pub fn flip(&self, byte: usize, bit: u8) {
        self.0.lock().unwrap().image[byte] ^= 1 << bit;
    }

    fn perform(&self, operation: Operation) -> io::Result<()> {
        let mut state = self.0.lock().unwrap();
        let state = &mut *state;
        if let Some(tried) = &mut state.since_fault {
            *tried += 1;
        }
        let grows = match &operation {
            Operation::Write { offset, data } => offset + data.len() > state.image.len(),
            Operation::SetLen(len) => *len > state.image.len(),
            Operation::Sync => false,
        };
        let failure = match (state.fault, &operation) {
            (Some(Fault::SyncOnce(kind)), Operation::Sync) => {
                state.fault = None;
                Some(kind)
            }
            (Some(Fault::Growth(kind)), _) if grows => Some(kind),
            (Some(Fault::Write(kind)), Operation::Write { .. }) => Some(kind),
            _ => None,
        };
        if let Some(kind) = failure {
            state.since_fault.get_or_insert(0);
            return Err(io::Error::new(kind, "the disk was told to fail"));
        }
        apply(&mut state.image, &operation);
        state.journal.push(operation);
        Ok(())
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().image.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let offset = offset as usize;
        let state = self.0.lock().unwrap();
        let stored = state.image.get(offset..offset + out.len());
        out.copy_from_slice(stored.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        self.perform(Operation::SetLen(len as usize))
    }

    fn sync_data(&self) -> io::Result<()> {
        self.perform(Operation::Sync)
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.perform(Operation::Write { offset: offset as usize, data: data.into() })
    }
}

fn apply(image: &mut Vec<u8>, operation: &Operation) {
    match operation {
        Operation::Write { offset, data } => write(image, *offset, data),
        Operation::SetLen(len) => image.resize(*len, 0),
        Operation::Sync => {}
    }
}

fn write(image: &mut Vec<u8>, offset: usize, data: &[u8]) {
    let end = offset + data.len();
    if image.len() < end {
        image.resize(end, 0);
    }
    image[offset..end].copy_from_slice(data);
}

/// Calls `crash` for every moment at which the power could go: with the number of operations that
/// had begun, what was certainly on disk, and what may have been.
pub fn at_every_operation(
    image: Vec<u8>,
    journal: &[Operation],
    mut crash: impl FnMut(usize, &[u8], &[Operation]),
) {
    let (mut synced, mut from) = (image, 0);
    for position in 0..=journal.len() {
        if position > 0 && matches!(journal[position - 1], Operation::Sync) {
            journal[from..position].iter().for_each(|operation| apply(&mut synced, operation));
            from = position;
        }
        crash(position, &synced, &journal[from..position]);
    }
}

/// What is found after the power went: every unsynced operation is there, or lost, or there in part.
pub fn survivor(synced: &[u8], unsynced: &[Operation], random: &mut StdRng) -> Vec<u8> {
    const SECTOR: usize = 512;
    let mut image = synced.to_vec();
    let how = random.random_range(0..5);
    for operation in unsynced {
        match (operation, how) {
            (_, 0) => {}
            (operation, 1) => apply(&mut image, operation),
            (Operation::Write { offset, data }, 2) => {
                for (index, sector) in data.chunks(SECTOR).enumerate() {
                    if random.random() {
                        write(&mut image, offset + index * SECTOR, sector);
                    }
                }
            }
            (Operation::Write { offset, data }, 3) => {
                let kept = random.random_range(0..=data.len());
                write(&mut image, *offset, &data[..kept]);
            }
            (operation, _) => {
                if random.random() {
                    apply(&mut image, operation);
                }
            }
        }
    }
    image
}

pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// All that a store holds as a `SeqStore`.
pub fn contents(store: &Store) -> Result<Contents> {
    Ok(store.scan(&[], &[0xff; 8], usize::MAX)?.into_iter().collect())
}

pub fn create(disk: &Disk) -> Result<()> {
    Store::create_on(disk.clone(), "new.redb", Options::default()).map(drop)
}

pub fn open(disk: &Disk) -> Result<Store> {
    Store::open_on(disk.clone(), "disk.redb", Options::default())
}

/// A driver over a disk, with commits that follow each other.
pub struct Leader {
    pub driver: Arc<LocalDriver>,
    version: Version,
    random: Random,
}

impl Leader {
    pub async fn over(disk: &Disk) -> Self {
        let driver = LocalDriver::open(open(disk).unwrap()).await.unwrap();
        assert!(matches!(*driver.leadership().borrow(), Leadership::Leader { .. }), "not leading");
        let version = driver.read(&Reads::default()).await.unwrap().version;
        Self { driver, version, random: Random::default() }
    }

    pub async fn commit(&mut self, mut effect: Effect) -> Result<()> {
        let next = self.version.next(self.random.draw())?;
        effect.set_version(next);
        assert_eq!(self.driver.commit(self.version, effect).await?, Outcome::Stored);
        self.version = next;
        Ok(())
    }
}
