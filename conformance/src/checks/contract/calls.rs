//! Reads, many calls at once, and calls that are given up.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::{FutureExt, future::join_all};
use tsoracle_core::{Effect, Leadership, Reads};

use super::alike;
use crate::{
    model::{Answer, Walk, read, send},
    rig::Rig,
};

checks!("contract":
    a_read_is_of_one_version,
    a_read_is_never_older_than_what_was_read_or_stored_before,
    any_number_of_calls_at_once_are_all_answered,
    a_dropped_commit_is_stored_whole_or_not_at_all,
    a_dropped_commit_is_stored_on_its_base_or_never,
    dropped_reads_disturb_no_other_call,
    a_commit_held_up_past_a_take_over_is_never_stored [Contend, CutOff],
    resigning_a_claim_that_is_over_does_nothing,
    resigning_does_nothing_where_no_other_node_can_lead,
);

/// How long a call that may wait for ever is given.
pub(super) const MOMENT: Duration = Duration::from_millis(100);

/// Begins a commit, and drops it at once.
pub(super) fn begin_and_drop(walk: &mut Walk, effect: &Effect) {
    let commit = walk.prepare(effect);
    let driver = walk.nodes[0].driver.clone();
    // One poll is what it takes to begin.
    let _ = driver.commit(commit.base, commit.effect.clone()).now_or_never();
    walk.doubt(commit);
}

/// Commits through the first driver, with reads of all keys before, meanwhile and after.
async fn commit_and_read(walk: &mut Walk, round: usize) -> Result<()> {
    walk.settle().await?;
    let leader = walk.leader().await?;
    let commit = walk.prepare(&alike(&round.to_string()));
    let reads = Reads::keys(commit.effect.iter().map(|(key, _)| key));
    let driver = walk.nodes[leader].driver.clone();
    let not_before = walk.nodes[leader].at();
    let reading = async {
        let mut found = vec![];
        for _ in 0..6 {
            found.push(read(&*driver, &reads).await?);
            tokio::task::yield_now().await;
        }
        anyhow::Ok(found)
    };
    let (answer, found) = futures::join!(send(&*driver, &commit), reading);
    match answer? {
        Answer::Conflict(found) => anyhow::bail!("a single commit conflicts with {found:?}"),
        Answer::Refused => walk.lose(&commit),
        Answer::Stored => {
            walk.doubt(commit.clone());
            walk.land(commit.next)?;
        }
        Answer::Uncertain => walk.doubt(commit),
    }
    let mut at = not_before;
    for found in found?.into_iter().flatten() {
        walk.judge(leader, at, &reads, &found)?;
        at = found.version.position();
    }
    Ok(())
}

async fn a_read_is_of_one_version(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 1).await?;
    for round in 0..30 {
        commit_and_read(&mut walk, round).await?;
    }
    Ok(())
}

async fn a_read_is_never_older_than_what_was_read_or_stored_before(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 2).await?;
    for round in 0..30 {
        walk.commit(&alike(&round.to_string())).await?;
        for _ in 0..2 {
            let leader = walk.leader().await?;
            walk.read(leader, &Reads::keys(["a", "z"])).await?;
        }
    }
    Ok(())
}

async fn any_number_of_calls_at_once_are_all_answered(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 3).await?;
    walk.commit(&alike("before")).await?;
    let leader = walk.leader().await?;
    let driver = walk.nodes[leader].driver.clone();
    let commits: Vec<_> = (0..300).map(|n| walk.prepare(&alike(&n.to_string()))).collect();
    let reads = Reads::keys(["a", "b"]);
    let sending = join_all(commits.iter().map(|commit| Box::pin(send(&*driver, commit))));
    let reading = join_all((0..300).map(|_| Box::pin(read(&*driver, &reads))));
    let (answers, found) = futures::join!(sending, reading);
    let not_before = walk.nodes[leader].at();
    walk.judge_rivals(commits, answers).await?;
    for found in found {
        if let Some(found) = found? {
            walk.judge(leader, not_before, &reads, &found)?;
        }
    }
    walk.compare().await
}

async fn a_dropped_commit_is_stored_whole_or_not_at_all(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 4).await?;
    for round in 0..20 {
        begin_and_drop(&mut walk, &alike(&format!("dropped {round}")));
        walk.compare().await?;
        walk.commit(&alike(&format!("other {round}"))).await?;
    }
    Ok(())
}

async fn a_dropped_commit_is_stored_on_its_base_or_never(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 5).await?;
    for round in 0..20 {
        let mut effect = Effect::default();
        effect.put("dropped", round.to_string());
        begin_and_drop(&mut walk, &effect);
        for _ in 0..5 {
            walk.commit(&alike(&round.to_string())).await?;
            let leader = walk.leader().await?;
            walk.read(leader, &Reads::keys(["dropped", "a"])).await?;
        }
    }
    walk.compare().await
}

async fn dropped_reads_disturb_no_other_call(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 6).await?;
    let driver = walk.nodes[0].driver.clone();
    for _ in 0..200 {
        let _ = driver.read(&Reads::keys(["a"])).now_or_never();
    }
    walk.commit(&alike("after")).await?;
    walk.compare().await
}

async fn a_commit_held_up_past_a_take_over_is_never_stored(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 7).await?;
    walk.commit(&alike("before")).await?;
    walk.join().await?;
    walk.leader().await?;
    let (held_up, sending) = walk.hold_up(0, &alike("held up")).await?;
    walk.doubt(held_up.clone());
    walk.commit(&alike("after")).await.context("while a leader is cut off")?;
    walk.heal(0, &held_up, sending).await?;
    walk.compare().await
}

/// The claim of a leader.
fn claim(walk: &Walk, node: usize) -> Result<u64> {
    let now = walk.nodes[node].driver.leadership().borrow().clone();
    match now {
        Leadership::Leader { claim } => Ok(claim),
        other => anyhow::bail!("the leader says {other:?}"),
    }
}

async fn resigning_a_claim_that_is_over_does_nothing(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 8).await?;
    if walk.can(crate::Ability::Contend) {
        walk.join().await?;
    }
    let leader = walk.leader().await?;
    let now = claim(&walk, leader)?;
    for other in [now.wrapping_sub(1), now.wrapping_add(1), u64::MAX] {
        walk.nodes[leader].driver.resign(other).await;
        walk.commit(&alike(&other.to_string())).await?;
        let then = claim(&walk, leader)?;
        ensure!(then == now, "{other} was resigned, and the claim changed from {now} to {then}");
    }
    Ok(())
}

async fn resigning_does_nothing_where_no_other_node_can_lead(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 9).await?;
    let leader = walk.leader().await?;
    let now = claim(&walk, leader)?;
    walk.nodes[leader].driver.resign(now).await;
    // A rig with other nodes may have one of them lead for a while.
    walk.commit(&alike("after")).await?;
    walk.compare().await
}
