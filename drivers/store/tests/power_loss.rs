//! The power goes at every single operation on the disk, and what was not synced is lost, kept or
//! torn: nothing acknowledged is missing afterwards, and nothing is there in part.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Contents, Disk, Leader, Operation, at_every_operation, contents, create, open, survivor,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tsoracle_core::{ConsensusDriver, Effect, SeqStore};

/// What was done to a disk: how it began, every operation, and at which position each commit was
/// acknowledged, with what the store had to hold then.
struct History {
    began: Vec<u8>,
    journal: Vec<Operation>,
    acknowledged: Vec<(usize, Contents)>,
}

impl History {
    /// What the store may hold if the power goes at `position`.
    fn allowed(&self, position: usize) -> [&Contents; 2] {
        let done = self.acknowledged.iter().take_while(|(at, _)| *at <= position).count();
        let last = done.saturating_sub(1);
        let next = (last + 1).min(self.acknowledged.len() - 1);
        [&self.acknowledged[last].1, &self.acknowledged[next].1]
    }

    /// Lets the power go at every operation, `survivals` times each.
    fn check(&self, seed: u64, survivals: usize) {
        let mut random = StdRng::seed_from_u64(seed);
        at_every_operation(self.began.clone(), &self.journal, |position, synced, unsynced| {
            for survival in 0..survivals {
                let case = format!("seed {seed}, operation {position}, survival {survival}");
                let image = survivor(synced, unsynced, &mut random);
                let disk = Disk::holding(image.clone());
                let found = contents(&open(&disk).expect(&case)).expect(&case);
                let allowed = self.allowed(position);
                assert!(allowed.contains(&&found), "{case}: {} entries", found.len());
                // Recovery writes as well, and the power may go again while it does.
                if random.random_range(0..40) == 0 {
                    let recovery = disk.journal();
                    at_every_operation(image, &recovery, |at, synced, unsynced| {
                        let image = survivor(synced, unsynced, &mut random);
                        let case = format!("{case}, again at {at}");
                        let store = open(&Disk::holding(image)).expect(&case);
                        assert_eq!(contents(&store).expect(&case), found, "{case}");
                    });
                }
            }
        });
    }
}

/// A disk on which a store has been made, and closed.
fn made() -> Disk {
    let disk = Disk::default();
    create(&disk).unwrap();
    Disk::holding(disk.image())
}

fn random_effect(random: &mut StdRng, writes: usize, longest: usize) -> Effect {
    let mut effect = Effect::default();
    for _ in 0..random.random_range(1..=writes) {
        let key = format!("key {}", random.random_range(0..60));
        if random.random_range(0..4) == 0 {
            effect.delete(key);
        } else {
            let mut value = vec![0; random.random_range(0..longest)];
            random.fill(&mut *value);
            effect.put(key, value);
        }
    }
    effect
}

fn run_store(seed: u64, commits: usize, writes: usize, longest: usize) -> History {
    let mut random = StdRng::seed_from_u64(seed);
    let disk = made();
    let began = disk.image();
    let mut store = open(&disk).unwrap();
    let mut model = Contents::new();
    let mut acknowledged = vec![(disk.position(), model.clone())];
    for _ in 0..commits {
        let effect = random_effect(&mut random, writes, longest);
        for (key, value) in effect.clone() {
            match value {
                Some(value) => drop(model.insert(key, value)),
                None => drop(model.remove(&key)),
            }
        }
        store.commit(effect).unwrap();
        acknowledged.push((disk.position(), model.clone()));
    }
    assert_eq!(contents(&store).unwrap(), model);
    drop(store);
    History { began, journal: disk.journal(), acknowledged }
}

#[test]
fn a_store_loses_no_acknowledged_commit() {
    for seed in 0..3 {
        run_store(seed, 16, 8, 200).check(seed, 5);
    }
}

#[test]
fn a_store_that_grows_loses_no_acknowledged_commit() {
    let history = run_store(10, 6, 20, 150_000);
    let grew = |operation: &&Operation| matches!(operation, Operation::SetLen(_));
    assert!(history.journal.iter().filter(grew).count() > 1, "the file must grow in this test");
    history.check(10, 2);
}

async fn run_driver(
    leader: &mut Leader,
    disk: &Disk,
    random: &mut StdRng,
    acknowledged: &mut Vec<(usize, Contents)>,
) {
    for number in 1..14 {
        leader.commit(random_effect(random, number * 2, 100)).await.unwrap();
        // With nothing lost, the disk holds what has been acknowledged so far.
        let held = contents(&open(&Disk::holding(disk.image())).unwrap()).unwrap();
        acknowledged.push((disk.position(), held));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_driver_loses_no_acknowledged_commit() {
    let disk = made();
    let began = disk.image();
    let mut random = StdRng::seed_from_u64(20);
    let mut acknowledged = vec![(0, Contents::new())];
    for _ in 0..2 {
        let mut leader = Leader::over(&disk).await;
        let held = contents(&open(&Disk::holding(disk.image())).unwrap()).unwrap();
        acknowledged.push((disk.position(), held));
        run_driver(&mut leader, &disk, &mut random, &mut acknowledged).await;
        leader.driver.shutdown().await.unwrap();
    }
    History { began, journal: disk.journal(), acknowledged }.check(20, 2);
}
