//! Stamping leases, and the frontier that keeps behind the bounds of all of them.

use anyhow::{Result, bail, ensure};
use tsoracle_core::{
    LeaseHolder, LeaseId, MAX_HIGH_WATER_MS, Reject,
    state::{Answer, Command, LeaseAsk, LeaseGrant, Limits, Moment, Query, Reply},
};

use crate::rig::{HEADROOM_MS, Leader, NOON_MS, Outcome, Rig};

checks!("stamping":
    a_bound_reaches_as_far_as_the_lease_runs,
    a_bound_is_below_the_high_water_when_it_is_answered,
    a_bound_is_below_the_high_water_after_a_crash [Crash],
    a_bound_is_below_the_high_water_after_a_power_loss [LosePower],
    a_thousand_grants_and_renewals_leave_the_high_water_where_clock_and_ttl_put_it,
    whoever_asks_again_gets_the_same_lease,
    a_higher_epoch_of_the_holder_supersedes_its_lease,
    a_lower_epoch_of_the_holder_is_refused,
    a_superseded_lease_counts_until_it_has_expired,
    a_released_lease_is_over,
    a_lease_that_never_was_cannot_be_renewed,
    an_expired_lease_is_over,
    a_renewed_lease_runs_for_its_whole_time_again,
    the_cap_of_leases_is_kept,
    a_lease_past_the_end_of_time_is_refused_before_it_is_stored,
    leases_of_one_batch_are_all_granted,
    a_lease_is_known_after_a_reopen [Reopen],
    a_lease_is_known_to_another_leader [Contend],
    no_id_is_given_twice [Reopen],
    the_frontier_is_the_least_of_the_high_water_and_all_bounds,
    the_frontier_never_falls [Reopen],
);

const TTL_MS: u64 = 60_000;

fn ask(ask: LeaseAsk, elapsed_ms: u64) -> Command {
    let now_ms = NOON_MS + elapsed_ms;
    Command::Lease { ask, at: Moment { now_ms, elapsed_ms } }
}

fn acquire(holder: &str, holder_epoch: u64, elapsed_ms: u64) -> Command {
    acquire_under(Limits::default(), holder, holder_epoch, elapsed_ms)
}

fn acquire_under(limits: Limits, holder: &str, holder_epoch: u64, elapsed_ms: u64) -> Command {
    let holder = LeaseHolder::new(holder).expect("checks use valid holders");
    ask(LeaseAsk::Acquire { holder, holder_epoch, ttl_ms: TTL_MS, limits }, elapsed_ms)
}

fn renew(id: LeaseId, elapsed_ms: u64) -> Command {
    ask(LeaseAsk::Renew { id }, elapsed_ms)
}

fn grant(outcome: &Outcome) -> Result<LeaseGrant> {
    match outcome {
        Ok(Reply::Leased(grant)) => Ok(*grant),
        other => bail!("a lease was asked for, and the answer is {other:?}"),
    }
}

async fn granted(leader: &Leader, command: Command) -> Result<LeaseGrant> {
    grant(&leader.one(command).await?)
}

async fn refused(leader: &Leader, command: Command, expected: Reject) -> Result<()> {
    let outcome = leader.one(command).await?;
    ensure!(outcome == Err(expected), "{outcome:?}");
    Ok(())
}

/// The frontier, and whether leases have expired.
async fn frontier(leader: &Leader, elapsed_ms: u64) -> Result<(u64, bool)> {
    match leader.driver.read(Query::Frontier { elapsed_ms }).await? {
        Answer::Frontier { frontier_ms, expired } => Ok((frontier_ms, expired)),
        other => bail!("the query of the frontier was answered {other:?}"),
    }
}

async fn expire(leader: &Leader, elapsed_ms: u64) -> Result<u64> {
    match leader.done(ask(LeaseAsk::Expire, elapsed_ms)).await? {
        Reply::LeasesExpired(count) => Ok(count),
        other => bail!("an expiry was answered {other:?}"),
    }
}

