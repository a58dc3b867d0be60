//! How much one commit takes.

use anyhow::{Result, ensure};
use tsoracle_core::{MAX_BATCH, MAX_KEY_BYTES, state::Command};

use crate::rig::{Rig, advance, advance_as, blocks, id, start};

checks!("sizes":
    an_empty_commit_changes_nothing,
    the_largest_request_fits_into_a_commit,
    as_many_commands_as_the_limits_say_are_one_commit,
    as_many_bytes_as_the_limits_say_are_one_commit,
    the_largest_answer_is_kept_for_a_repetition [Reopen],
);

/// More would only take longer.
const MOST_COMMANDS: usize = 5_000;
const MOST_BYTES: usize = 2 << 20;

async fn an_empty_commit_changes_nothing(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let before = leader.record().await?;
    ensure!(leader.commit(vec![]).await?.is_empty());
    ensure!(leader.record().await? == before);
    Ok(())
}

/// The longest keys, as many as one request may name.
fn longest(first: usize) -> Vec<String> {
    (first..first + MAX_BATCH).map(|index| format!("{index:0>MAX_KEY_BYTES$}")).collect()
}

fn largest(names: &[String]) -> Vec<(&str, u32)> {
    names.iter().map(|name| (name.as_str(), u32::MAX)).collect()
}

async fn the_largest_request_fits_into_a_commit(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let limits = leader.driver.limits();
    let names = longest(0);
    let request = advance_as(id("s", 1, 1), &largest(&names));
    ensure!(limits.commands > 0, "{limits:?}");
    ensure!(request.size_hint() <= limits.bytes, "it has {}: {limits:?}", request.size_hint());
    ensure!(blocks(&leader.one(request).await?)?.len() == MAX_BATCH);
    for name in &names {
        ensure!(leader.next(name).await? == u64::from(u32::MAX), "{name}");
    }
    Ok(())
}

async fn as_many_commands_as_the_limits_say_are_one_commit(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let limits = leader.driver.limits();
    let fitting = limits.bytes / advance(&[("orders", 1)]).size_hint();
    let commands = limits.commands.min(fitting).min(MOST_COMMANDS);
    let batch = vec![advance(&[("orders", 1)]); commands];
    let results = leader.commit(batch).await?;
    for (index, result) in results.iter().enumerate() {
        ensure!(start(result)? == index as u64, "command {index} of {commands}: {result:?}");
    }
    ensure!(leader.next("orders").await? == commands as u64);
    Ok(())
}

async fn as_many_bytes_as_the_limits_say_are_one_commit(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let limits = leader.driver.limits();
    let mut batch: Vec<Command> = vec![];
    let mut bytes = 0;
    loop {
        let names = longest(batch.len() * MAX_BATCH);
        let request = advance(&largest(&names));
        bytes += request.size_hint();
        if bytes > limits.bytes.min(MOST_BYTES) || batch.len() == limits.commands {
            break;
        }
        batch.push(request);
    }
    let commands = batch.len();
    let results = leader.commit(batch).await?;
    for result in &results {
        ensure!(blocks(result)?.len() == MAX_BATCH);
    }
    for name in longest((commands - 1) * MAX_BATCH) {
        ensure!(leader.next(&name).await? == u64::from(u32::MAX), "{name} did not advance");
    }
    Ok(())
}

async fn the_largest_answer_is_kept_for_a_repetition(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let names = longest(0);
    let request = || advance_as(id("s", 1, 1), &largest(&names));
    let first = leader.one(request()).await?;
    let leader = rig.reign_again(leader).await?;
    ensure!(leader.one(request()).await? == first, "the same request got another answer");
    Ok(())
}
