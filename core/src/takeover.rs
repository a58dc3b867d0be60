//! Taking over: fence, wait, open. Each clause is there for an interleaving that breaks the order or
//! issues a timestamp twice without it.

use std::time::Duration;

use crate::{
    BootTime, Committed, Epoch, ErrorKind, NodeId, Reject,
    asked::{self, nonsense},
    clock::Now,
    engine::{Ended, Phase, Shared},
    pace::Pace,
    reign::{Queues, Reign},
    state::{Command, ReignRecord, Reply, millis},
    window::{MAX_HIGH_WATER_MS, Window},
};

/// First and longest pause before a failed commit is tried again.
pub(crate) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(500));

/// What a fence reserved.
pub(crate) struct Fenced {
    floor_ms: u64,
    high_water_ms: u64,
    pace: Pace,
}

/// Fences every older epoch, then waits until the replaced reign's lease has certainly run out.
pub(crate) async fn fence_and_wait(shared: &Shared, epoch: Epoch) -> Result<Fenced, Ended> {
    let options = &shared.options;
    let fence = |now: Now| {
        vec![Command::Fence {
            now_ms: now.wall_ms,
            headroom_ms: millis(options.failover_advance),
            lease_ms: options.lease_ms(),
        }]
    };
    let (committed, began) = persist(shared, epoch, fence).await?;
    let replied = shared.clock.now().boot;
    let [Ok(Reply::Fenced { floor_ms, high_water_ms, replaced })] = &committed.results[..] else {
        return Err(Ended::Failed(nonsense("a fence", &committed.results)));
    };
    // The floor lies above all that anyone was granted, as far as this node knows, and not below the
    // wall clock.
    let replaced_ms = replaced.as_ref().map_or(0, |old| old.high_water_ms);
    let granted_ms = replaced_ms.max(shared.promised_ms());
    let is_above = *floor_ms > granted_ms || (replaced.is_none() && granted_ms == 0);
    let is_later = replaced.as_ref().is_none_or(|old| old.epoch <= epoch);
    let is_window = *floor_ms >= began.wall_ms
        && floor_ms <= high_water_ms
        && *high_water_ms <= MAX_HIGH_WATER_MS;
    if !is_above || !is_later || !is_window {
        let asked = format!("a fence of epoch {epoch}, after {granted_ms} ms were reached,");
        return Err(Ended::Failed(nonsense(&asked, &committed.results)));
    }
    shared.promise(*high_water_ms);
    let pace = Pace::new(began, *floor_ms, options.max_clock_step, options.max_ahead);
    // An observation cannot lie ahead; a driver that says so gains nothing by it.
    let since = committed.replaced_seen.unwrap_or(replied).min(replied);
    if let Some(until) = lease_end(replaced.as_ref(), shared.driver.node(), since) {
        tracing::info!(%epoch, wait = ?until.since(replied), "waiting out the lease before ours");
        shared.clock.sleep_until(until).await;
    }
    Ok(Fenced { floor_ms: *floor_ms, high_water_ms: *high_water_ms, pace })
}

/// When the lease of the replaced reign has run out on any clock that runs within 10 % of ours,
/// given that it was last renewed before `since`. `None` if nobody can be serving under it.
fn lease_end(replaced: Option<&ReignRecord>, node: NodeId, since: BootTime) -> Option<BootTime> {
    let replaced = replaced?;
    let opened_by = replaced.opened_by?;
    // An earlier process of this node is dead, since this one holds its lock; and an earlier reign
    // of this process was closed before the claim was followed.
    if replaced.released || opened_by == node {
        return None;
    }
    let lease = Duration::from_millis(replaced.lease_ms);
    Some(since + lease + lease / 10 + Duration::from_millis(1))
}

/// Opens the fenced reign. Its deadline counts from before the commit was begun.
pub(crate) async fn open(
    shared: &Shared,
    epoch: Epoch,
    fenced: Fenced,
    queues: Queues,
) -> Result<Reign, Ended> {
    let options = &shared.options;
    let high_water_ms = |now: Now| {
        let wall_ms = fenced.pace.follow(now).wall_ms.max(fenced.floor_ms);
        MAX_HIGH_WATER_MS
            .min(wall_ms.saturating_add(millis(options.window_ahead)))
            .max(fenced.high_water_ms)
    };
    let commands = |now: Now| {
        vec![
            Command::Open { node: shared.driver.node(), lease_ms: options.lease_ms() },
            Command::Extend { high_water_ms: high_water_ms(now), elapsed_ms: 0 },
        ]
    };
    let (committed, began) = persist(shared, epoch, commands).await?;
    let [Ok(Reply::Opened), Ok(Reply::Extended { high_water_ms: stored_ms })] =
        committed.results[..]
    else {
        return Err(Ended::Failed(nonsense("an open", &committed.results)));
    };
    let ceiling_ms = high_water_ms(began);
    shared.promise(stored_ms);
    let window = Window::new(fenced.floor_ms, ceiling_ms);
    Ok(Reign::new(epoch, began.boot, window, fenced.pace, options, queues))
}

/// Commits until it is certain that the commands took effect, or that they never need to. Returns
/// when the attempt that succeeded began.
async fn persist(
    shared: &Shared,
    epoch: Epoch,
    commands: impl Fn(Now) -> Vec<Command>,
) -> Result<(Committed, Now), Ended> {
    let mut pause = BACKOFF.0;
    loop {
        let began = shared.clock.now();
        let error = match asked::commit(shared.driver.clone(), epoch, commands(began)).await {
            Ok(committed) => {
                match committed.results.iter().find_map(|result| result.as_ref().err()) {
                    None => return Ok((committed, began)),
                    Some(Reject::Fenced { .. }) => return Err(Ended::Fenced),
                    Some(reject) => reject.clone().into(),
                }
            }
            Err(error) if matches!(error.kind(), ErrorKind::Fatal | ErrorKind::Corrupt) => {
                return Err(Ended::Failed(error));
            }
            Err(error) => error,
        };
        tracing::warn!(%epoch, %error, "cannot take over yet; trying again");
        let trouble = Some(error.to_string().into());
        shared.enter(Phase::TakingOver { epoch, trouble });
        shared.clock.sleep(pause).await;
        pause = (pause * 2).min(BACKOFF.1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::state::Stage;

    const SINCE: BootTime = BootTime::from_nanos(5_000_000_000);

    fn replaced(opened_by: Option<NodeId>, released: bool) -> ReignRecord {
        ReignRecord {
            epoch: Epoch(4),
            stage: Stage::Open,
            high_water_ms: 7,
            lease_ms: 1_000,
            opened_by,
            released,
            session_ms: 0,
            session_base_ms: 0,
        }
    }

    #[test]
    fn anothers_lease_is_waited_out_with_a_tenth_more() {
        let until = lease_end(Some(&replaced(Some(NodeId(2)), false)), NodeId(1), SINCE);
        assert_eq!(until, Some(SINCE + Duration::from_millis(1_101)));
    }

    #[test]
    fn nobody_is_waited_for_who_cannot_be_serving() {
        assert_eq!(lease_end(None, NodeId(1), SINCE), None);
        assert_eq!(lease_end(Some(&replaced(None, false)), NodeId(1), SINCE), None);
        assert_eq!(lease_end(Some(&replaced(Some(NodeId(1)), false)), NodeId(1), SINCE), None);
        assert_eq!(lease_end(Some(&replaced(Some(NodeId(2)), true)), NodeId(1), SINCE), None);
    }
}
