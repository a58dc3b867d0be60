use std::time::Duration;

use tonic::{Code, Response, Status};
use tsoracle_proto::v1;
use tsoracle_types::{Clock, MAX_PHYSICAL_MS, SystemClock};

use tsoracle_history::Check;

use crate::probe::{Expect, Outcome, Probe, Stop, text_of};

/// The shortest time that a server must grant.
const TTL_MS: u64 = 5_000;

/// How many leases are acquired, and then renewed, to see whether that moves time.
const MANY: u64 = 100;

/// How far the high-water may run ahead of the clock for other reasons: windows, and other holders.
const SLACK_MS: u64 = 60_000;

pub(super) async fn check(probe: &Probe) -> [Check; 4] {
    let life =
        "one lease per holder; a later holder epoch supersedes it, an earlier one is refused";
    let limits = "a bad holder or TTL is INVALID_ARGUMENT, an unknown lease NOT_FOUND";
    let frontier = "stays at or below the bound of every lease that runs";
    let time = "100 acquisitions and 100 renewals leave time where clock and TTL put it";
    [
        probe.run("leases", life, life_of_a_lease).await,
        probe.run("leases limits", limits, refusals).await,
        probe.run("leases frontier", frontier, safe_frontier).await,
        probe.run("leases and time", time, high_water).await,
    ]
}

async fn acquire(
    probe: &Probe,
    holder: &str,
    holder_epoch: u64,
    ttl_ms: u64,
) -> Result<v1::AcquireLeaseResponse, Status> {
    let holder = holder.as_bytes().to_vec().into();
    let request = v1::AcquireLeaseRequest { holder, holder_epoch, ttl_ms };
    let answer = probe.ask(async |mut node| node.tso.acquire_lease(request.clone()).await).await;
    answer.map(Response::into_inner)
}

async fn renew(probe: &Probe, lease_id: u64) -> Result<v1::RenewLeaseResponse, Status> {
    let request = v1::RenewLeaseRequest { lease_id };
    let answer = probe.ask(async |mut node| node.tso.renew_lease(request).await).await;
    answer.map(Response::into_inner)
}

async fn release(probe: &Probe, lease_id: u64) -> Result<(), Status> {
    let request = v1::ReleaseLeaseRequest { lease_id };
    probe.ask(async |mut node| node.tso.release_lease(request).await).await.map(drop)
}

/// Gets a first lease, or finds that the server has none to give.
async fn first(probe: &Probe, holder: &str) -> Result<v1::AcquireLeaseResponse, Stop> {
    acquire(probe, holder, 1, TTL_MS).await.map_err(|status| match status.code() {
        Code::Unimplemented => Stop::NotOffered,
        _ => Stop::Failed(status),
    })
}

async fn life_of_a_lease(probe: &Probe, check: &mut Check) -> Outcome {
    let holder = probe.key();
    let before = probe.get_ts(1).await?.physical_ms;
    let lease = first(probe, &holder).await?;
    let bound = lease.ts_upper_bound;
    check.expect((before..=MAX_PHYSICAL_MS).contains(&bound), || {
        format!("a bound of {bound}, when the time was {before} ms")
    });
    check.expect(lease.expires_at_ms > 0, || "a lease without an end".into());
    check.expect(lease.epoch.is_some(), || "a lease without an epoch".into());

    let again = acquire(probe, &holder, 1, TTL_MS).await?;
    let lasting = |lease: &v1::AcquireLeaseResponse| {
        (lease.lease_id, lease.ts_upper_bound, lease.expires_at_ms)
    };
    check.expect_eq("acquired again", &lasting(&again), &lasting(&lease));
    let renewed = renew(probe, lease.lease_id).await?;
    check.expect(renewed.ts_upper_bound >= bound, || {
        format!("renewed: the bound fell from {bound} to {}", renewed.ts_upper_bound)
    });
    check.expect(renewed.epoch.is_some(), || "renewed without an epoch".into());

    let later = acquire(probe, &holder, 2, TTL_MS).await?;
    check.expect(later.lease_id != lease.lease_id, || {
        format!("a later holder epoch got the same lease {}", lease.lease_id)
    });
    let stale = acquire(probe, &holder, 1, TTL_MS).await;
    check.expect_refusal("an earlier holder epoch", stale, Code::FailedPrecondition)?;
    let superseded = renew(probe, lease.lease_id).await;
    check.expect_refusal("renewing what was superseded", superseded, Code::FailedPrecondition)?;
    for _ in 0..2 {
        let released = release(probe, later.lease_id).await;
        check.expect(released.is_ok(), || format!("releasing is not idempotent: {released:?}"));
    }
    Ok(())
}

