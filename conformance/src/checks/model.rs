//! Drivers do what a sorted map with a version does, whatever happens in between.

mod steps;

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tsoracle_core::{Clock, Effect, SystemClock, VERSION};

use self::steps::{STEPS, Step};
use crate::{
    Ability,
    model::{self, LONGEST_KEY, Random, SEED, Walk},
    rig::Rig,
};

checks!("model":
    random_commits_reads_and_restarts_agree_with_a_sorted_map,
    thousands_of_entries_are_there_after_each_of_twenty_reopens [Reopen],
    thousands_of_commits_are_all_there_after_a_crash [Crash],
    the_largest_commits_are_taken_and_there_after_every_restart,
    an_empty_value_is_a_value_after_a_reopen [Reopen],
    what_was_deleted_stays_deleted_after_a_reopen [Reopen],
);

/// How many steps a walk takes, unless told otherwise.
const DEFAULT_STEPS: u64 = 250;

/// How long a walk takes about, unless it was told how many steps to take.
const BUDGET: Duration = Duration::from_secs(3);

/// More would only take longer.
const MOST_WRITES: usize = 20_000;
const MOST_BYTES: usize = 4 << 20;

async fn random_commits_reads_and_restarts_agree_with_a_sorted_map(rig: Rig) -> Result<()> {
    let harness = rig.harness.clone();
    drop(rig);
    for seed in model::seeds()? {
        let mut step = String::from("at the start");
        let walked = walk(Rig::new(harness.clone()).await?, seed, &mut step).await;
        walked.with_context(|| format!("{step}; {SEED}={seed} repeats it"))?;
    }
    Ok(())
}

async fn walk(rig: Rig, seed: u64, at: &mut String) -> Result<()> {
    let mut walk = Walk::open(rig, seed).await?;
    let mut choices = Vec::new();
    for step in STEPS.iter().filter(|step| step.needs.iter().all(|&ability| walk.can(ability))) {
        choices.extend(vec![step; step.weight]);
    }
    let begun = SystemClock.now().boot;
    for number in 0..model::steps().unwrap_or(DEFAULT_STEPS) {
        if model::steps().is_none() && SystemClock.now().boot.since(begun) > BUDGET {
            break;
        }
        let step: &Step = choices[walk.random.below(choices.len())];
        *at = format!("step {number}, {}", step.name);
        (step.take)(&mut walk).await?;
        walk.check_evidence()?;
    }
    *at = "at the end".into();
    walk.compare().await
}

/// Keys in an order that is not that of their bytes.
fn numbered(number: usize) -> Vec<u8> {
    format!("a/{}", number.wrapping_mul(7_919) % 100_003).into_bytes()
}

async fn thousands_of_entries_are_there_after_each_of_twenty_reopens(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 1).await?;
    let limits = walk.nodes[0].driver.limits();
    let at_once = limits.writes.min(limits.bytes / 64).saturating_sub(1).clamp(1, 200);
    let (begun, mut written) = (SystemClock.now().boot, 0);
    for round in 0..20 {
        let mut effect = Effect::default();
        for _ in 0..at_once {
            effect.put(numbered(written), written.to_string());
            written += 1;
        }
        effect.delete(numbered(round));
        effect.put(numbered(round + 40), "");
        walk.commit(&effect).await?;
        walk.reopen().await?;
        walk.compare().await.with_context(|| format!("after {} reopens", round + 1))?;
        // Where each of them takes an election, fewer do.
        if SystemClock.now().boot.since(begun) > BUDGET * 10 {
            break;
        }
    }
    Ok(())
}

async fn thousands_of_commits_are_all_there_after_a_crash(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 2).await?;
    let begun = SystemClock.now().boot;
    for number in 0..2_000 {
        let mut effect = Effect::default();
        effect.put(numbered(number % 700), number.to_string());
        effect.delete(numbered((number * 31) % 700));
        walk.commit(&effect).await?;
        // A slow disk makes fewer of them.
        if SystemClock.now().boot.since(begun) > BUDGET * 3 {
            break;
        }
    }
    walk.crash().await?;
    walk.compare().await
}

