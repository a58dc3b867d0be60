//! Following the driver's leadership, and leading whenever that is this node's.

use std::{future::pending, sync::Arc, time::Duration};

use tokio::sync::watch;

use super::{Ended, Phase, Shared, lead::lead, liveness, settle, space};
use crate::{Error, LeaderHint, Leadership, Reads, state::REIGN};

/// The longest pause, in leases, before a node that was fenced tries again under the same claim.
const LONGEST_REST: u32 = 16;

/// How old, in leases, the epoch may be that a follower names with its hint.
const EPOCH_AGE: u32 = 2;

/// Follows the leadership until it is stopped. Where no caller will stop the driver, since this failed
/// or the oracle was dropped, it does so: a leader that serves no more must not keep others
/// from leading.
pub(crate) async fn run(
    shared: Arc<Shared>,
    stop: watch::Receiver<bool>,
    responder: liveness::Responder,
) {
    let followed = tokio::spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move {
            tokio::select! {
                biased;
                ended = follow(&shared, stop) => ended,
                never = space::watch(&shared) => match never {},
                never = responder.answer() => match never {},
            }
        }
    });
    // Whatever ends it, a panic included, no caller goes on waiting for it.
    let ended = followed.await.unwrap_or_else(|panic| {
        Phase::Failed(format!("a panic in the engine or the driver: {panic}").into())
    });
    if let Phase::Failed(reason) = &ended {
        tracing::error!(%reason, "this node serves no more");
    }
    shared.enter(ended);
    let told_to = *stop.borrow();
    if !told_to {
        tokio::select! {
            biased;
            stopped = shared.guard.driver().shutdown() => {
                if let Err(error) = stopped {
                    tracing::warn!(error = %format_args!("{error:#}"), "the driver did not stop cleanly");
                }
            }
            () = shared.clock.sleep(shared.options.shutdown_timeout) => {}
        }
    }
}

/// Leads whenever leadership is this node's. Returns how that ended.
async fn follow(shared: &Arc<Shared>, mut stop: watch::Receiver<bool>) -> Phase {
    let mut leadership = shared.guard.driver().leadership();
    let mut rests = Rests::default();
    let (mut last_leader, mut last_claim) = (None, None);
    loop {
        let current = leadership.borrow_and_update().clone();
        if let Some(leader) = leader_of(&current)
            && last_leader.replace(leader.clone()).is_some_and(|last| last != leader)
        {
            shared.meters.leader_changes.increment(1);
        }
        let leads = matches!(current, Leadership::Leader { .. });
        let mut follows = None;
        match current {
            Leadership::Leader { claim } => {
                if last_claim.replace(claim) != Some(claim) {
                    shared.meters.elections.increment(1);
                }
                let led = lead_under(shared, claim, &mut leadership, &mut rests, &mut stop);
                if let Some(last) = led.await {
                    return last;
                }
            }
            Leadership::Follower { leader } => {
                follows = leader.clone();
                shared.enter(Phase::Following(leader));
            }
            Leadership::Unknown => shared.enter(Phase::Electing),
        }
        if !leads {
            tokio::select! {
                biased;
                changed = leadership.changed() => drop(changed),
                _ = stop.wait_for(|stop| *stop) => return Phase::Stopping,
                error = shared.guard.distrusted() => return failed(&error),
                () = name_epochs(shared, follows) => {}
            }
        }
        if leadership.has_changed().is_err() {
            // A driver that is stopped because the reign did not end in time has not failed.
            if *stop.borrow() {
                return Phase::Stopping;
            }
            return Phase::Failed(failure_reason(shared).await.into());
        }
    }
}

