//! Many calls at once, and calls that are given up.

use std::time::Duration;

use anyhow::{Context, Result};
use futures::{FutureExt, future::join_all};
use tsoracle_core::{Effect, Reads};

use super::{MakeFixture, commit::alike};
use crate::model::{Walk, read, send};

checks!("calls":
    any_number_of_calls_at_once_are_all_answered,
    a_dropped_commit_is_stored_whole_or_not_at_all,
    a_dropped_commit_is_stored_on_its_base_or_never,
    a_dropped_read_disturbs_no_other_call,
    a_commit_held_up_past_a_take_over_is_never_stored [contends, cut_off],
);

/// How long a call that may wait for ever is given.
pub(super) const MOMENT: Duration = Duration::from_millis(100);

/// How long to wait for what must come.
pub(super) const PATIENCE: Duration = Duration::from_secs(20);

/// A call that is begun, and dropped before it is answered.
pub(super) const AT_ONCE: Duration = Duration::ZERO;

/// Begins a commit, and drops it at once.
pub(super) fn begin_and_drop(walk: &mut Walk, effect: &Effect) {
    let commit = walk.prepare(effect);
    let driver = walk.nodes[0].driver.clone();
    // One poll is what it takes to begin.
    let _ = driver.commit(commit.base, commit.effect.clone()).now_or_never();
    walk.doubt(commit);
}

async fn any_number_of_calls_at_once_are_all_answered(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
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

async fn a_dropped_commit_is_stored_whole_or_not_at_all(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    for round in 0..20 {
        begin_and_drop(&mut walk, &alike(&format!("dropped {round}")));
        walk.compare().await?;
        walk.commit(&alike(&format!("other {round}"))).await?;
    }
    Ok(())
}

async fn a_dropped_commit_is_stored_on_its_base_or_never(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 5).await?;
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

async fn a_dropped_read_disturbs_no_other_call(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 6).await?;
    let driver = walk.nodes[0].driver.clone();
    for _ in 0..200 {
        let _ = driver.read(&Reads::keys(["a"])).now_or_never();
    }
    walk.commit(&alike("after")).await?;
    walk.compare().await
}

async fn a_commit_held_up_past_a_take_over_is_never_stored(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 7).await?;
    walk.commit(&alike("before")).await?;
    walk.join().await?;
    walk.leader().await?;
    let (held_up, sending) = walk.hold_up(0, &alike("held up")).await?;
    walk.doubt(held_up.clone());
    walk.commit(&alike("after")).await.context("while a leader is cut off")?;
    walk.heal(0, &held_up, sending).await?;
    walk.compare().await
}
