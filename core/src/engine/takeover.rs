//! Taking over: fence, wait, open. Each clause is there for an interleaving that breaks the order or
//! issues a timestamp twice without it.

use std::time::Duration;

use super::{
    Ended, Phase, Shared,
    clock_guard::ClockGuard,
    reign::{Queues, Reign},
    resign::{Struggle, resign},
    wall_clock::{Bounds, Evidence, Judgement, WallClock},
    window::{MAX_HIGH_WATER_MS, Window},
};
use crate::{
    BootTime, Epoch, Error, ErrorKind, NodeId, Now, Outcome, Reads, Reject, Result, Version,
    state::{
        AHEAD_STEP_MS, Command, META, Plan, REIGN, Record, ReignRecord, Reply, View, WorkingSet,
        millis,
    },
};

/// First and longest pause before a failed commit is tried again.
pub(crate) const BACKOFF: (Duration, Duration) =
    (Duration::from_millis(20), Duration::from_millis(500));

/// How long a read may take before it is made again.
const READ: Duration = Duration::from_secs(2);

/// What a fence has reserved, and the state that it left.
pub(crate) struct Fenced {
    pub(crate) epoch: Epoch,
    /// What has made this node take over, as far as the state tells.
    pub(crate) cause: String,
    floor_ms: u64,
    high_water_ms: u64,
    clock_guard: ClockGuard,
    known: WorkingSet,
}

/// A step that is stored: what it was answered, when its commit began, and the state that it left.
struct Step {
    replies: Vec<Reply>,
    began: Now,
    known: WorkingSet,
}

/// A commit whose outcome is not known: the version that it makes, if it is stored.
struct Attempt {
    next: Version,
    replies: Vec<Reply>,
    began: Now,
}

/// The steps from a claim to an open reign.
pub(crate) struct Takeover<'a> {
    shared: &'a Shared,
    claim: u64,
    struggle: Struggle,
    pause: Duration,
}

impl<'a> Takeover<'a> {
    pub(crate) fn new(shared: &'a Shared, claim: u64) -> Self {
        Self { shared, claim, struggle: Struggle::under(claim), pause: BACKOFF.0 }
    }

    /// Fences every older epoch, then waits until the replaced reign's lease has certainly run out.
    pub(crate) async fn fence_and_wait(&mut self) -> Result<Fenced, Ended> {
        let (shared, options) = (self.shared, &self.shared.options);
        let fence = |present: &WorkingSet, now: Now| {
            let Judgement { clock, time_ms, .. } = judge(shared, reign(present), now)?;
            let headroom_ms = millis(options.failover_advance);
            Ok(vec![Command::Fence {
                base: present.version(),
                now_ms: time_ms,
                headroom_ms: match clock {
                    WallClock::Followed => headroom_ms,
                    _ => headroom_ms.min(AHEAD_STEP_MS),
                },
                lease_ms: options.lease_ms(),
            }])
        };
        let started = shared.clock.now().boot;
        let step = self.step(Epoch::default(), None, fence).await?;
        let stored = shared.clock.now().boot;
        shared.meters.fence_duration.record(stored.since(started).as_secs_f64());
        let Step { replies, began, known } = step;
        let [Reply::Fenced { epoch, floor_ms, high_water_ms, replaced }] = &replies[..] else {
            return Err(unplanned("a fence", &replies));
        };
        let (epoch, floor_ms, high_water_ms) = (*epoch, *floor_ms, *high_water_ms);
        // What was reserved here before is stored, so the state would have gone back.
        let reserved_ms = shared.reserved_ms();
        if reserved_ms > 0 && floor_ms <= reserved_ms {
            let context = format!(
                "the state allows timestamps from {floor_ms} ms on, though they were reserved up to \
                 {reserved_ms} ms before; it has lost commits"
            );
            return Err(Ended::Failed(Error::new(ErrorKind::Corrupt, context)));
        }
        shared.reserve(high_water_ms);
        shared.enter(Phase::TakingOver { epoch: Some(epoch), trouble: None });
        let driver = shared.guard.driver();
        let replaced = replaced.as_deref();
        // A record of before there were versions was written by a commit that has no name.
        let named = replaced.map(|old| &old.version).filter(|version| **version != Version::EMPTY);
        // An observation cannot lie ahead; a driver that says so gains nothing by it.
        let since = named.and_then(|version| driver.seen(version)).unwrap_or(stored).min(stored);
        if let Some(until) = lease_end(replaced, driver.node(), since) {
            let wait = until.since(stored);
            tracing::info!(%epoch, ?wait, "waiting until the lease of the reign before has run out");
            shared.clock.sleep_until(until).await;
        }
        let waited = shared.clock.now().boot.since(stored);
        shared.meters.wait_duration.record(waited.as_secs_f64());
        let judged = judge(shared, replaced, began).map_err(Ended::Failed)?;
        let clock_guard = ClockGuard::new(Bounds::from(options), judged, began, floor_ms);
        let cause = cause(replaced, driver.node());
        Ok(Fenced { epoch, cause, floor_ms, high_water_ms, clock_guard, known })
    }

