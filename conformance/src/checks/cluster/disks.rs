//! Disks that hang, and what they lose with the power.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use tsoracle_core::{RequestId, SeqKey, SeqRequest, Session};

use super::loaded::{Loaded, NODES, under_load};

checks!("cluster", under_load:
    a_leader_whose_disk_hangs_is_replaced [Cluster, HangDisk],
    what_a_leader_lost_with_the_power_is_asked_for_again_and_done_once [Cluster, HangDisk],
    what_a_minority_holds_after_a_power_loss_binds_nobody [Cluster, HangDisk, Partition],
);

/// How long what is under way is given to get to the others, and to be answered too early.
const UNDER_WAY: Duration = Duration::from_millis(500);

async fn a_leader_whose_disk_hangs_is_replaced(loaded: &mut Loaded) -> Result<()> {
    let (old, before) = loaded.leader().await?;
    loaded.cluster.hang_disk(old).await?;
    let (new, after) = loaded.leader_besides(Some(old)).await?;
    ensure!(after.epoch > before.epoch, "epoch {} came after {}", after.epoch, before.epoch);
    loaded.serve().await?;
    loaded.cluster.mend_disk(old).await?;
    loaded.serve().await?;
    // It follows: with the new leader gone, nothing is done without it.
    loaded.cluster.kill(new).await?;
    loaded.leader_besides(Some(new)).await?;
    loaded.serve().await
}

async fn what_a_leader_lost_with_the_power_is_asked_for_again_and_done_once(
    loaded: &mut Loaded,
) -> Result<()> {
    let id = RequestId::new(Session::from_text("lost"), 1, 1)?;
    let request = SeqRequest::new(vec![(SeqKey::new("lost")?, 5)], Some(id))?;
    let (old, _) = loaded.leader().await?;
    loaded.cluster.hang_disk(old).await?;
    let (node, asked) = (loaded.node(old), request.clone());
    let under_way = tokio::spawn(async move { node.get_seq(asked).await });
    loaded.leader_besides(Some(old)).await?;
    // Whoever leads now has it or has not; the answer, if there is one, must stand.
    loaded.cluster.lose_power(old).await?;
    let answered = under_way.await?.ok().map(|grant| grant.blocks);
    let done = loaded.sequence(request.clone()).await?;
    ensure!(answered.is_none_or(|answered| answered == done), "it was done twice");
    loaded.cluster.start(old).await?;
    loaded.serve().await?;
    let again = loaded.sequence(request).await?;
    ensure!(again == done, "the same request got {done:?}, and then {again:?}");
    let next = loaded.sequence(SeqRequest::single(SeqKey::new("lost")?, 1)?).await?;
    ensure!(next[0].start == 5, "after 0 to 4 {next:?} was granted");
    Ok(())
}

/// What comes to one follower only, and is lost by the leader, was held by no majority. The two
/// others go on without it, in its place.
async fn what_a_minority_holds_after_a_power_loss_binds_nobody(loaded: &mut Loaded) -> Result<()> {
    let (old, _) = loaded.leader().await?;
    let [knows, other] = [(old + 1) % NODES, (old + 2) % NODES];
    loaded.cluster.cut_link(old, other).await?;
    loaded.cluster.hang_disk(old).await?;
    // The load goes on asking, so that there is something under way.
    loaded.pass(UNDER_WAY).await;
    // It keeps what it was told, also of what it has only in memory.
    loaded.cluster.cut_off(knows).await?;
    loaded.cluster.lose_power(old).await?;
    loaded.cluster.heal_link(old, other).await?;
    loaded.cluster.start(old).await?;
    // Little, so that the one that is cut off gets it from the log, and not as a snapshot of the state.
    loaded.commit(1).await.context("without what was lost")?;
    loaded.cluster.heal(knows).await?;
    loaded.serve().await?;
    // From here on nothing is done without the one that knew of it, nor, soon, by any other.
    for gone in [other, old] {
        loaded.cluster.kill(gone).await?;
        loaded.leader_besides(Some(gone)).await.context("with the one that knew")?;
        loaded.serve().await?;
        loaded.cluster.start(gone).await?;
        loaded.serve().await?;
    }
    Ok(())
}
