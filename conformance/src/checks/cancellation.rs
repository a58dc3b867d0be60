//! Futures that are dropped before they are done.

use anyhow::{Result, ensure};
use futures::{FutureExt, future::join_all};
use tsoracle_core::state::Query;

use crate::rig::{Leader, Rig, advance, advance_as, id, key, start};

checks!("cancellation":
    a_dropped_commit_takes_effect_whole_or_not_at_all,
    a_dropped_commit_is_not_handed_out_again,
    a_dropped_commit_is_not_handed_out_again_after_a_reopen [Reopen],
    a_dropped_commit_never_takes_effect_after_a_later_one,
    a_dropped_request_with_an_id_is_spent_once,
    dropped_reads_harm_nobody,
);

/// Begins a commit, and drops it at once.
fn begin_and_drop(leader: &Leader, commands: Vec<tsoracle_core::state::Command>) {
    // One poll is what it takes to begin.
    let _ = leader.commit(commands).boxed().now_or_never();
}

async fn a_dropped_commit_takes_effect_whole_or_not_at_all(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for _ in 0..20 {
        begin_and_drop(&leader, vec![advance(&[("a", 3)]), advance(&[("b", 3), ("c", 3)])]);
        leader.take("other", 1).await?;
        let nexts = [leader.next("a").await?, leader.next("b").await?, leader.next("c").await?];
        ensure!(nexts == [nexts[0]; 3] && nexts[0] % 3 == 0, "in part: {nexts:?}");
    }
    Ok(())
}

/// Blocks taken while others are begun and dropped: none may be handed out twice.
async fn take_among_dropped(leader: &Leader, mut after: u64) -> Result<u64> {
    for _ in 0..20 {
        begin_and_drop(leader, vec![advance(&[("orders", 7)])]);
        let block = leader.take("orders", 1).await?;
        ensure!(block.start >= after, "{block:?} came after {after} had been handed out");
        let lost = (block.start - after) % 7;
        ensure!(lost == 0, "{block:?} came after {after}: a dropped block was spent in part");
        after = block.end;
    }
    Ok(after)
}

async fn a_dropped_commit_is_not_handed_out_again(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let after = take_among_dropped(&leader, 0).await?;
    ensure!(leader.next("orders").await? == after);
    Ok(())
}

async fn a_dropped_commit_is_not_handed_out_again_after_a_reopen(mut rig: Rig) -> Result<()> {
    let mut leader = rig.reign().await?;
    let mut after = 0;
    for _ in 0..3 {
        after = take_among_dropped(&leader, after).await?;
        begin_and_drop(&leader, vec![advance(&[("orders", 7)])]);
        leader = rig.reign_again(leader).await?;
    }
    Ok(())
}

async fn a_dropped_commit_never_takes_effect_after_a_later_one(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for _ in 0..20 {
        begin_and_drop(&leader, vec![advance(&[("dropped", 1)])]);
        leader.take("later", 1).await?;
        let then = leader.next("dropped").await?;
        for _ in 0..5 {
            leader.take("later", 1).await?;
        }
        let now = leader.next("dropped").await?;
        ensure!(then == now, "it took effect after later commits: {then}, then {now}");
    }
    Ok(())
}

async fn a_dropped_request_with_an_id_is_spent_once(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for number in 1..=20 {
        let ask = || advance_as(id("s", number, number), &[("orders", 5)]);
        begin_and_drop(&leader, vec![ask()]);
        let found = start(&leader.one(ask()).await?)?;
        ensure!(found == (number - 1) * 5, "request {number} got {found}");
    }
    ensure!(leader.next("orders").await? == 100);
    Ok(())
}

async fn dropped_reads_harm_nobody(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for _ in 0..200 {
        let _ = leader.driver.read(Query::Sequence(key("orders"))).now_or_never();
    }
    leader.take("orders", 3).await?;
    for next in join_all((0..20).map(|_| leader.next("orders"))).await {
        ensure!(next? == 3);
    }
    Ok(())
}