/// Commits that are as large as the limits allow: in bytes, in writes, in one value, and in keys.
async fn commit_the_largest(walk: &mut Walk) -> Result<()> {
    let limits = walk.nodes[0].driver.limits();
    let (bytes, writes) = (limits.bytes.min(MOST_BYTES), limits.writes.min(MOST_WRITES));
    let of_version = Effect::size_of(VERSION, Some(&[0; 33]));
    let mut random = Random::new(3);
    // One value takes all.
    let mut effect = Effect::default();
    let room = bytes - of_version - Effect::size_of(b"a/one", Some(&[]));
    effect.put("a/one", random.bytes(room));
    walk.commit(&effect).await.context("one value of as many bytes as the limits allow")?;
    // Values that are a little shorter than a power of two, and a little longer.
    let mut effect = Effect::default();
    let mut left = bytes - of_version;
    for length in (0..22).flat_map(|power| (0..3).map(move |more| (1 << power) + more - 1)) {
        let key = format!("a/length {length}").into_bytes();
        let size = Effect::size_of(&key, Some(&[])) + length;
        if size > left || effect.len() + 1 >= writes {
            break;
        }
        left -= size;
        effect.put(key, random.bytes(length));
    }
    walk.commit(&effect).await.context("values of all lengths")?;
    // The longest keys, until the bytes are used up.
    let mut effect = Effect::default();
    let mut left = bytes - of_version;
    for number in 0..writes - 1 {
        let key = format!("a/{number:0>width$}", width = LONGEST_KEY - 2).into_bytes();
        let size = Effect::size_of(&key, Some(b""));
        if size > left {
            break;
        }
        left -= size;
        effect.put(key, "");
    }
    walk.commit(&effect).await.context("as many of the longest keys as the limits allow")?;
    // As many writes as there may be, of which half delete what never existed.
    let mut effect = Effect::default();
    let fits = bytes / Effect::size_of(b"a/100000", Some(b"1")) - 10;
    for number in 0..(writes - 1).min(fits) {
        match number % 2 {
            0 => effect.put(format!("a/{number}"), "1"),
            _ => effect.delete(format!("a/{number}")),
        }
    }
    walk.commit(&effect).await.context("as many writes as the limits allow")?;
    ensure!(walk.model.entries.len() > 100, "the limits leave no room: {limits:?}");
    walk.compare().await
}

async fn the_largest_commits_are_taken_and_there_after_every_restart(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 3).await?;
    commit_the_largest(&mut walk).await?;
    if walk.can(Ability::Crash) {
        walk.crash().await?;
        walk.compare().await.context("after a crash")?;
    }
    if walk.can(Ability::LosePower) {
        walk.lose_power().await?;
        walk.compare().await.context("after a power loss")?;
    }
    if walk.can(Ability::Reopen) {
        walk.reopen().await?;
        walk.compare().await.context("after a reopen")?;
    }
    Ok(())
}

async fn an_empty_value_is_a_value_after_a_reopen(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 6).await?;
    let mut effect = Effect::default();
    effect.put("a", "");
    effect.put("ab", "1");
    walk.commit(&effect).await?;
    walk.compare().await?;
    let mut effect = Effect::default();
    effect.put("ab", "");
    walk.commit(&effect).await?;
    walk.reopen().await?;
    walk.compare().await
}

async fn what_was_deleted_stays_deleted_after_a_reopen(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 7).await?;
    let keys = ["a", "a\0", "ab", "b"];
    let mut effect = Effect::default();
    keys.iter().for_each(|&key| effect.put(key, key));
    walk.commit(&effect).await?;
    let mut effect = Effect::default();
    effect.delete("a");
    effect.delete("ab");
    effect.delete("a that never existed");
    effect.put("b", "2");
    walk.commit(&effect).await.context("a commit that also deletes what does not exist")?;
    walk.compare().await?;
    walk.reopen().await?;
    walk.compare().await
}