async fn refusals(probe: &Probe, check: &mut Check) -> Outcome {
    let holder = probe.key();
    let lease = first(probe, &holder).await?;
    let nameless = acquire(probe, "", 1, TTL_MS).await;
    check.expect_refusal("a lease without a holder", nameless, Code::InvalidArgument)?;
    for ttl_ms in [0, u64::MAX] {
        let answer = acquire(probe, &probe.key(), 1, ttl_ms).await;
        check.expect_refusal(&format!("a TTL of {ttl_ms} ms"), answer, Code::InvalidArgument)?;
    }
    let unknown = renew(probe, u64::MAX).await;
    check.expect_refusal("renewing an unknown lease", unknown, Code::NotFound)?;
    release(probe, lease.lease_id).await?;
    Ok(())
}

async fn safe_frontier(probe: &Probe, check: &mut Check) -> Outcome {
    let read = async || {
        let request = v1::GetSafeFrontierRequest {};
        let answer = probe.ask(async |mut node| node.tso.get_safe_frontier(request).await).await;
        answer.map(Response::into_inner).map_err(|status| match status.code() {
            Code::Unimplemented => Stop::NotOffered,
            _ => Stop::Failed(status),
        })
    };
    read().await?;
    let lease = first(probe, &probe.key()).await?;
    let answer = read().await?;
    let (frontier, bound) = (answer.frontier_physical_ms, lease.ts_upper_bound);
    check.expect(frontier <= bound, || format!("{frontier}, above the bound {bound} of a lease"));
    check.expect(frontier > 0, || "0 from a node that leads".into());
    release(probe, lease.lease_id).await?;
    Ok(())
}

/// Stops at the first sign, so as not to do much of the harm it looks for.
async fn high_water(probe: &Probe, check: &mut Check) -> Outcome {
    let holder = probe.key();
    let mut lease = first(probe, &holder).await?;
    let began = SystemClock.now().boot;
    let before = highest(probe).await?;
    let mut renewed = 0;
    for number in 1..=2 * MANY {
        if number <= MANY {
            lease = match acquire(probe, &holder, number + 1, TTL_MS).await {
                // A cap on leases is allowed.
                Err(status) if status.code() == Code::ResourceExhausted => {
                    check.note = Some(format!("at {} leases: {}", number - 1, text_of(&status)));
                    break;
                }
                answer => answer?,
            };
        } else {
            renew(probe, lease.lease_id).await?;
            renewed += 1;
        }
        let elapsed = SystemClock.now().boot.since(began);
        let allowed = before + as_ms(elapsed) + TTL_MS + SLACK_MS;
        let now = highest(probe).await?;
        check.saw(1);
        if now > allowed {
            let (acquired, ahead) = (number - renewed, (now - before) / 1_000);
            check.violated(&[], || {
                format!(
                    "{acquired} acquisitions and {renewed} renewals of {TTL_MS} ms pushed the \
                     high-water {ahead} s on, within {} s",
                    elapsed.as_secs()
                )
            });
            break;
        }
    }
    release(probe, lease.lease_id).await?;
    Ok(())
}

/// The highest time in milliseconds that the server admits to: of the next timestamp, or of what is
/// durably covered.
async fn highest(probe: &Probe) -> Result<u64, Status> {
    let issued = probe.get_ts(1).await?.physical_ms;
    let request = v1::GetCurrentMaxSafeRequest {};
    let safe = probe.ask(async |mut node| node.tso.get_current_max_safe(request).await).await?;
    Ok(issued.max(safe.into_inner().max_safe_physical_ms))
}

fn as_ms(duration: Duration) -> u64 {
    duration.as_millis().try_into().unwrap_or(u64::MAX)
}