async fn a_bound_reaches_as_far_as_the_lease_runs(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let lease = granted(&leader, acquire("a", 1, 0)).await?;
    ensure!(lease.bound_ms >= NOON_MS + TTL_MS, "{lease:?}");
    ensure!(lease.remaining_ms == TTL_MS, "{lease:?}");
    let again = granted(&leader, acquire("a", 1, 1_000)).await?;
    ensure!(again.remaining_ms == TTL_MS - 1_000, "a second later {again:?}");
    Ok(())
}

async fn a_bound_is_below_the_high_water_when_it_is_answered(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let mut lease = granted(&leader, acquire("a", 1, 0)).await?;
    for elapsed_ms in [0, 1_000, 30_000] {
        let high_water_ms = leader.record().await?.high_water_ms;
        ensure!(lease.bound_ms <= high_water_ms, "{lease:?}, the high-water is {high_water_ms}");
        lease = granted(&leader, renew(lease.id, elapsed_ms)).await?;
    }
    Ok(())
}

/// A fence must reserve above a bound that was answered.
async fn fences_above(leader: &Leader, bound_ms: u64) -> Result<()> {
    let fenced = leader.fence_at(NOON_MS).await?;
    ensure!(fenced.floor_ms > bound_ms, "{bound_ms} may be stamped, but {fenced:?}");
    Ok(())
}

async fn a_bound_is_below_the_high_water_after_a_crash(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let bound_ms = granted(&leader, acquire("a", 1, 0)).await?.bound_ms;
    rig.place.crash().await?;
    fences_above(&rig.lead().await?, bound_ms).await
}

async fn a_bound_is_below_the_high_water_after_a_power_loss(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let bound_ms = granted(&leader, acquire("a", 1, 0)).await?.bound_ms;
    rig.place.lose_power().await?;
    fences_above(&rig.lead().await?, bound_ms).await
}

async fn a_thousand_grants_and_renewals_leave_the_high_water_where_clock_and_ttl_put_it(
    mut rig: Rig,
) -> Result<()> {
    let leader = rig.reign().await?;
    let holders: Vec<_> = (0..100).map(|holder| holder.to_string()).collect();
    let grants = holders.iter().map(|holder| acquire(holder, 1, 0)).collect();
    let leases = leader.commit(grants).await?;
    let leases = leases.iter().map(grant).collect::<Result<Vec<_>>>()?;
    for _ in 0..9 {
        let renewals = leases.iter().map(|lease| renew(lease.id, 0)).collect();
        for renewed in leader.commit(renewals).await? {
            grant(&renewed)?;
        }
    }
    let high_water_ms = leader.record().await?.high_water_ms;
    ensure!(high_water_ms == NOON_MS + TTL_MS, "it is {high_water_ms}");
    Ok(())
}

async fn whoever_asks_again_gets_the_same_lease(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let first = granted(&leader, acquire("a", 1, 0)).await?;
    let other = granted(&leader, acquire("b", 1, 0)).await?;
    let again = granted(&leader, acquire("a", 1, 0)).await?;
    ensure!(first == again && other.id != first.id, "{first:?}, {other:?}, {again:?}");
    Ok(())
}

async fn a_higher_epoch_of_the_holder_supersedes_its_lease(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let first = granted(&leader, acquire("a", 1, 0)).await?;
    let second = granted(&leader, acquire("a", 2, 0)).await?;
    ensure!(first.id != second.id, "both are {:?}", first.id);
    refused(&leader, renew(first.id, 0), Reject::LeaseSuperseded { id: first.id }).await?;
    granted(&leader, renew(second.id, 0)).await?;
    Ok(())
}

async fn a_lower_epoch_of_the_holder_is_refused(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    granted(&leader, acquire("a", 7, 0)).await?;
    refused(&leader, acquire("a", 6, 0), Reject::StaleHolder { current: 7 }).await
}

/// When a lease that was granted at 0 has expired on every clock.
const EXPIRED_MS: u64 = 2 * TTL_MS;

