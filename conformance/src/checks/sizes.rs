//! How much one commit takes.

use anyhow::{Result, ensure};
use tsoracle_core::{MAX_BATCH, MAX_KEY_BYTES};

use crate::rig::{Rig, advance, advance_as, blocks, id, start};

checks!("sizes":
    an_empty_commit_changes_nothing,
    the_largest_request_fits_into_a_commit,
    many_commands_are_one_commit,
    the_largest_answer_is_kept_for_a_repetition [Reopen],
);

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
    let names = longest(0);
    let request = advance_as(id("s", 1, 1), &largest(&names));
    ensure!(blocks(&leader.one(request).await?)?.len() == MAX_BATCH);
    for name in &names {
        ensure!(leader.next(name).await? == u64::from(u32::MAX), "{name}");
    }
    Ok(())
}

async fn many_commands_are_one_commit(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let commands = leader.driver.most_commands();
    let batch = vec![advance(&[("orders", 1)]); commands];
    let results = leader.commit(batch).await?;
    for (index, result) in results.iter().enumerate() {
        ensure!(start(result)? == index as u64, "command {index} of {commands}: {result:?}");
    }
    ensure!(leader.next("orders").await? == commands as u64);
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
