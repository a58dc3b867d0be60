//! Drivers do what a sorted map with a version does, whatever happens in between.

mod steps;

use std::time::Duration;

use anyhow::{Context, Result};
use tsoracle_core::{Clock, Effect, SystemClock};

use self::steps::{STEPS, Step};
use super::MakeFixture;
use crate::{
    Fixture,
    model::{self, SEED, Walk},
};

checks!("model":
    random_commits_reads_and_restarts_agree_with_a_sorted_map,
    thousands_of_entries_are_there_after_each_of_twenty_reopens [reopens],
    thousands_of_commits_are_all_there_after_a_crash [crash],
    thousands_of_commits_are_all_there_after_a_power_loss [lose_power],
);

/// How many steps a walk takes, unless set otherwise.
const DEFAULT_STEPS: u64 = 250;

/// How long a walk takes about, unless its number of steps is set.
const BUDGET: Duration = Duration::from_secs(3);

async fn random_commits_reads_and_restarts_agree_with_a_sorted_map(
    make: MakeFixture,
) -> Result<()> {
    for seed in model::seeds()? {
        let mut step = String::from("at the start");
        let walked = walk(make(), seed, &mut step).await;
        walked.with_context(|| format!("{step}; {SEED}={seed} repeats it"))?;
    }
    Ok(())
}

async fn walk(fixture: Fixture, seed: u64, at: &mut String) -> Result<()> {
    let mut walk = Walk::open(fixture, seed).await?;
    let mut choices = Vec::new();
    for step in
        STEPS.iter().filter(|step| step.needs.iter().all(|need| (need.is_met)(&walk.fixture)))
    {
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

async fn thousands_of_entries_are_there_after_each_of_twenty_reopens(
    make: MakeFixture,
) -> Result<()> {
    let mut walk = Walk::open(make(), 1).await?;
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

/// Commits to a few hundred keys, so that most values are replaced.
async fn commit_thousands(walk: &mut Walk) -> Result<()> {
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
    Ok(())
}

async fn thousands_of_commits_are_all_there_after_a_crash(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    commit_thousands(&mut walk).await?;
    walk.crash().await?;
    walk.compare().await
}

async fn thousands_of_commits_are_all_there_after_a_power_loss(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
    commit_thousands(&mut walk).await?;
    walk.lose_power().await?;
    walk.compare().await
}
