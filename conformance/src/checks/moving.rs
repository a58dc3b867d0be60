//! A state moves from one driver to another.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use tsoracle_core::{
    ConsensusDriver, Entry, LocalDriver, MemoryStore, Migration, Reads, SystemClock,
    state::{Command, Import, Reject, Stage, copied},
};

use crate::{
    commanded::Commanded,
    rig::{Leader, NOON_MS, Rig, advance_as, blocks, fence, id},
};

checks!("moving":
    what_is_copied_to_a_driver_arrives_to_the_byte_and_goes_on [Reopen],
    what_is_copied_from_a_driver_is_all_that_it_holds,
    a_state_that_was_used_is_not_copied_into,
    a_copy_that_is_not_whole_cannot_be_reigned_over,
);

/// More than one page of sequences, and answers of some size.
const CALLERS: u64 = 150;

/// Hands out something to everybody.
async fn use_it(leader: &Leader) -> Result<()> {
    for caller in 0..CALLERS {
        let name = format!("caller {caller}");
        let ask = |number| advance_as(id(&name, number, 1), &[("orders", 2), (&name, 1)]);
        leader.commit(vec![ask(1), ask(2)]).await?;
    }
    Ok(())
}

/// A driver in memory that leads.
async fn memory() -> Result<Leader> {
    Leader::of(Commanded::over(LocalDriver::open(MemoryStore::default()).await?)).await
}

async fn export(driver: &dyn ConsensusDriver) -> Result<Vec<Entry>> {
    let (mut all, mut after) = (vec![], vec![]);
    loop {
        let wanted = Reads { keys: vec![], ranges: copied(&after, 100) };
        let page = driver.read(&wanted).await?.ranges.into_iter().find(|page| !page.is_empty());
        let Some((last, page)) = page.and_then(|page| Some((page.last()?.0.clone(), page))) else {
            return Ok(all);
        };
        after = last;
        all.extend(page);
    }
}

async fn copy(source: &Leader, target: &Leader) -> Result<()> {
    let clock = Arc::new(SystemClock);
    let (source, target) = (source.driver.driver(), target.driver.driver());
    let migration = Migration::of(source.clone(), clock).await?;
    migration.begin(target).await?;
    let migrated = migration.copy(target, |_| ()).await?;
    ensure!((migrated.sequences, migrated.sessions) == (CALLERS + 1, CALLERS), "{migrated:?}");
    let (left, arrived) = (export(&**source).await?, export(&**target).await?);
    ensure!(left.len() as u64 == migrated.entries, "{} of {migrated:?}", left.len());
    ensure!(left == arrived, "what arrived is not what left");
    Ok(())
}

async fn what_is_copied_to_a_driver_arrives_to_the_byte_and_goes_on(mut rig: Rig) -> Result<()> {
    let (source, target) = (memory().await?, rig.lead().await?);
    source.reign().await?;
    use_it(&source).await?;
    copy(&source, &target).await?;
    let target = rig.lead_again(target).await?;
    let high_water_ms = source.record().await?.high_water_ms;
    let fenced = target.fence_at(NOON_MS / 2).await?;
    ensure!(fenced.floor_ms == high_water_ms + 1, "{fenced:?} after {high_water_ms}");
    let replaced = fenced.replaced.context("nothing was replaced")?;
    let lease_ms = source.record().await?.lease_ms;
    ensure!(replaced.lease_ms == lease_ms && !replaced.released, "{replaced:?}");
    ensure!(replaced.opened_by.is_some_and(|node| node != target.driver.node()), "{replaced:?}");
    target.open().await?;
    let again = target.one(advance_as(id("caller 7", 2, 1), &[("orders", 2), ("caller 7", 1)]));
    let starts: Vec<_> = blocks(&again.await?)?.iter().map(|block| block.start).collect();
    ensure!(starts == [7 * 4 + 2, 1], "the answer of before is not the same: {starts:?}");
    ensure!(target.next("orders").await? == CALLERS * 4);
    Ok(())
}

async fn what_is_copied_from_a_driver_is_all_that_it_holds(mut rig: Rig) -> Result<()> {
    let (source, target) = (rig.reign().await?, memory().await?);
    use_it(&source).await?;
    copy(&source, &target).await
}

async fn a_state_that_was_used_is_not_copied_into(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let before = leader.record().await?;
    let begin = Command::Import(Import::Begin);
    ensure!(leader.one(begin).await? == Err(Reject::NotEmpty), "it was begun");
    ensure!(leader.record().await? == before, "what was refused is stored");
    Ok(())
}

async fn a_copy_that_is_not_whole_cannot_be_reigned_over(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    leader.done(Command::Import(Import::Begin)).await?;
    let outcome = leader.one(fence(NOON_MS)).await?;
    ensure!(outcome == Err(Reject::Importing), "{outcome:?}");
    ensure!(leader.record().await?.stage == Stage::Importing);
    Ok(())
}
