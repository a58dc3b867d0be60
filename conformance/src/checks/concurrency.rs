//! Many callers at once.

use std::ops::Range;

use anyhow::{Result, ensure};
use futures::future::join_all;

use crate::rig::{Leader, Rig, advance, blocks, start};

checks!("concurrency":
    callers_at_once_get_blocks_without_gap_or_overlap,
    commits_take_effect_in_the_order_in_which_they_were_begun,
    a_batch_becomes_visible_all_at_once,
    reads_never_go_back_while_others_commit,
    more_calls_than_any_queue_holds_are_all_answered,
);

/// The blocks of one key are all of `0..next`.
pub(super) fn cover(mut taken: Vec<Range<u64>>, next: u64) -> Result<()> {
    taken.sort_by_key(|block| block.start);
    let mut at = 0;
    for block in taken {
        ensure!(block.start == at, "{block:?} follows on {at}");
        at = block.end;
    }
    ensure!(at == next, "the next is {next}, though blocks end at {at}");
    Ok(())
}

async fn callers_at_once_get_blocks_without_gap_or_overlap(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let callers = (1..=8).map(|count| {
        let leader = leader.clone();
        tokio::spawn(async move {
            let mut taken = [vec![], vec![]];
            for _ in 0..5 {
                let ask = || Box::pin(leader.one(advance(&[("a", count), ("b", 1)])));
                for outcome in join_all([ask(), ask(), ask()]).await {
                    for (taken, block) in taken.iter_mut().zip(blocks(&outcome?)?) {
                        taken.push(block.range());
                    }
                }
            }
            anyhow::Ok(taken)
        })
    });
    let mut all = [vec![], vec![]];
    for caller in join_all(callers).await {
        for (all, taken) in all.iter_mut().zip(caller??) {
            all.extend(taken);
        }
    }
    for (name, taken) in ["a", "b"].into_iter().zip(all) {
        cover(taken, leader.next(name).await?)?;
    }
    Ok(())
}

async fn commits_take_effect_in_the_order_in_which_they_were_begun(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    for _ in 0..5 {
        // Polled in this order, and so begun in it.
        let commits = (0..40).map(|_| leader.one(advance(&[("orders", 1)])));
        let mut before = None;
        for outcome in join_all(commits.map(Box::pin)).await {
            let found = start(&outcome?)?;
            ensure!(before < Some(found), "{found} was begun after {before:?}");
            before = Some(found);
        }
    }
    Ok(())
}

/// How many commits readers look at.
const COMMITS: u64 = 30;

/// Commits to `a` and `b` alike.
async fn commit_to_both(leader: Leader) -> Result<()> {
    for _ in 0..COMMITS {
        leader.commit(vec![advance(&[("a", 1)]), advance(&[("b", 1)])]).await?;
    }
    Ok(())
}

async fn a_batch_becomes_visible_all_at_once(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let committing = tokio::spawn(commit_to_both(leader.clone()));
    while !committing.is_finished() {
        let a = leader.next("a").await?;
        let b = leader.next("b").await?;
        ensure!(a <= b, "a batch of both was seen in part: a at {a}, then b at {b}");
        tokio::task::yield_now().await;
    }
    committing.await?
}

async fn reads_never_go_back_while_others_commit(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let committing = tokio::spawn(commit_to_both(leader.clone()));
    let mut before = 0;
    while !committing.is_finished() {
        let next = leader.next("a").await?;
        ensure!(before <= next, "{next} was read after {before}");
        before = next;
        tokio::task::yield_now().await;
    }
    committing.await?
}

async fn more_calls_than_any_queue_holds_are_all_answered(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let commits = join_all((0..300).map(|_| Box::pin(leader.one(advance(&[("a", 1)])))));
    let reads = join_all((0..300).map(|_| Box::pin(leader.next("a"))));
    let (commits, reads) = futures::future::join(commits, reads).await;
    for outcome in commits {
        start(&outcome?)?;
    }
    reads.into_iter().collect::<Result<Vec<_>>>()?;
    ensure!(leader.next("a").await? == 300);
    Ok(())
}
