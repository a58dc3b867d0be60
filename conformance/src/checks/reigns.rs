//! Fence, open, extend, release: who may write, and how far timestamps are promised.

use anyhow::{Result, bail, ensure};
use tsoracle_core::{
    Epoch, MAX_HIGH_WATER_MS, Reject,
    state::{Command, Reply, Stage},
};

use crate::rig::{HEADROOM_MS, LEASE_MS, Leader, NOON_MS, Rig, SOMEBODY, advance, extend, fence};

checks!("reigns":
    a_first_fence_reserves_from_the_present_on,
    a_fence_reserves_above_the_high_water_it_replaces [Reopen],
    a_fence_by_a_clock_set_back_reserves_above_the_high_water [Reopen],
    a_fence_answers_with_the_record_it_replaced [Reopen],
    nothing_is_served_between_fence_and_open,
    nothing_is_served_before_the_first_fence,
    a_fence_alone_keeps_who_opened_and_the_longer_lease [Reopen],
    a_fence_alone_keeps_that_the_reign_before_was_released [Reopen],
    each_fence_raises_the_epoch [Reopen],
    an_open_puts_its_own_node_and_lease_on_record [Reopen],
    an_older_epoch_is_rejected_for_good [Reopen],
    an_older_epoch_is_rejected_after_a_crash [Crash],
    a_newer_epoch_that_has_not_fenced_is_refused,
    a_release_ends_everything_of_its_epoch,
    the_high_water_never_falls,
    the_high_water_survives_a_reopen [Reopen],
    an_extension_past_the_end_of_time_is_refused_before_it_is_stored,
    a_fence_past_the_end_of_time_is_refused_before_it_is_stored,
    a_state_that_was_used_cannot_be_set_up,
    a_state_that_was_set_up_starts_above_its_high_water [Reopen],
);

async fn a_first_fence_reserves_from_the_present_on(mut rig: Rig) -> Result<()> {
    let fenced = rig.lead().await?.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms == NOON_MS, "the floor is {}", fenced.floor_ms);
    ensure!(fenced.high_water_ms == NOON_MS + HEADROOM_MS, "{}", fenced.high_water_ms);
    ensure!(fenced.replaced.is_none(), "a fresh place had {:?}", fenced.replaced);
    Ok(())
}

async fn a_fence_reserves_above_the_high_water_it_replaces(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let far_ms = NOON_MS + 1_000_000;
    leader.extend(far_ms).await?;
    let fenced = rig.lead_again(leader).await?.fence_at(NOON_MS + 5).await?;
    ensure!(fenced.floor_ms == far_ms + 1, "{far_ms} was promised, the floor is {fenced:?}");
    ensure!(fenced.high_water_ms == far_ms + 1 + HEADROOM_MS, "{fenced:?}");
    Ok(())
}

async fn a_fence_by_a_clock_set_back_reserves_above_the_high_water(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let high_water_ms = leader.record().await?.high_water_ms;
    let fenced = rig.lead_again(leader).await?.fence_at(NOON_MS - 3_600_000).await?;
    ensure!(fenced.floor_ms == high_water_ms + 1, "{high_water_ms} was promised, but {fenced:?}");
    Ok(())
}

async fn a_fence_answers_with_the_record_it_replaced(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.extend(NOON_MS + 50_000).await?;
    let record = leader.record().await?;
    ensure!(record.epoch == leader.epoch() && record.stage == Stage::Open, "{record:?}");
    let fenced = rig.lead_again(leader).await?.fence_at(NOON_MS).await?;
    ensure!(fenced.replaced.as_ref() == Some(&record), "it was {record:?}, not {fenced:?}");
    Ok(())
}

async fn nothing_is_served_between_fence_and_open(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    leader.fence_at(NOON_MS).await?;
    for command in [advance(&[("orders", 1)]), extend(NOON_MS + 60_000), Command::Release] {
        leader.refuses(leader.epoch(), command).await?;
    }
    leader.open().await?;
    ensure!(leader.take("orders", 1).await? == (0..1));
    Ok(())
}

