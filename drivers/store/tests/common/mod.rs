//! A disk that remembers every operation, loses what was not synced, and fails or hangs when told to.

#![allow(dead_code, unreachable_pub, unused_imports, reason = "each test uses a part")]

mod disk;

use std::{collections::BTreeMap, sync::Arc};

pub use disk::{Disk, Fault, Image, Operation, at_every_operation, survivor};
use tsoracle_core::{
    ConsensusDriver, Effect, Leadership, LocalDriver, Outcome, Random, Reads, Result, SeqStore,
    Version,
};
use tsoracle_store::{Options, Store};

pub type Contents = BTreeMap<Vec<u8>, Vec<u8>>;

/// All that a store holds as a `SeqStore`.
pub fn contents(store: &Store) -> Result<Contents> {
    Ok(store.scan(&[], &[0xff; 8], usize::MAX)?.into_iter().collect())
}

/// The least journal that there can be, so that the state is written behind it all the time.
pub const WRITE_BEHIND: Options = Options { journal_bytes: 1 << 10 };

pub fn create(disk: &Disk) -> Result<()> {
    Store::create_on(disk.clone(), "new", Options::default())
}

pub fn open(disk: &Disk) -> Result<Store> {
    Store::open_on(disk.clone(), "disk", Options::default())
}

/// A disk on which a store has been made, with nothing left to be synced.
pub fn made() -> Disk {
    let disk = Disk::default();
    Store::create_on(disk.clone(), "new", WRITE_BEHIND).unwrap();
    Disk::holding(disk.image())
}

pub fn put(key: &str, value: u64) -> Effect {
    let mut effect = Effect::default();
    effect.put(key, value.to_be_bytes());
    effect
}

/// A driver over a disk, with commits that follow each other.
pub struct Leader {
    pub driver: Arc<LocalDriver>,
    version: Version,
    random: Random,
}

impl Leader {
    pub async fn over(disk: &Disk) -> Self {
        Self::with(open(disk).unwrap()).await
    }

    pub async fn with(store: Store) -> Self {
        let driver = LocalDriver::open(store).await.unwrap();
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
