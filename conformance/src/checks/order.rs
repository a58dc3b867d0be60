//! The leader lease, and the order of timestamps from one leader to the next.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use futures::FutureExt;
use tsoracle_core::{Clock, ManualClock, Oracle, Phase, Timestamp};

use crate::{
    commanded::Commanded,
    rig::{LEASE_MS, Leader, NOON_MS, Rig, advance, clock, extend, fence, oracle, pass},
};

checks!("order":
    timestamps_rise_within_a_reign,
    timestamps_rise_from_one_reign_to_the_next [Reopen],
    timestamps_rise_though_the_clock_is_set_back [Reopen],
    a_released_reign_is_followed_at_once [Reopen],
    a_node_that_finds_its_own_reign_need_not_wait [Crash, Lock],
    a_leader_stops_granting_when_its_lease_runs_out [FailStorage],
    a_successor_waits_until_the_leader_before_has_stopped_granting [Contend, CutOff],
    a_leader_paused_past_its_lease_grants_nothing_when_resumed [Contend, CutOff],
    a_successor_of_a_leader_that_stopped_serves_at_once [Contend],
    a_commit_held_up_past_a_take_over_never_takes_effect [Contend, CutOff],
    a_fence_reserves_above_what_was_promised_after_its_driver_opened [Contend],
    evidence_of_the_replaced_write_is_of_no_earlier_one [Contend],
);

/// Timestamps from an oracle that serves, rising and above `before`. Returns the last one.
async fn rising(oracle: &Oracle, mut before: Option<Timestamp>) -> Result<Option<Timestamp>> {
    for count in [1, 1, 500, 1] {
        let range = oracle.get_ts(count).await?.range;
        ensure!(before < Some(range.first()), "{} came after {before:?}", range.first());
        before = Some(range.last());
    }
    Ok(before)
}

async fn timestamps_rise_within_a_reign(mut rig: Rig) -> Result<()> {
    let clock = clock(NOON_MS);
    let oracle = oracle(rig.open().await?, &clock)?;
    let mut before = None;
    for round in 0..20 {
        before = rising(&oracle, before).await?;
        clock.advance(Duration::from_millis(100));
        if round % 5 == 0 {
            clock.set_wall(NOON_MS - 5_000 * round);
        }
    }
    Ok(oracle.shutdown().await?)
}

async fn timestamps_rise_from_one_reign_to_the_next(mut rig: Rig) -> Result<()> {
    let clock = clock(NOON_MS);
    let mut before = None;
    for _ in 0..4 {
        let oracle = oracle(rig.open().await?, &clock)?;
        before = rising(&oracle, before).await?;
        oracle.shutdown().await?;
    }
    Ok(())
}

async fn timestamps_rise_though_the_clock_is_set_back(mut rig: Rig) -> Result<()> {
    let mut before = None;
    for round in 0..4 {
        let clock = clock(NOON_MS - round * 3_600_000);
        let oracle = oracle(rig.open().await?, &clock)?;
        before = rising(&oracle, before).await?;
        oracle.shutdown().await?;
    }
    Ok(())
}

async fn a_released_reign_is_followed_at_once(mut rig: Rig) -> Result<()> {
    for _ in 0..2 {
        // Time stands still, so that whoever waits for a lease waits for ever.
        let oracle = oracle(rig.open().await?, &clock(NOON_MS))?;
        serves(&oracle).await?;
        oracle.shutdown().await?;
    }
    Ok(())
}

async fn a_node_that_finds_its_own_reign_need_not_wait(mut rig: Rig) -> Result<()> {
    for _ in 0..2 {
        let oracle = oracle(rig.open().await?, &clock(NOON_MS))?;
        serves(&oracle).await?;
        rig.place.crash().await?;
    }
    Ok(())
}

async fn serves(oracle: &Oracle) -> Result<()> {
    let mut phase = oracle.phase();
    let served = phase.wait_for(|phase| matches!(phase, Phase::Serving { .. }));
    served.await.context("the engine has ended")?;
    Ok(())
}

async fn a_leader_stops_granting_when_its_lease_runs_out(mut rig: Rig) -> Result<()> {
    let clock = clock(NOON_MS);
    let oracle = oracle(rig.open().await?, &clock)?;
    oracle.get_ts(1).await?;
    rig.place.fail_storage().await?;
    clock.advance(Duration::from_millis(LEASE_MS));
    let granted = oracle.get_ts(1).now_or_never();
    ensure!(!matches!(granted, Some(Ok(_))), "past the lease it granted {granted:?}");
    oracle
        .phase()
        .wait_for(|phase| matches!(phase, Phase::Failed(_)))
        .await
        .context("the engine has ended")?;
    let error = oracle.get_ts(1).await.err().context("it grants though its storage failed")?;
    ensure!(!error.is_retryable(), "{error:#}");
    Ok(())
}

/// Two contenders on one clock, of which the first serves and is then cut off.
struct TakeOver {
    clock: ManualClock,
    first: Oracle,
    second: Oracle,
    /// The last timestamp of the first one so far.
    last: Timestamp,
}