async fn nothing_is_served_before_the_first_fence(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    let open = Command::Open { node: leader.driver.node(), lease_ms: LEASE_MS };
    for command in [open, advance(&[("orders", 1)]), extend(NOON_MS), Command::Release] {
        leader.refuses(leader.epoch(), command).await?;
    }
    ensure!(leader.sequence("orders").await?.is_none());
    Ok(())
}

async fn a_fence_alone_keeps_who_opened_and_the_longer_lease(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    leader.fence_at(NOON_MS).await?;
    leader.done(Command::Open { node: SOMEBODY, lease_ms: 5 * LEASE_MS }).await?;
    let leader = rig.lead_again(leader).await?;
    leader.fence_at(NOON_MS).await?;
    let leader = rig.lead_again(leader).await?;
    let replaced = leader.fence_at(NOON_MS).await?.replaced;
    let Some(record) = replaced else { bail!("the fences before have left no record") };
    ensure!(record.opened_by == Some(SOMEBODY), "{record:?} forgot who opened");
    ensure!(record.lease_ms == 5 * LEASE_MS, "{record:?} forgot the longer lease");
    ensure!(!record.released && record.stage == Stage::Fenced, "{record:?}");
    Ok(())
}

async fn a_fence_alone_keeps_that_the_reign_before_was_released(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.done(Command::Release).await?;
    let leader = rig.lead_again(leader).await?;
    leader.fence_at(NOON_MS).await?;
    let leader = rig.lead_again(leader).await?;
    let replaced = leader.fence_at(NOON_MS).await?.replaced;
    ensure!(replaced.as_ref().is_some_and(|record| record.released), "{replaced:?}");
    Ok(())
}

async fn an_open_puts_its_own_node_and_lease_on_record(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    leader.fence_at(NOON_MS).await?;
    leader.done(Command::Open { node: SOMEBODY, lease_ms: 5 * LEASE_MS }).await?;
    leader.done(Command::Release).await?;
    let leader = rig.reign_again(leader).await?;
    let record = leader.record().await?;
    ensure!(record.opened_by == Some(leader.driver.node()), "{record:?}");
    ensure!(record.lease_ms == LEASE_MS && !record.released, "{record:?}");
    ensure!(record.epoch == leader.epoch() && record.stage == Stage::Open, "{record:?}");
    Ok(())
}

/// Every command of `stale` is refused, and changes nothing.
async fn rejects(leader: &Leader, stale: Epoch) -> Result<()> {
    let before = (leader.record().await?, leader.next("orders").await?);
    for command in [
        advance(&[("orders", 1)]),
        extend(NOON_MS + 1_000_000),
        Command::Open { node: SOMEBODY, lease_ms: LEASE_MS },
        Command::Release,
    ] {
        leader.refuses(stale, command).await?;
    }
    let after = (leader.record().await?, leader.next("orders").await?);
    ensure!(before == after, "what was refused changed {before:?} to {after:?}");
    Ok(())
}

async fn each_fence_raises_the_epoch(mut rig: Rig) -> Result<()> {
    let mut leader = rig.lead().await?;
    let mut last = leader.fence_at(NOON_MS).await?.epoch;
    for round in 0..4 {
        if round % 2 == 1 {
            leader.open().await?;
            leader = rig.lead_again(leader).await?;
        }
        let epoch = leader.fence_at(NOON_MS).await?.epoch;
        ensure!(epoch > last, "epoch {epoch} came after {last}");
        last = epoch;
    }
    Ok(())
}

async fn an_older_epoch_is_rejected_for_good(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.take("orders", 1).await?;
    let stale = leader.epoch();
    let leader = rig.lead_again(leader).await?;
    leader.fence_at(NOON_MS).await?;
    rejects(&leader, stale).await?;
    leader.open().await?;
    rejects(&leader, stale).await?;
    leader.done(Command::Release).await?;
    rejects(&leader, stale).await?;
    let leader = rig.reign_again(leader).await?;
    rejects(&leader, stale).await
}