    /// Opens the fenced reign, and reserves a full window. Its deadline counts from before the commit was
    /// begun. Returns the state as well, as it is known then.
    pub(crate) async fn open(
        &mut self,
        fenced: Fenced,
        queues: Queues,
    ) -> Result<(Reign, WorkingSet), Ended> {
        let (shared, options) = (self.shared, &self.shared.options);
        let Fenced { epoch, floor_ms, high_water_ms, clock_guard, known, .. } = fenced;
        let window = clock_guard.window_ms(millis(options.window_ahead));
        let ceiling_ms = |now: Now| {
            let wall_ms = clock_guard.follow(now).wall_ms;
            MAX_HIGH_WATER_MS.min(wall_ms.saturating_add(window)).max(high_water_ms)
        };
        let open = |_: &WorkingSet, now: Now| {
            let node = shared.guard.driver().node();
            Ok(vec![
                Command::Open { node, lease_ms: options.lease_ms() },
                Command::Extend { high_water_ms: ceiling_ms(now), elapsed_ms: 0 },
            ])
        };
        let started = shared.clock.now().boot;
        let Step { replies, began, known } = self.step(epoch, Some(known), open).await?;
        let opened = shared.clock.now().boot;
        shared.meters.open_duration.record(opened.since(started).as_secs_f64());
        let [Reply::Opened, Reply::Extended { high_water_ms: stored_ms }] = replies[..] else {
            return Err(unplanned("an open", &replies));
        };
        shared.reserve(stored_ms);
        let window = Window::new(floor_ms, ceiling_ms(began));
        Ok((Reign::new(epoch, began.boot, window, clock_guard, options, queues), known))
    }

    /// How commits went so far under this claim.
    pub(crate) fn into_struggle(self) -> Struggle {
        self.struggle
    }

    /// Works out commands on the present state and commits them, again until the state tells that they
    /// were stored, or that another epoch has taken over.
    async fn step(
        &mut self,
        epoch: Epoch,
        mut known: Option<WorkingSet>,
        commands: impl Fn(&WorkingSet, Now) -> Result<Vec<Command>>,
    ) -> Result<Step, Ended> {
        let mut attempts: Vec<Attempt> = Vec::new();
        loop {
            self.struggle.attempt(self.shared.clock.now().boot);
            let present = match known.take() {
                Some(known) => known,
                None => match self.struggle.watch(self.shared, None, read(self.shared)).await {
                    Ok(known) => known,
                    Err(error) => {
                        self.again(error).await?;
                        continue;
                    }
                },
            };
            // An attempt whose answer was lost may have been stored.
            let written_by = reign(&present).map(|record| record.version);
            if let Some(landed) = attempts.iter().position(|made| Some(made.next) == written_by) {
                let Attempt { replies, began, .. } = attempts.swap_remove(landed);
                self.succeed();
                return Ok(Step { replies, began, known: present });
            }
            let began = self.shared.clock.now();
            let commands = match commands(&present, began) {
                Ok(commands) => commands,
                Err(error) => {
                    self.again(error).await?;
                    continue;
                }
            };
            let (replies, plan) = match self.plan(epoch, &present, &commands)? {
                Ok(planned) => planned,
                Err(reject) => {
                    self.again(reject.into()).await?;
                    continue;
                }
            };
            let base = present.version();
            let next = base.next(self.shared.options.random.draw()).map_err(Ended::Failed)?;
            let (effect, writes) = plan.finish(next);
            let committing = self.shared.guard.commit(base, effect);
            match self.struggle.watch(self.shared, None, committing).await {
                Ok(Outcome::Stored) => {
                    self.succeed();
                    let mut known = present;
                    known.advance(next, writes);
                    return Ok(Step { replies, began, known });
                }
                Ok(Outcome::Conflict { found }) => {
                    let context = format!("the state has moved on to {found:?}");
                    self.again(Error::new(ErrorKind::Unavailable, context)).await?;
                }
                Err(error) => {
                    attempts.push(Attempt { next, replies, began });
                    self.again(error).await?;
                }
            }
        }
    }

    /// # Errors
    /// That the reign is over.
    fn plan(
        &self,
        epoch: Epoch,
        known: &WorkingSet,
        commands: &[Command],
    ) -> Result<Result<(Vec<Reply>, Plan), Reject>, Ended> {
        let limits = self.shared.guard.driver().limits();
        let (mut plan, mut replies) = (Plan::default(), Vec::new());
        for command in commands {
            match plan.add(known, epoch, command, limits).map_err(Ended::Failed)? {
                Some(Ok(reply)) => replies.push(reply),
                Some(Err(Reject::Fenced { .. })) => return Err(Ended::Fenced),
                Some(Err(reject)) => {
                    if matches!(reject, Reject::NewerRules { .. }) {
                        // This release never leads over such a state: another one may.
                        resign(self.shared, self.claim);
                    }
                    return Ok(Err(reject));
                }
                None => {
                    let context = format!("the driver takes less than a fence: {limits:?}");
                    return Err(Ended::Failed(Error::new(ErrorKind::Fatal, context)));
                }
            }
        }
        Ok(Ok((replies, plan)))
    }