/// Leads under a claim until that ends, and pauses if this node may lead again. The last phase of this node if not.
async fn lead_under(
    shared: &Arc<Shared>,
    claim: u64,
    leadership: &mut watch::Receiver<Leadership>,
    rests: &mut Rests,
    stop: &mut watch::Receiver<bool>,
) -> Option<Phase> {
    shared.enter(Phase::TakingOver { epoch: None, trouble: None });
    let ended = tokio::select! {
        biased;
        ended = lead(shared, claim, rests, stop.clone()) => ended,
        () = other_than(leadership, claim) => Ended::Fenced,
        error = shared.guard.distrusted() => Ended::Failed(error),
    };
    tracing::info!(claim, ?ended, "the reign has ended");
    let moved = *leadership.borrow() != Leadership::Leader { claim };
    shared.history.end_reign(shared.clock.now(), &ended, moved);
    // While the driver still shows this claim, two nodes that both believe to lead must not fence each
    // other for ever. A transfer takes its time as well.
    let pause = match ended {
        Ended::Stopped => return Some(Phase::Stopping),
        Ended::Failed(error) => return Some(failed(&error)),
        Ended::HandedOver => shared.options.lease * LONGEST_REST,
        Ended::Fenced => rests.next(shared, claim),
    };
    shared.enter(Phase::Electing);
    tokio::select! {
        biased;
        () = other_than(leadership, claim) => None,
        _ = stop.wait_for(|stop| *stop) => Some(Phase::Stopping),
        error = shared.guard.distrusted() => Some(failed(&error)),
        () = shared.clock.sleep(pause) => None,
    }
}

fn failed(error: &Error) -> Phase {
    Phase::Failed(format!("{error:#}").into())
}

/// Who leads, if that is known: this node, or the one at an address.
fn leader_of(leadership: &Leadership) -> Option<Option<String>> {
    match leadership {
        Leadership::Leader { .. } => Some(None),
        Leadership::Follower { leader } => {
            leader.as_ref().map(|leader| Some(leader.endpoint.clone()))
        }
        Leadership::Unknown => None,
    }
}

/// Adds to the hint that this node gives the epoch of the last fence that it knows of, now and then. Never
/// returns.
async fn name_epochs(shared: &Shared, hint: Option<LeaderHint>) {
    let Some(hint) = hint.filter(|hint| hint.epoch.is_none()) else { return pending().await };
    loop {
        let read = shared.guard.read(&Reads::keys([REIGN]), shared.options.lease).await;
        let record = read.and_then(settle::reign).ok().flatten();
        let epoch = record.map(|record| record.epoch);
        let named = Phase::Following(Some(LeaderHint { epoch, ..hint.clone() }));
        if epoch.is_some() && *shared.phase.borrow() != named {
            shared.enter(named);
        }
        shared.clock.sleep(shared.options.lease * EPOCH_AGE).await;
    }
}

/// How often in a row this node was fenced under one claim, without having served.
#[derive(Default)]
pub(super) struct Rests {
    claim: Option<u64>,
    count: u32,
}

impl Rests {
    /// How long to wait before the next attempt under `claim`: a random pause, which doubles.
    fn next(&mut self, shared: &Shared, claim: u64) -> Duration {
        if self.claim != Some(claim) {
            *self = Self { claim: Some(claim), count: 0 };
        }
        let longest = shared.options.lease * LONGEST_REST;
        let pause = (shared.options.lease * 2_u32.saturating_pow(self.count)).min(longest);
        self.count = self.count.saturating_add(1);
        let share = shared.options.random.draw() as u32;
        pause.mul_f64(0.5 + f64::from(share) / f64::from(u32::MAX))
    }
}

/// Returns once leadership is anything but this claim, or its channel is closed.
async fn other_than(leadership: &mut watch::Receiver<Leadership>, claim: u64) {
    let claim = Leadership::Leader { claim };
    // An error means that the channel is closed, which is not leading either.
    let _ = leadership.wait_for(|now| *now != claim).await;
}

/// A driver whose leadership is over for good usually knows why, and answers so soon or never.
async fn failure_reason(shared: &Shared) -> String {
    match shared.guard.read(&Reads::default(), shared.options.lease).await {
        Err(error) => format!("{error:#}"),
        Ok(_) => "the driver's leadership channel is closed".into(),
    }
}