async fn an_older_epoch_is_rejected_after_a_crash(mut rig: Rig) -> Result<()> {
    let stale = rig.reign().await?.epoch();
    let leader = rig.reign_after_crash().await?;
    rejects(&leader, stale).await
}

async fn a_newer_epoch_that_has_not_fenced_is_refused(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let newer = Epoch(leader.epoch().0 + 1);
    for command in [advance(&[("orders", 1)]), extend(NOON_MS + 60_000), Command::Release] {
        leader.refuses(newer, command).await?;
    }
    ensure!(leader.take("orders", 1).await? == (0..1));
    Ok(())
}

async fn a_release_ends_everything_of_its_epoch(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    ensure!(leader.done(Command::Release).await? == Reply::Released);
    rejects(&leader, leader.epoch()).await?;
    let record = leader.record().await?;
    ensure!(record.released && record.stage == Stage::Released, "{record:?}");
    Ok(())
}

async fn the_high_water_never_falls(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let high_ms = NOON_MS + 1_000_000;
    leader.extend(high_ms).await?;
    for lower_ms in [0, NOON_MS, high_ms - 1] {
        let reply = leader.done(extend(lower_ms)).await?;
        ensure!(reply == Reply::Extended { high_water_ms: high_ms }, "{lower_ms}: {reply:?}");
    }
    let stored_ms = leader.record().await?.high_water_ms;
    ensure!(stored_ms == high_ms, "{high_ms} was promised, {stored_ms} is stored");
    Ok(())
}

async fn the_high_water_survives_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    leader.extend(NOON_MS + 77_777).await?;
    let high_water_ms = rig.lead_again(leader).await?.record().await?.high_water_ms;
    ensure!(high_water_ms == NOON_MS + 77_777, "it is {high_water_ms}");
    Ok(())
}

async fn an_extension_past_the_end_of_time_is_refused_before_it_is_stored(
    mut rig: Rig,
) -> Result<()> {
    let leader = rig.reign().await?;
    let before = leader.record().await?;
    for high_water_ms in [MAX_HIGH_WATER_MS + 1, u64::MAX] {
        let outcome = leader.one(extend(high_water_ms)).await?;
        ensure!(outcome == Err(Reject::OutOfRange { high_water_ms }), "{outcome:?}");
    }
    ensure!(leader.record().await? == before, "what was refused is stored");
    leader.extend(MAX_HIGH_WATER_MS).await
}

async fn a_fence_past_the_end_of_time_is_refused_before_it_is_stored(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    for now_ms in [MAX_HIGH_WATER_MS, u64::MAX] {
        let outcome = leader.one(fence(now_ms)).await?;
        ensure!(matches!(outcome, Err(Reject::OutOfRange { .. })), "{outcome:?}");
    }
    let fenced = leader.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms == NOON_MS, "what was refused is stored: {fenced:?}");
    Ok(())
}

async fn a_state_that_was_used_cannot_be_set_up(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let before = leader.record().await?;
    let outcome = leader.one(Command::Init { high_water_ms: NOON_MS * 2 }).await?;
    ensure!(outcome == Err(Reject::NotEmpty), "{outcome:?}");
    ensure!(leader.record().await? == before, "what was refused is stored");
    Ok(())
}

async fn a_state_that_was_set_up_starts_above_its_high_water(mut rig: Rig) -> Result<()> {
    let leader = rig.lead().await?;
    let high_water_ms = NOON_MS * 2;
    let reply = leader.done(Command::Init { high_water_ms }).await?;
    ensure!(reply == Reply::Initialized, "{reply:?}");
    let leader = rig.lead_again(leader).await?;
    let fenced = leader.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms == high_water_ms + 1, "{fenced:?}");
    Ok(())
}