async fn a_superseded_lease_counts_until_it_has_expired(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let first = granted(&leader, acquire("a", 1, 0)).await?;
    granted(&leader, acquire("a", 2, 30_000)).await?;
    let (frontier_ms, _) = frontier(&leader, 30_000).await?;
    ensure!(frontier_ms == first.bound_ms, "{first:?}, and the frontier is {frontier_ms}");
    Ok(())
}

async fn a_released_lease_is_over(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let lease = granted(&leader, acquire("a", 1, 0)).await?;
    leader.extend(NOON_MS + 10 * TTL_MS).await?;
    let release = || ask(LeaseAsk::Release { id: lease.id }, 0);
    ensure!(leader.done(release()).await? == Reply::LeaseReleased);
    ensure!(leader.done(release()).await? == Reply::LeaseReleased, "a second release");
    refused(&leader, renew(lease.id, 0), Reject::LeaseOver { id: lease.id }).await?;
    let (frontier_ms, _) = frontier(&leader, 0).await?;
    ensure!(frontier_ms == NOON_MS + 10 * TTL_MS, "it holds the frontier back: {frontier_ms}");
    Ok(())
}

async fn a_lease_that_never_was_cannot_be_renewed(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let id = LeaseId(granted(&leader, acquire("a", 1, 0)).await?.id.0 + 1);
    refused(&leader, renew(id, 0), Reject::LeaseUnknown { id }).await
}

async fn an_expired_lease_is_over(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let lease = granted(&leader, acquire("a", 1, 0)).await?;
    leader.extend(NOON_MS + 10 * TTL_MS).await?;
    let (frontier_ms, expired) = frontier(&leader, TTL_MS / 2).await?;
    ensure!((frontier_ms, expired) == (lease.bound_ms, false), "{frontier_ms}, {expired}");
    let (_, expired) = frontier(&leader, EXPIRED_MS).await?;
    ensure!(expired, "nothing is said to have expired");
    ensure!(expire(&leader, EXPIRED_MS).await? == 1, "it was not ended");
    refused(&leader, renew(lease.id, EXPIRED_MS), Reject::LeaseOver { id: lease.id }).await?;
    let (frontier_ms, expired) = frontier(&leader, EXPIRED_MS).await?;
    ensure!(frontier_ms == NOON_MS + 10 * TTL_MS && !expired, "{frontier_ms}, {expired}");
    Ok(())
}

async fn a_renewed_lease_runs_for_its_whole_time_again(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let id = granted(&leader, acquire("a", 1, 0)).await?.id;
    let mut bound_ms = 0;
    for round in 1..=5 {
        let lease = granted(&leader, renew(id, round * TTL_MS / 2)).await?;
        ensure!(lease.remaining_ms == TTL_MS && lease.id == id, "{lease:?}");
        ensure!(lease.bound_ms >= bound_ms, "its bound fell from {bound_ms}: {lease:?}");
        bound_ms = lease.bound_ms;
    }
    Ok(())
}

async fn the_cap_of_leases_is_kept(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let limits = Limits { leases: 2, ..Limits::default() };
    let capped = |holder, elapsed_ms| acquire_under(limits, holder, 1, elapsed_ms);
    let first = granted(&leader, capped("a", 0)).await?;
    granted(&leader, capped("b", 0)).await?;
    refused(&leader, capped("c", 0), Reject::TooManyLeases { limit: 2 }).await?;
    granted(&leader, capped("a", 0)).await?;
    leader.done(ask(LeaseAsk::Release { id: first.id }, 0)).await?;
    granted(&leader, capped("c", 0)).await?;
    // Those that have expired make room.
    granted(&leader, capped("d", EXPIRED_MS)).await?;
    Ok(())
}

async fn a_lease_past_the_end_of_time_is_refused_before_it_is_stored(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let before = leader.record().await?;
    let mut command = acquire("a", 1, 0);
    if let Command::Lease { at, .. } = &mut command {
        at.now_ms = MAX_HIGH_WATER_MS;
    }
    let outcome = leader.one(command).await?;
    ensure!(matches!(outcome, Err(Reject::OutOfRange { .. })), "{outcome:?}");
    ensure!(leader.record().await? == before, "what was refused is stored");
    Ok(())
}

