//! Who should try to lead, and how one learns of it.

use anyhow::{Context, Result, ensure};
use tokio::{sync::watch, time::timeout};
use tsoracle_core::{Effect, Leadership, Reads};

use crate::{
    model::Walk,
    rig::{PATIENCE, Rig},
};

checks!("leadership":
    the_current_value_is_there_at_once,
    a_driver_that_opens_comes_to_lead [Reopen],
    a_stopped_driver_does_not_lead,
    a_storage_error_ends_leadership [FailStorage],
    a_storage_error_is_final [FailStorage],
    of_two_contenders_one_leads [Contend],
    a_contender_takes_over_when_the_leader_stops [Contend],
    a_contender_takes_over_when_the_leader_is_cut_off [Contend, CutOff],
    a_node_that_is_to_try_again_has_a_new_claim [Contend, CutOff],
);

fn orders() -> Effect {
    let mut effect = Effect::default();
    effect.put("orders", "1");
    effect
}

fn leads(now: &Leadership) -> bool {
    matches!(now, Leadership::Leader { .. })
}

async fn the_current_value_is_there_at_once(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 1).await?;
    let leader = walk.leader().await?;
    for _ in 0..3 {
        let now = walk.nodes[leader].driver.leadership().borrow().clone();
        ensure!(leads(&now), "the driver leads, and a new receiver says {now:?}");
    }
    Ok(())
}

async fn a_driver_that_opens_comes_to_lead(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 2).await?;
    for _ in 0..5 {
        walk.commit(&orders()).await?;
        walk.reopen().await?;
        walk.leader().await?;
    }
    Ok(())
}

async fn a_stopped_driver_does_not_lead(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 3).await?;
    let leader = walk.leader().await?;
    let driver = &walk.nodes[leader].driver;
    let mut watching = driver.leadership();
    driver.shutdown().await?;
    ended(&mut watching).await
}

/// Waits until a receiver says that its driver does not lead. A closed channel is not leading.
async fn ended(watching: &mut watch::Receiver<Leadership>) -> Result<()> {
    let ended = watching.wait_for(|now| !leads(now));
    drop(timeout(PATIENCE, ended).await.context("the driver still says that it leads")?);
    Ok(())
}

async fn a_storage_error_ends_leadership(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 4).await?;
    let mut watching = walk.nodes[0].driver.leadership();
    walk.rig.place.fail_storage().await?;
    let commit = walk.prepare(&orders());
    let outcome = walk.nodes[0].driver.commit(commit.base, commit.effect).await;
    ensure!(outcome.is_err(), "a commit that could not be stored was answered {outcome:?}");
    let closed = async { while watching.changed().await.is_ok() {} };
    timeout(PATIENCE, closed).await.context("the channel of leadership is not closed")
}

async fn a_storage_error_is_final(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 5).await?;
    walk.commit(&orders()).await?;
    walk.rig.place.fail_storage().await?;
    let driver = walk.nodes[0].driver.clone();
    for attempt in 0..4 {
        let commit = walk.prepare(&orders());
        let outcome = driver.commit(commit.base, commit.effect).await;
        let text = format!("attempt {attempt} was answered {outcome:?}");
        let error = outcome.err().context(text)?;
        ensure!(
            attempt == 0 || !error.is_retryable(),
            "attempt {attempt} may be tried again: {error:#}"
        );
        let answer = driver.read(&Reads::keys(["orders"])).await;
        let text = format!("a read after attempt {attempt} was answered {answer:?}");
        let error = answer.err().context(text)?;
        ensure!(!error.is_retryable(), "a read may be tried again: {error:#}");
    }
    Ok(())
}

async fn of_two_contenders_one_leads(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 6).await?;
    walk.leader().await?;
    walk.join().await?;
    walk.commit(&orders()).await?;
    let leading =
        walk.nodes.iter().filter(|node| leads(&node.driver.leadership().borrow())).count();
    ensure!(leading == 1, "{leading} of two drivers lead");
    Ok(())
}

async fn a_contender_takes_over_when_the_leader_stops(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 7).await?;
    walk.commit(&orders()).await?;
    walk.join().await?;
    let first = walk.nodes.remove(0);
    first.driver.shutdown().await?;
    walk.commit(&orders()).await?;
    walk.compare().await
}

async fn a_contender_takes_over_when_the_leader_is_cut_off(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 8).await?;
    walk.commit(&orders()).await?;
    walk.join().await?;
    walk.rig.place.cut_off(0).await?;
    walk.nodes[0].is_cut_off = true;
    walk.commit(&orders()).await?;
    walk.compare().await
}

async fn a_node_that_is_to_try_again_has_a_new_claim(rig: Rig) -> Result<()> {
    let mut walk = Walk::open(rig, 9).await?;
    walk.leader().await?;
    let mut watching = walk.nodes[0].driver.leadership();
    let Leadership::Leader { claim: first } = watching.borrow_and_update().clone() else {
        anyhow::bail!("the driver does not lead");
    };
    walk.join().await?;
    walk.rig.place.cut_off(0).await?;
    walk.nodes[0].is_cut_off = true;
    walk.commit(&orders()).await?;
    walk.rig.place.heal(0).await?;
    walk.nodes[0].is_cut_off = false;
    let second = walk.nodes.remove(1);
    second.driver.shutdown().await?;
    let is_new = |now: &Leadership| matches!(now, Leadership::Leader { claim } if *claim != first);
    timeout(PATIENCE, watching.wait_for(is_new))
        .await
        .context("the first one should lead again, and its claim did not change")?
        .context("the channel of the first one has closed")?;
    walk.commit(&orders()).await?;
    walk.compare().await
}
