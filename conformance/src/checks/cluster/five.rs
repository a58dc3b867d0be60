//! Five nodes, of which two may fail at once.

use anyhow::{Result, ensure};

use super::loaded::Loaded;
use crate::fixture::the;

cluster_checks!(FIVE;
    of_five_nodes_two_may_be_killed_at_once,
    three_of_five_nodes_serve_without_the_two_they_are_cut_off_from [partition],
);

const FIVE: usize = 5;

/// Twice in a row, so that the second time those fail who have come back.
async fn of_five_nodes_two_may_be_killed_at_once(loaded: &mut Loaded) -> Result<()> {
    for _ in 0..2 {
        let (old, before) = loaded.leader().await?;
        let other = (old + 1) % FIVE;
        loaded.cluster.kill.run(old).await?;
        loaded.cluster.kill.run(other).await?;
        let (_, after) = loaded.leader_besides(Some(old)).await?;
        ensure!(after.epoch > before.epoch, "epoch {} came after {}", after.epoch, before.epoch);
        loaded.serve().await?;
        loaded.cluster.start.run(old).await?;
        loaded.cluster.start.run(other).await?;
        loaded.serve().await?;
    }
    Ok(())
}

async fn three_of_five_nodes_serve_without_the_two_they_are_cut_off_from(
    loaded: &mut Loaded,
) -> Result<()> {
    let (old, _) = loaded.leader().await?;
    let few = [old, (old + 1) % FIVE];
    let many = [2, 3, 4].map(|after| (old + after) % FIVE);
    for (one, other) in pairs(few, many) {
        the(&loaded.cluster.partition)?.link.begin.run((one, other)).await?;
    }
    // Past the lease of the leader, who is among the two.
    loaded.pass(loaded.cluster.lease * 2).await;
    loaded.serve().await?;
    for (one, other) in pairs(few, many) {
        the(&loaded.cluster.partition)?.link.end.run((one, other)).await?;
    }
    loaded.serve().await?;
    // They are in touch again: with two of the three gone, nothing is done without them.
    loaded.cluster.kill.run(many[0]).await?;
    loaded.cluster.kill.run(many[1]).await?;
    loaded.serve().await
}

fn pairs(few: [usize; 2], many: [usize; 3]) -> impl Iterator<Item = (usize, usize)> {
    few.into_iter().flat_map(move |one| many.map(|other| (one, other)))
}