async fn leases_of_one_batch_are_all_granted(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let batch = vec![acquire("a", 1, 0), acquire("b", 1, 0), acquire("a", 1, 0)];
    let results = leader.commit(batch).await?;
    let ids = results.iter().map(|result| Ok(grant(result)?.id)).collect::<Result<Vec<_>>>()?;
    ensure!(ids[0] == ids[2] && ids[0] != ids[1], "{ids:?}");
    granted(&leader, renew(ids[1], 0)).await?;
    Ok(())
}

async fn a_lease_is_known_after_a_reopen(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let lease = granted(&leader, acquire("a", 1, 0)).await?;
    let leader = rig.reign_again(leader).await?;
    let again = granted(&leader, acquire("a", 1, 0)).await?;
    ensure!(again.id == lease.id, "{lease:?}, and then {again:?}");
    let (frontier_ms, _) = frontier(&leader, 0).await?;
    ensure!(frontier_ms <= lease.bound_ms, "{lease:?}, and the frontier is {frontier_ms}");
    refused(&leader, acquire("a", 0, 0), Reject::StaleHolder { current: 1 }).await
}

async fn a_lease_is_known_to_another_leader(mut rig: Rig) -> Result<()> {
    let first = rig.reign().await?;
    let lease = granted(&first, acquire("a", 1, 0)).await?;
    let other = rig.commanded().await?;
    first.driver.shutdown().await?;
    let second = Leader::of(other).await?;
    second.reign().await?;
    let renewed = granted(&second, renew(lease.id, 0)).await?;
    ensure!(renewed.bound_ms >= lease.bound_ms, "{lease:?}, and then {renewed:?}");
    Ok(())
}

async fn no_id_is_given_twice(mut rig: Rig) -> Result<()> {
    let mut leader = rig.reign().await?;
    let mut last = LeaseId(0);
    for round in 0..3 {
        for holder in ["a", "b"] {
            let lease = granted(&leader, acquire(holder, round, 0)).await?;
            ensure!(lease.id > last, "{lease:?} came after {last}");
            last = lease.id;
            leader.done(ask(LeaseAsk::Release { id: last }, 0)).await?;
        }
        leader = rig.reign_again(leader).await?;
    }
    Ok(())
}

async fn the_frontier_is_the_least_of_the_high_water_and_all_bounds(mut rig: Rig) -> Result<()> {
    let leader = rig.reign().await?;
    let (frontier_ms, expired) = frontier(&leader, 0).await?;
    ensure!((frontier_ms, expired) == (NOON_MS + HEADROOM_MS, false), "{frontier_ms}, {expired}");
    let mut least = u64::MAX;
    for (holder, elapsed_ms) in [("a", 0), ("b", 1_000), ("c", 20_000)] {
        least = least.min(granted(&leader, acquire(holder, 1, elapsed_ms)).await?.bound_ms);
        let (frontier_ms, _) = frontier(&leader, elapsed_ms).await?;
        ensure!(frontier_ms == least, "the least bound is {least}, the frontier {frontier_ms}");
    }
    Ok(())
}

async fn the_frontier_never_falls(mut rig: Rig) -> Result<()> {
    let mut leader = rig.reign().await?;
    let mut before = 0;
    for round in 0..4 {
        // Session time runs on, though the clocks of each reign start anew.
        let holders = ["a", "b", "c"].map(|holder| format!("{holder}{round}"));
        for (step, holder) in holders.iter().enumerate() {
            let elapsed_ms = step as u64 * 40_000;
            granted(&leader, acquire(holder, 1, elapsed_ms)).await?;
            expire(&leader, elapsed_ms).await?;
            let (frontier_ms, _) = frontier(&leader, elapsed_ms).await?;
            ensure!(before <= frontier_ms, "it fell from {before} to {frontier_ms}");
            before = frontier_ms;
        }
        leader = rig.reign_again(leader).await?;
    }
    Ok(())
}
