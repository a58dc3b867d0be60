//! The conformance suite over a store whose disk loses power, fails and flips bits when told to.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use std::{process::ExitCode, sync::Arc};

use common::{Disk, Fault, Image, WRITE_BEHIND, at_every_operation, made, survivor};
use rand::{SeedableRng, rngs::StdRng};
use tsoracle_conformance::{Action, Fixture, Shared, run};
use tsoracle_core::{ConsensusDriver, LocalDriver, Result, SeqStore};
use tsoracle_store::Store;

fn main() -> ExitCode {
    run(fixture)
}

/// A bare disk: the lock is the directory's.
fn fixture() -> Fixture {
    let disk = Shared::new(OneDisk::holding(made().image()));
    let act = |act: fn(&mut OneDisk)| -> Action {
        disk.action(move |disk, ()| {
            act(disk);
            Box::pin(async { Ok(()) })
        })
    };
    Fixture {
        crash: Some(act(OneDisk::crash)),
        lose_power: Some(act(OneDisk::lose_power)),
        fail_storage: Some(act(OneDisk::fail)),
        damage: Some(act(OneDisk::damage)),
        store: Some(disk.action(|disk, ()| {
            let opened = open(&disk.disk);
            Box::pin(async { Ok(Box::new(opened?) as Box<dyn SeqStore>) })
        })),
        ..Fixture::new(disk.action(|disk, ()| Box::pin(disk.open())))
    }
}

/// Writes its state behind all the time.
fn open(disk: &Disk) -> Result<Store> {
    Store::open_on(disk.clone(), "disk", WRITE_BEHIND)
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

    async fn open(&mut self) -> Result<Arc<dyn ConsensusDriver>> {
        Ok(LocalDriver::open(open(&self.disk)?).await?)
    }

    fn crash(&mut self) {
        *self = Self::holding(self.disk.image());
    }

    fn lose_power(&mut self) {
        let (journal, losses) = (self.disk.journal(), self.losses + 1);
        let mut random = StdRng::seed_from_u64(losses);
        let mut left = Image::default();
        at_every_operation(self.began.clone(), &journal, |position, synced, unsynced| {
            if position == journal.len() {
                left = survivor(synced, unsynced, &mut random);
            }
        });
        *self = Self { losses, ..Self::holding(left) };
    }

    fn fail(&mut self) {
        self.disk.fail(Fault::SyncOnce(std::io::ErrorKind::Other));
    }

    fn damage(&mut self) {
        self.disk.change(|image| {
            for name in Vec::from_iter(image.names.keys().cloned()) {
                image.file(&name).iter_mut().skip(64).for_each(|byte| *byte ^= 8);
            }
        });
    }
}
