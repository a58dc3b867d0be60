//! Who leads, and how one learns of it.

use anyhow::{Context, Result, ensure};
use tokio::{sync::watch, time::timeout};
use tsoracle_core::Leadership;

use crate::rig::{Leader, PATIENCE, Rig, advance};

checks!("leadership":
    the_current_value_is_there_at_once,
    every_claim_has_a_higher_epoch_than_any_before [Reopen],
    a_claim_after_a_crash_has_a_higher_epoch_than_any_before [Crash],
    a_claim_after_a_power_loss_has_a_higher_epoch_than_any_before [LosePower],
    a_claim_lies_above_every_epoch_that_ever_fenced [Reopen],
    a_stopped_driver_does_not_lead,
    a_storage_error_ends_leadership [FailStorage],
    a_storage_error_is_final [FailStorage],
    of_two_contenders_one_leads [Contend],
    a_contender_takes_over_when_the_leader_stops [Contend],
    a_contender_takes_over_when_the_leader_is_cut_off [Contend, CutOff],
    a_re_election_of_the_same_node_is_seen [Contend, CutOff],
);

async fn the_current_value_is_there_at_once(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    for _ in 0..3 {
        let now = leader.driver.leadership().borrow().clone();
        ensure!(
            now == Leadership::Leader { epoch: leader.epoch },
            "the driver leads epoch {}, and a new receiver says {now:?}",
            leader.epoch
        );
    }
    Ok(())
}

async fn every_claim_has_a_higher_epoch_than_any_before(mut rig: Rig) -> Result<()> {
    let mut leader = rig.lead().await?;
    for round in 0..5 {
        // With and without having used the claim.
        if round % 2 == 0 {
            leader.reign().await?;
        }
        let before = leader.epoch;
        leader = rig.lead_again(leader).await?;
        ensure!(leader.epoch > before, "epoch {} came after {before}", leader.epoch);
    }
    Ok(())
}

async fn a_claim_after_a_crash_has_a_higher_epoch_than_any_before(mut rig: Rig) -> Result<()> {
    let mut before = rig.lead().await?.epoch;
    for _ in 0..3 {
        rig.place.crash().await?;
        let epoch = rig.lead().await?.epoch;
        ensure!(epoch > before, "epoch {epoch} came after {before}");
        before = epoch;
    }
    Ok(())
}

async fn a_claim_after_a_power_loss_has_a_higher_epoch_than_any_before(mut rig: Rig) -> Result<()> {
    let mut before = rig.lead().await?.epoch;
    for _ in 0..3 {
        rig.place.lose_power().await?;
        let epoch = rig.lead().await?.epoch;
        ensure!(epoch > before, "epoch {epoch} came after {before}");
        before = epoch;
    }
    Ok(())
}

async fn a_claim_lies_above_every_epoch_that_ever_fenced(mut rig: Rig) -> Result<()> {
    let mut leader = rig.reign().await?;
    for _ in 0..3 {
        let fenced = leader.record().await?.epoch;
        leader = rig.lead_again(leader).await?;
        ensure!(leader.epoch > fenced, "epoch {} was claimed over {fenced}", leader.epoch);
        leader.reign().await?;
    }
    Ok(())
}

async fn a_stopped_driver_does_not_lead(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let mut watching = leader.driver.leadership();
    leader.driver.shutdown().await?;
    ended(&mut watching).await
}

/// Waits until a receiver says that its driver does not lead. A closed channel is not leading.
async fn ended(watching: &mut watch::Receiver<Leadership>) -> Result<()> {
    let leads = |now: &Leadership| matches!(now, Leadership::Leader { .. });
    let ended = watching.wait_for(|now| !leads(now));
    drop(timeout(PATIENCE, ended).await.context("the driver still says that it leads")?);
    Ok(())
}

async fn a_storage_error_ends_leadership(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let mut watching = leader.driver.leadership();
    rig.place.fail_storage().await?;
    let outcome = leader.driver.commit(leader.epoch, vec![advance(&[("orders", 1)])]).await;
    ensure!(outcome.is_err(), "a commit that could not be stored was answered {outcome:?}");
    ended(&mut watching).await
}

async fn a_storage_error_is_final(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    rig.place.fail_storage().await?;
    for attempt in 0..4 {
        let outcome = leader.driver.commit(leader.epoch, vec![advance(&[("orders", 1)])]).await;
        let text = format!("attempt {attempt} was answered {outcome:?}");
        let error = outcome.err().context(text)?;
        ensure!(
            attempt == 0 || !error.is_retryable(),
            "attempt {attempt} may be tried again: {error}"
        );
    }
    Ok(())
}

async fn of_two_contenders_one_leads(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    let other = rig.place.open().await?;
    leader.reign().await?;
    leader.take("orders", 1).await?;
    let now = other.leadership().borrow().clone();
    ensure!(!matches!(now, Leadership::Leader { .. }), "the other one says {now:?} as well");
    Ok(())
}

async fn a_contender_takes_over_when_the_leader_stops(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    let other = rig.place.open().await?;
    first.driver.shutdown().await?;
    let second = Leader::of(other).await?;
    ensure!(second.epoch > first.epoch, "epoch {} came after {}", second.epoch, first.epoch);
    second.reign().await?;
    second.take("orders", 1).await?;
    Ok(())
}

async fn a_contender_takes_over_when_the_leader_is_cut_off(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    let other = rig.place.open().await?;
    rig.place.cut_off(0).await?;
    let second = Leader::of(other).await?;
    ensure!(second.epoch > first.epoch, "epoch {} came after {}", second.epoch, first.epoch);
    second.reign().await?;
    second.take("orders", 1).await?;
    Ok(())
}

async fn a_re_election_of_the_same_node_is_seen(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    let mut watching = first.driver.leadership();
    watching.mark_unchanged();
    let other = rig.place.open().await?;
    rig.place.cut_off(0).await?;
    let second = Leader::of(other).await?;
    second.reign().await?;
    rig.place.heal(0).await?;
    second.driver.shutdown().await?;
    let leads_again =
        |now: &Leadership| matches!(now, Leadership::Leader { epoch } if *epoch > second.epoch);
    timeout(PATIENCE, watching.wait_for(leads_again))
        .await
        .context("the first one was elected again, and whoever watches it was not told")?
        .context("the channel of the first one has closed")?;
    let third = Leader::of(first.driver).await?;
    third.reign().await?;
    third.take("orders", 1).await?;
    Ok(())
}
