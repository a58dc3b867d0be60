//! `resign`: this node cannot renew its lease, and others should lead, if they can.

use anyhow::{Context, Result, bail, ensure};
use tokio::time::timeout;
use tsoracle_core::Leadership;

use super::{MakeFixture, commit::alike};
use crate::model::{PATIENCE, Walk};

checks!("resign":
    another_node_leads_after_a_resignation [contends],
    a_node_that_leads_after_a_resignation_has_a_new_claim [contends],
    resigning_a_claim_that_is_over_does_nothing,
    resigning_does_nothing_where_no_other_node_can_lead,
);

/// The claim of a leader.
fn claim(walk: &Walk, node: usize) -> Result<u64> {
    let now = walk.nodes[node].driver.leadership().borrow().clone();
    match now {
        Leadership::Leader { claim } => Ok(claim),
        other => bail!("the leader says {other:?}"),
    }
}

/// Has the leader of two nodes resign, and waits until its claim is over. Returns its number and the claim.
/// That claims were resigned before which it never had hides nothing.
async fn resigned(walk: &mut Walk) -> Result<(usize, u64)> {
    walk.commit(&alike("before")).await?;
    walk.join().await?;
    walk.commit(&alike("with two")).await?;
    let leader = walk.leader().await?;
    let first = claim(walk, leader)?;
    walk.nodes[leader].driver.resign(u64::MAX).await;
    let mut watching = walk.nodes[leader].driver.leadership();
    walk.nodes[leader].driver.resign(first).await;
    let is_over = watching.wait_for(|now| *now != Leadership::Leader { claim: first });
    timeout(PATIENCE, is_over)
        .await
        .with_context(|| format!("claim {first} was resigned, and does not end"))?
        .context("the channel of the node that resigned has closed")?;
    Ok((leader, first))
}

async fn another_node_leads_after_a_resignation(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 1).await?;
    resigned(&mut walk).await?;
    walk.commit(&alike("after")).await?;
    walk.compare().await
}

async fn a_node_that_leads_after_a_resignation_has_a_new_claim(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 2).await?;
    let (leader, first) = resigned(&mut walk).await?;
    walk.commit(&alike("after a resignation")).await?;
    let other = walk.nodes.remove(1 - leader);
    other.driver.shutdown().await?;
    // It is the only one then.
    ensure!(walk.leader().await? == 0, "a node that has stopped leads");
    let again = claim(&walk, 0)?;
    ensure!(again != first, "claim {first} was resigned, and is there again");
    walk.commit(&alike("after")).await?;
    walk.compare().await
}

async fn resigning_a_claim_that_is_over_does_nothing(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 3).await?;
    if walk.fixture.contends {
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

async fn resigning_does_nothing_where_no_other_node_can_lead(make: MakeFixture) -> Result<()> {
    let mut walk = Walk::open(make(), 4).await?;
    let leader = walk.leader().await?;
    let now = claim(&walk, leader)?;
    walk.nodes[leader].driver.resign(now).await;
    // A fixture with other nodes may have one of them lead for a while.
    walk.commit(&alike("after")).await?;
    walk.compare().await
}