    fn succeed(&mut self) {
        self.struggle.succeed(self.shared.clock.now().boot);
        self.pause = BACKOFF.0;
    }

    /// Pauses before another attempt.
    ///
    /// # Errors
    /// The one given, if another attempt is of no use.
    async fn again(&mut self, error: Error) -> Result<(), Ended> {
        if error.is_final() {
            return Err(Ended::Failed(error));
        }
        tracing::warn!(claim = self.claim, error = %format_args!("{error:#}"), "cannot take over yet; trying again");
        let trouble = Some(format!("{error:#}").into());
        self.shared.enter(Phase::TakingOver { epoch: None, trouble });
        self.struggle.watch(self.shared, None, self.shared.clock.sleep(self.pause)).await;
        self.pause = (self.pause * 2).min(BACKOFF.1);
        Ok(())
    }
}

/// The part of the state that every step rests on.
async fn read(shared: &Shared) -> Result<WorkingSet> {
    let reads = Reads::keys([REIGN, META]);
    let snapshot = shared.guard.read(&reads, READ.max(shared.options.lease)).await?;
    let mut known = WorkingSet::at(snapshot.version);
    known.learn(reads, snapshot)?;
    Ok(known)
}

fn reign(known: &WorkingSet) -> Option<&ReignRecord> {
    match known.get(REIGN) {
        Ok(Some(Record::Reign(record))) => Some(record),
        _ => None,
    }
}

/// What is thought of the wall clock of this node, beside the record that a fence replaces, and the clocks of
/// the peers.
///
/// # Errors
/// `Unavailable` for a clock that was never set, if nothing else tells the time: what is issued in 1970 is of no use,
/// and the clock will leap.
fn judge(shared: &Shared, replaced: Option<&ReignRecord>, now: Now) -> Result<Judgement> {
    let driver = shared.guard.driver();
    let stored_ms = replaced.and_then(|old| {
        if old.epoch == Epoch::default() {
            // It was only initialized, which says from where on timestamps are to be, and not what time it was.
            return Some(old.high_water_ms).filter(|high_water_ms| now.wall_ms < *high_water_ms);
        }
        let named = Some(&old.version).filter(|version| **version != Version::EMPTY);
        let seen = named.and_then(|version| driver.seen(version));
        let passed = seen.map_or(0, |since| millis(now.boot.since(since)));
        let renewed_ms = old.high_water_ms.saturating_sub(millis(shared.options.window_ahead));
        Some(old.high_water_ms.max(renewed_ms.saturating_add(passed)))
    });
    let evidence = Evidence { stored_ms, peers_ms: driver.peer_clocks(now.boot) };
    Bounds::from(&shared.options).judge(now.wall_ms, &evidence).ok_or_else(|| {
        let context = format!(
            "the wall clock of this machine was never set: it shows {} ms since 1970; set it right, and this \
             node will serve",
            now.wall_ms
        );
        Error::new(ErrorKind::Unavailable, context)
    })
}

/// What has made this node take over from the reign that it replaces, in words.
fn cause(replaced: Option<&ReignRecord>, node: NodeId) -> String {
    match replaced {
        None => "the state is new".into(),
        Some(old) if old.opened_by.is_none() => "the state was never served".into(),
        Some(old) if old.released && old.opened_by == Some(node) => {
            "this node had led before, and released its lease".into()
        }
        Some(old) if old.released => {
            "the leader before had released its lease: it was stopped, or leadership was transferred".into()
        }
        Some(old) if old.opened_by == Some(node) => {
            "this node had led before, without releasing its lease: it was restarted, or elected again".into()
        }
        Some(old) => format!(
            "the leader before had not released its lease: it was killed, cut off, or could not commit; its lease of \
             {} ms was waited for",
            old.lease_ms
        ),
    }
}

/// When the lease of the replaced reign has run out on any clock that runs within 10 % of ours,
/// given that it was last renewed before `since`. `None` if no node can be serving under it.
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

/// A reply that no rule gives to what was planned, which would be a bug.
fn unplanned(asked: &str, replies: &[Reply]) -> Ended {
    let context = format!("{asked} was answered {replies:?}");
    Ended::Failed(Error::new(ErrorKind::Fatal, context))
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
            version: Version::EMPTY,
            fenced_on: Version::EMPTY,
        }
    }

    #[test]
    fn anothers_lease_is_waited_out_with_a_tenth_more() {
        let until = lease_end(Some(&replaced(Some(NodeId(2)), false)), NodeId(1), SINCE);
        assert_eq!(until, Some(SINCE + Duration::from_millis(1_101)));
    }

    #[test]
    fn no_node_is_waited_for_that_cannot_be_serving() {
        assert_eq!(lease_end(None, NodeId(1), SINCE), None);
        assert_eq!(lease_end(Some(&replaced(None, false)), NodeId(1), SINCE), None);
        assert_eq!(lease_end(Some(&replaced(Some(NodeId(1)), false)), NodeId(1), SINCE), None);
        assert_eq!(lease_end(Some(&replaced(Some(NodeId(2)), true)), NodeId(1), SINCE), None);
    }
}
