//! The engine in a simulated world: real oracles over a replicated log or a key-value store, a network,
//! disks and clocks that are not, and everything going wrong. What callers saw is checked exactly, and so is that the service
//! comes back once all is mended.
//!
//! Nothing here depends on real time or on chance: a run is a function of its seed. `TSORACLE_SEED=17`
//! runs only that seed, `TSORACLE_SEEDS=10000` so many.

#![allow(clippy::unwrap_used, reason = "clippy knows only the test functions as tests")]

mod callers;
mod clock;
mod disk;
mod flaw;
mod gate;
mod herald;
mod keyvalue;
mod nemesis;
mod network;
mod node;
mod raft;
mod rng;
mod run;
mod teeth;
mod world;

use run::run;
use world::System;

/// How many seeds are run unless it is said otherwise.
const SEEDS: u64 = 120;

/// The seeds are shared out, so that tests run in parallel.
const PARTS: u64 = 4;

/// Less than this would mean that a run has nothing to show.
const LEAST_ANSWERED: usize = 300;

fn from_environment(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(text.parse().unwrap_or_else(|_| panic!("{variable} must be a number, not {text:?}")))
}

fn seeds_keep_the_promises(system: System, part: u64) {
    let seeds = match from_environment("TSORACLE_SEED") {
        Some(seed) => seed..seed + 1,
        None => 0..from_environment("TSORACLE_SEEDS").unwrap_or(SEEDS),
    };
    for seed in seeds.filter(|seed| seed % PARTS == part) {
        let outcome = run(system, seed, None);
        assert!(
            outcome.broken.is_empty(),
            "seed {seed} of {system:?}, which is run again by\n  TSORACLE_SEED={seed} cargo test --manifest-path \
             conformance/Cargo.toml --test simulation seeds\n{}",
            outcome.broken.join("\n")
        );
        let (answered, epochs) = (outcome.answered(), outcome.epochs());
        assert!(answered >= LEAST_ANSWERED, "only {answered} calls were answered in seed {seed}");
        assert!(epochs > 1, "nobody ever took over in seed {seed}");
    }
}

#[test]
fn seeds_0_4_8_keep_the_promises() {
    seeds_keep_the_promises(System::Log, 0);
}

#[test]
fn seeds_1_5_9_keep_the_promises() {
    seeds_keep_the_promises(System::Log, 1);
}

#[test]
fn seeds_2_6_10_keep_the_promises() {
    seeds_keep_the_promises(System::Log, 2);
}

#[test]
fn seeds_3_7_11_keep_the_promises() {
    seeds_keep_the_promises(System::Log, 3);
}

#[test]
fn even_seeds_keep_the_promises_over_a_key_value_store() {
    [0, 2].into_iter().for_each(|part| seeds_keep_the_promises(System::KeyValue, part));
}

#[test]
fn odd_seeds_keep_the_promises_over_a_key_value_store() {
    [1, 3].into_iter().for_each(|part| seeds_keep_the_promises(System::KeyValue, part));
}

#[test]
fn a_run_is_a_function_of_its_seed() {
    for system in [System::Log, System::KeyValue] {
        let history = |seed| run(system, seed, None).history;
        for seed in 0..3 {
            assert!(history(seed) == history(seed), "seed {seed} of {system:?} ran differently");
        }
        assert!(history(0) != history(1));
    }
}
