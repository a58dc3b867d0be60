//! The power goes at every single operation on the disk, and what was not synced is lost, kept or
//! torn: nothing acknowledged is missing afterwards, and nothing is there in part.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod common;

use common::{
    Contents, Disk, Image, Leader, Operation, WRITE_BEHIND, at_every_operation, contents, made,
    open, survivor,
};
use rand::{Rng, SeedableRng, rngs::StdRng};
use tsoracle_core::{ConsensusDriver, Effect, Result};
use tsoracle_store::{Options, Store, Table};

const STATE: Table = Table::new("state");
const OTHER: Table = Table::new("other");
const COUNT: &[u8] = b"count";

/// What a store had to hold from some operation on.
struct Moment {
    /// When its commit began, and when it was acknowledged as durable, if ever.
    began: usize,
    durable: Option<usize>,
    held: Contents,
}

/// What was done to a disk: how it began, every operation, and what the store held in between.
struct History {
    began: Image,
    journal: Vec<Operation>,
    moments: Vec<Moment>,
}

impl History {
    /// What the store may hold if the power goes at `position`.
    fn allowed(&self, position: usize) -> &[Moment] {
        let is_durable = |moment: &Moment| moment.durable.is_some_and(|at| at <= position);
        let first = self.moments.iter().rposition(is_durable).unwrap();
        let begun = self.moments.iter().take_while(|moment| moment.began <= position).count();
        &self.moments[first..begun.max(first + 1)]
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
                let is_allowed = allowed.iter().any(|moment| moment.held == found);
                assert!(is_allowed, "{case}: {} entries", found.len());
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

    fn count(&self, is: impl Fn(&Operation) -> bool) -> usize {
        self.journal.iter().filter(|operation| is(operation)).count()
    }
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

fn apply(model: &mut Contents, effect: &Effect) {
    for (key, value) in effect.clone() {
        match value {
            Some(value) => drop(model.insert(key, value)),
            None => drop(model.remove(&key)),
        }
    }
}

/// How a history comes to be.
#[derive(Clone, Copy)]
struct Run {
    seed: u64,
    options: Options,
    commits: usize,
    writes: usize,
    longest: usize,
    /// One commit of how many is not synced, and one of how many replaces the state; 0 for none.
    unsynced: u32,
    replaced: u32,
}

const SMALL: Run = Run {
    seed: 0,
    options: Options { journal_bytes: 1 << 20 },
    commits: 16,
    writes: 8,
    longest: 200,
    unsynced: 0,
    replaced: 0,
};

impl Run {
    fn run(self) -> History {
        let mut random = StdRng::seed_from_u64(self.seed);
        let disk = made();
        let began = disk.image();
        let store = Store::open_on(disk.clone(), "disk", self.options).unwrap();
        let mut held = Contents::new();
        let mut moments = vec![Moment { began: 0, durable: Some(0), held: held.clone() }];
        let mut is_one_of = |of| of > 0 && random.random_range(0..of) == 0;
        for commit in 0..self.commits {
            let (unsynced, replaced) = (is_one_of(self.unsynced), is_one_of(self.replaced));
            let mut random = StdRng::seed_from_u64(self.seed * 1_000 + commit as u64);
            let effect = random_effect(&mut random, self.writes, self.longest);
            let began = disk.position();
            // Written together with the state, so it must never be there without.
            let mut count = Effect::default();
            count.put(COUNT, commit.to_be_bytes());
            let writes = [(OTHER, count), (STATE, effect.clone())];
            let done: Result<()> = if replaced {
                held = [(b"all".to_vec(), commit.to_be_bytes().to_vec())].into();
                store.replace_state(held.clone().into_iter().map(Ok), writes)
            } else if unsynced {
                store.write_unsynced(writes)
            } else {
                store.write(writes)
            };
            done.unwrap();
            apply(&mut held, &effect);
            let durable = (replaced || !unsynced).then(|| disk.position());
            moments.push(Moment { began, durable, held: held.clone() });
        }
        assert_eq!(contents(&store).unwrap(), held);
        drop(store);
        History { began, journal: disk.journal(), moments }
    }
}

fn is_snapshot(operation: &Operation) -> bool {
    matches!(operation, Operation::Rename { to, .. } if to == "snapshot")
}

#[test]
fn a_store_loses_no_acknowledged_commit() {
    for seed in 0..3 {
        Run { seed, ..SMALL }.run().check(seed, 5);
    }
}

#[test]
fn a_store_that_grows_loses_no_acknowledged_commit() {
    let options = Options::default();
    let history =
        Run { seed: 10, commits: 6, writes: 20, longest: 150_000, options, ..SMALL }.run();
    let zeros = |data: &[u8]| data.len() > 1_000 && data.iter().all(|byte| *byte == 0);
    let grew = history.count(|done| matches!(done, Operation::Write { data, .. } if zeros(data)));
    assert!(grew > 1, "the file must grow in this test");
    assert_eq!(history.count(is_snapshot), 0);
    history.check(10, 2);
}

#[test]
fn a_store_that_writes_its_state_behind_loses_no_acknowledged_commit() {
    for seed in 20..23 {
        let run = Run { seed, commits: 60, longest: 100, options: WRITE_BEHIND, ..SMALL };
        let history = run.run();
        assert!(history.count(is_snapshot) > 3, "snapshots must be written in this test");
        let is_used_again = |done: &Operation| matches!(done, Operation::Rename { from, to } if from != "snapshot.new" && to == "journal.new");
        assert!(history.count(is_used_again) > 1, "segments must be used again in this test");
        history.check(seed, 4);
    }
}

#[test]
fn writes_that_are_not_synced_are_lost_from_the_end_only() {
    for (seed, options) in [(30, SMALL.options), (31, WRITE_BEHIND), (32, WRITE_BEHIND)] {
        let run = Run { seed, commits: 50, longest: 60, unsynced: 2, options, ..SMALL };
        run.run().check(seed, 6);
    }
}

#[test]
fn a_state_that_is_replaced_is_there_whole_or_not_at_all() {
    for (seed, options) in [(40, SMALL.options), (41, WRITE_BEHIND)] {
        let run = Run { seed, commits: 30, unsynced: 3, replaced: 5, options, ..SMALL };
        let history = run.run();
        assert!(history.count(is_snapshot) > 3, "states must be replaced in this test");
        history.check(seed, 6);
    }
}

/// A process is killed at any operation, the next one builds on what it reads, and the power goes.
#[test]
fn what_was_read_after_a_kill_is_not_lost() {
    for (seed, unsynced, replaced) in [(60, 0, 0), (61, 2, 5)] {
        let run = Run { seed, commits: 30, longest: 60, unsynced, replaced, ..SMALL };
        let History { began, journal, .. } = Run { options: WRITE_BEHIND, ..run }.run();
        let mut random = StdRng::seed_from_u64(seed);
        for killed in 0..=journal.len() {
            let case = format!("seed {seed}, killed at {killed}");
            let disk = Disk::after_kill(began.clone(), &journal[..killed]);
            let store = open(&disk).expect(&case);
            let mut moments = vec![(disk.position(), contents(&store).unwrap())];
            let mut effect = Effect::default();
            effect.put("next", "built on what was read");
            store.write([(STATE, effect)]).unwrap();
            moments.push((disk.position(), contents(&store).unwrap()));
            at_every_operation(began.clone(), &disk.journal(), |position, synced, unsynced| {
                for (_, held) in moments.iter().filter(|(at, _)| *at == position) {
                    let survivor = survivor(synced, unsynced, &mut random);
                    for image in [synced.clone(), survivor] {
                        let found = contents(&open(&Disk::holding(image)).expect(&case)).unwrap();
                        assert_eq!(found, *held, "{case}");
                    }
                }
            });
        }
    }
}

/// Two commits are not synced, and the power takes the first one and leaves the second.
#[test]
fn what_was_never_finished_does_not_come_back() {
    let disk = made();
    let store = open(&disk).unwrap();
    let write = |store: &Store, value: u8| {
        let mut effect = Effect::default();
        effect.put([value], [value]);
        store.write_unsynced([(STATE, effect)]).unwrap();
    };
    store.write([(STATE, Effect::default())]).unwrap();
    let mut left = disk.image();
    write(&store, 1);
    write(&store, 2);
    left.apply(disk.journal().last().unwrap());

    let disk = Disk::holding(left.clone());
    let store = open(&disk).unwrap();
    assert_eq!(contents(&store).unwrap(), Contents::new());
    // As long as the one that was lost. It is kept when the power goes again, and nothing else is that
    // was not synced.
    write(&store, 3);
    let journal = disk.journal();
    at_every_operation(left, &journal, |position, synced, _| {
        if position == journal.len() {
            let mut kept = synced.clone();
            kept.apply(journal.last().unwrap());
            let found = contents(&open(&Disk::holding(kept)).unwrap()).unwrap();
            assert_eq!(found, Contents::from([(vec![3], vec![3])]));
        }
    });
}

async fn run_driver(
    leader: &mut Leader,
    disk: &Disk,
    random: &mut StdRng,
    moments: &mut Vec<Moment>,
) {
    for number in 1..14 {
        let began = disk.position();
        leader.commit(random_effect(random, number * 2, 100)).await.unwrap();
        moments.push(moment(disk, began));
    }
}

/// With nothing lost, the disk holds what has been acknowledged so far.
fn moment(disk: &Disk, began: usize) -> Moment {
    let durable = Some(disk.position());
    let held = contents(&open(&Disk::holding(disk.image())).unwrap()).unwrap();
    Moment { began, durable, held }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 1)]
async fn a_driver_loses_no_acknowledged_commit() {
    let disk = made();
    let began = disk.image();
    let mut random = StdRng::seed_from_u64(50);
    let mut moments = vec![Moment { began: 0, durable: Some(0), held: Contents::new() }];
    for _ in 0..2 {
        let opened = disk.position();
        let store = Store::open_on(disk.clone(), "disk", WRITE_BEHIND).unwrap();
        let mut leader = Leader::with(store).await;
        moments.push(moment(&disk, opened));
        run_driver(&mut leader, &disk, &mut random, &mut moments).await;
        leader.driver.shutdown().await.unwrap();
    }
    History { began, journal: disk.journal(), moments }.check(50, 2);
}