impl TakeOver {
    async fn begin(rig: &mut Rig) -> Result<Self> {
        let clock = clock(NOON_MS);
        let first = oracle(rig.open().await?, &clock)?;
        let last = first.get_ts(1).await?.range.last();
        let driver = rig.open().await?;
        rig.place.cut_off(0).await?;
        Leader::of(Commanded::over(driver.clone())).await?;
        let second = oracle(driver, &clock)?;
        Ok(Self { clock, first, second, last })
    }

    /// Lets time pass until the second one serves, and calls `meanwhile` in every step.
    async fn finish(&mut self, meanwhile: impl Fn(&mut Self) -> Result<()>) -> Result<Timestamp> {
        loop {
            meanwhile(self)?;
            if let Some(granted) = self.second.try_get_ts(1)? {
                return Ok(granted.range.first());
            }
            pass(&self.clock, &self.second).await;
        }
    }
}

async fn a_successor_waits_until_the_leader_before_has_stopped_granting(
    mut rig: Rig,
) -> Result<()> {
    let mut take_over = TakeOver::begin(&mut rig).await?;
    let granting = |take_over: &mut TakeOver| {
        if let Some(granted) = take_over.first.try_get_ts(1)? {
            take_over.last = granted.range.last();
        }
        Ok(())
    };
    let first = take_over.finish(granting).await?;
    let last = take_over.last;
    ensure!(last < first, "the leader before granted {last}, its successor {first}");
    for _ in 0..50 {
        let granted = take_over.first.try_get_ts(1)?;
        ensure!(granted.is_none(), "both grant: {granted:?}");
        take_over.clock.advance(Duration::from_millis(50));
    }
    Ok(())
}

async fn a_leader_paused_past_its_lease_grants_nothing_when_resumed(mut rig: Rig) -> Result<()> {
    let mut take_over = TakeOver::begin(&mut rig).await?;
    let first = take_over.finish(|_| Ok(())).await?;
    let granted = take_over.first.try_get_ts(1)?;
    ensure!(granted.is_none(), "its successor granted {first}, and then it granted {granted:?}");
    rig.place.heal(0).await?;
    for _ in 0..20 {
        let granted = take_over.first.get_ts(1).now_or_never();
        ensure!(!matches!(granted, Some(Ok(_))), "healed, it granted {granted:?}");
        take_over.clock.advance(Duration::from_millis(50));
        tokio::task::yield_now().await;
    }
    Ok(())
}

async fn a_successor_of_a_leader_that_stopped_serves_at_once(mut rig: Rig) -> Result<()> {
    let clock = clock(NOON_MS);
    let first = oracle(rig.open().await?, &clock)?;
    let last = first.get_ts(1).await?.range.last();
    let second = oracle(rig.open().await?, &clock)?;
    first.shutdown().await?;
    serves(&second).await?;
    let next = second.get_ts(1).await?.range.first();
    ensure!(last < next, "the leader before granted {last}, its successor {next}");
    Ok(())
}

async fn a_commit_held_up_past_a_take_over_never_takes_effect(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    first.take("orders", 1).await?;
    let other = rig.commanded().await?;
    rig.place.cut_off(0).await?;
    let held_up = tokio::spawn({
        let first = first.clone();
        let batch = vec![advance(&[("orders", 100)]), extend(NOON_MS + 1_000_000)];
        async move { first.driver.commit(first.epoch(), batch).await }
    });
    let second = Leader::of(other).await?;
    second.reign().await?;
    let block = second.take("orders", 1).await?;
    ensure!(block == (1..2), "{block:?}");
    let record = second.record().await?;
    rig.place.heal(0).await?;
    if let Ok(committed) = held_up.await? {
        let answers = committed.results;
        ensure!(answers.iter().all(Result::is_err), "the old leader was answered {answers:?}");
    }
    ensure!(second.next("orders").await? == 2, "the old leader's commit took effect");
    ensure!(second.record().await? == record, "the old leader's commit took effect");
    Ok(())
}

async fn a_fence_reserves_above_what_was_promised_after_its_driver_opened(
    mut rig: Rig,
) -> Result<()> {
    let first = rig.reign().await?;
    let other = rig.commanded().await?;
    // The other one may have read the state by now.
    let far_ms = NOON_MS + 1_000_000;
    first.extend(far_ms).await?;
    let record = first.record().await?;
    first.driver.shutdown().await?;
    let fenced = Leader::of(other).await?.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms == far_ms + 1, "{far_ms} was promised, but {fenced:?}");
    ensure!(fenced.replaced.as_ref() == Some(&record), "it was {record:?}, not {fenced:?}");
    Ok(())
}

async fn evidence_of_the_replaced_write_is_of_no_earlier_one(mut rig: Rig) -> Result<()> {
    let clock = tsoracle_core::SystemClock;
    let first = rig.reign().await?;
    let other = rig.commanded().await?;
    for round in 1..=3 {
        first.extend(NOON_MS + round * 10_000).await?;
    }
    let renewed = clock.now().boot;
    first.extend(NOON_MS + 50_000).await?;
    first.driver.shutdown().await?;
    let second = Leader::of(other).await?;
    let seen = second.driver.commit(second.epoch(), vec![fence(NOON_MS)]).await?.replaced_seen;
    ensure!(
        seen.is_none_or(|seen| seen >= renewed),
        "the reign was renewed after {renewed:?}, and that is said to have been seen at {seen:?}"
    );
    Ok(())
}
