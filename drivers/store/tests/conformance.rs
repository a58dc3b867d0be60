//! The conformance suite over a store whose disk loses power, fails and flips bits when told to.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{process::ExitCode, sync::Arc};

use async_trait::async_trait;
use common::{Disk, Fault, Image, WRITE_BEHIND, at_every_operation, made, survivor};
use rand::{SeedableRng, rngs::StdRng};
use tsoracle_conformance::{Ability, Harness, Place, run};
use tsoracle_core::{ConsensusDriver, LocalDriver, Result, SeqStore};
use tsoracle_store::Store;

fn main() -> ExitCode {
    run(Disks)
}

struct Disks;

/// Writes its state behind all the time.
fn open(disk: &Disk) -> Result<Store> {
    Store::open_on(disk.clone(), "disk", WRITE_BEHIND)
}

#[async_trait]
impl Harness for Disks {
    fn lacks(&self, ability: Ability) -> Option<String> {
        match ability {
            Ability::Reopen
            | Ability::Crash
            | Ability::LosePower
            | Ability::FailStorage
            | Ability::Damage
            | Ability::Store => None,
            Ability::Lock => Some("the lock is the directory's, and this is a bare disk".into()),
            Ability::Configure | Ability::Process => Some("the disk is in this process".into()),
            _ => Some("one process owns the disk".into()),
        }
    }

    async fn place(&self) -> Result<Box<dyn Place>> {
        Ok(Box::new(OneDisk::holding(made().image())))
    }
}

struct OneDisk {
    disk: Disk,
    began: Image,
    losses: u64,
}

impl OneDisk {
    fn holding(image: Image) -> Self {
        Self { disk: Disk::holding(image.clone()), began: image, losses: 0 }
    }
}

#[async_trait]
impl Place for OneDisk {
    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        Ok(LocalDriver::open(open(&self.disk)?).await?)
    }

    async fn crash(&mut self) -> Result<()> {
        *self = Self::holding(self.disk.image());
        Ok(())
    }

    async fn lose_power(&mut self) -> Result<()> {
        let (journal, losses) = (self.disk.journal(), self.losses + 1);
        let mut random = StdRng::seed_from_u64(losses);
        let mut left = Image::default();
        at_every_operation(self.began.clone(), &journal, |position, synced, unsynced| {
            if position == journal.len() {
                left = survivor(synced, unsynced, &mut random);
            }
        });
        *self = Self { losses, ..Self::holding(left) };
        Ok(())
    }

    async fn fail_storage(&mut self) -> Result<()> {
        self.disk.fail(Fault::SyncOnce(std::io::ErrorKind::Other));
        Ok(())
    }

    async fn damage(&mut self) -> Result<()> {
        self.disk.change(|image| {
            for name in Vec::from_iter(image.names.keys().cloned()) {
                image.file(&name).iter_mut().skip(64).for_each(|byte| *byte ^= 8);
            }
        });
        Ok(())
    }

    fn store(&mut self) -> Result<Box<dyn SeqStore>> {
        Ok(Box::new(open(&self.disk)?))
    }
}
