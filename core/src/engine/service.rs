//! Serving: the loop of an open reign. One commit is in flight at a time; it renews the lease when
//! that is due, and takes along every request that has arrived.

mod clock;
mod expiry;
mod release;

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use super::{
    Ended, Shared,
    ahead::Ahead,
    backlog::Backlog,
    group::{Answers, Group, Planner},
    handover::Handover,
    lasting::{Lasting, caught},
    pending::Pending,
    reign::Reign,
    resign::Struggle,
    settle::{self, Verdict},
    shares::Shares,
    takeover::BACKOFF,
    taps::{TapRequest, Taps},
    wall_clock::WallClock,
};
use crate::{
    BootTime, Error, ErrorKind, Now, Result,
    state::{Command, WorkingSet},
};

/// How often an idle leader looks at the wall clock, without writing anything.
const CLOCK_WATCH: Duration = Duration::from_secs(10);

/// An open reign at work.
pub(crate) struct Service<'a> {
    shared: &'a Arc<Shared>,
    reign: &'a Arc<Reign>,
    planner: Planner<'a>,
    arrivals: Arrivals,
    backlog: Backlog,
    /// Why the reign is to end, unless this node stops.
    handover: Option<Handover>,
    /// A renewal cannot wait for its time.
    renew_now: bool,
    renew_at: BootTime,
    last_busy: BootTime,
    expire_at: BootTime,
    pause: Duration,
    struggle: Struggle,
    /// What the wall clock was thought of, the last time.
    clock: WallClock,
    taps: Taps,
}

/// What comes in while a reign is open.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(crate) requests: mpsc::UnboundedReceiver<Pending>,
    pub(crate) handovers: mpsc::UnboundedReceiver<Handover>,
    pub(crate) taps: mpsc::UnboundedReceiver<TapRequest>,
}

impl<'a> Service<'a> {
    pub(crate) fn new(
        shared: &'a Arc<Shared>,
        struggle: Struggle,
        reign: &'a Arc<Reign>,
        known: WorkingSet,
        arrivals: Arrivals,
    ) -> Self {
        Self {
            shared,
            reign,
            planner: Planner {
                shared,
                reign,
                known,
                shares: Shares::new(
                    shared.options.limits,
                    shared.space.clone(),
                    shared.meters.used.clone(),
                    shared.refusals.clone(),
                    shared.used.clone(),
                ),
                reads_ahead: false,
                ahead: Ahead::default(),
            },
            arrivals,
            backlog: Backlog::default(),
            handover: None,
            renew_now: false,
            renew_at: reign.opened + shared.options.renewal(),
            last_busy: reign.opened,
            expire_at: reign.opened,
            pause: BACKOFF.0,
            struggle,
            clock: WallClock::Followed,
            taps: Taps::default(),
        }
    }

    /// Serves until stopped, fenced or failed, or until leadership is to be handed over.
    pub(crate) async fn run(mut self, stop: &mut watch::Receiver<bool>) -> Ended {
        self.watch_clock(self.shared.clock.now());
        while self.next_work(stop).await {
            if let Err(ended) = self.commit_group().await {
                return ended;
            }
        }
        self.release(stop).await
    }

    /// Waits until there is something to do; false once it is time to release.
    async fn next_work(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        // An oracle that was dropped stops as well.
        if *stop.borrow() || stop.has_changed().is_err() {
            return false;
        }
        if let Ok(handover) = self.arrivals.handovers.try_recv() {
            return !self.is_to_hand_over(handover);
        }
        // A renewal that failed is tried again at once: its time may be far off, and those who want
        // it have logged that already.
        if self.renew_now || !self.backlog.is_empty() || !self.planner.ahead.is_empty() {
            self.take_arrived();
            return true;
        }
        let now = self.shared.clock.now();
        let lively = self.is_lively(now);
        let lease_end = Some(self.reign.deadline()).filter(|end| now.boot < *end);
        let timer = match lively {
            true => self.renew_at,
            // The gauge follows the lease of one that is idle, too.
            false => lease_end.unwrap_or(now.boot + CLOCK_WATCH),
        };
        // The reign holds the senders, so the queues stay open as long as this loop runs.
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return false,
            Some(handover) = self.arrivals.handovers.recv() => {
                return !self.is_to_hand_over(handover);
            }
            () = self.reign.wanted() => self.renew_now = true,
            Some(arrived) = self.arrivals.requests.recv() => self.backlog.push(arrived),
            Some(request) = self.arrivals.taps.recv() => self.taps.attach(request),
            () = self.shared.clock.sleep_until(timer) => {
                if !lively {
                    let now = self.shared.clock.now();
                    let left = self.reign.lease_left(now.boot);
                    self.shared.meters.lease_left.set(left.as_secs_f64());
                    self.watch_clock(now);
                    // Or else the clock of a successor would seem to be far ahead.
                    self.renew_now |= self.reign.is_stale(now, self.shared.options.max_clock_jump / 4);
                }
            }
        }
        self.take_arrived();
        true
    }

    fn take_arrived(&mut self) {
        while let Ok(arrived) = self.arrivals.requests.try_recv() {
            self.backlog.push(arrived);
        }
        // No commit is in flight here, so that a tap misses none.
        while let Ok(request) = self.arrivals.taps.try_recv() {
            self.taps.attach(request);
        }
    }

    /// Gathers what is due into one commit, and acts on its outcome.
    async fn commit_group(&mut self) -> Result<(), Ended> {
        let expiries = self.expiries().await;
        let now = self.shared.clock.now();
        if self.reign.take_busy() {
            self.last_busy = now.boot;
        }
        let due = self.is_lively(now) && now.boot >= self.renew_at;
        let renewal = (self.renew_now || due).then(|| (self.next_high_water(now), now));
        if renewal.is_some() {
            self.struggle.attempt(now.boot);
        }
        self.commit(renewal, expiries, now).await
    }

    /// Plans and commits one group, with a renewal up to a high-water if there is one.
    async fn commit(
        &mut self,
        renewal: Option<(u64, Now)>,
        expiries: Vec<Command>,
        now: Now,
    ) -> Result<(), Ended> {
        let at = self.planner.moment(now);
        let mut own = Vec::new();
        if let Some((high_water_ms, _)) = renewal {
            own.push(Command::Extend { high_water_ms, elapsed_ms: at.elapsed_ms });
        }
        own.extend(expiries);
        let (group, mut dealt) = self.take_ahead();
        dealt.extend(self.backlog.deal());
        let planning = self.planner.complete(group, &own, &mut dealt, at);
        let group = match self.struggle.watch(self.shared, Some(self.reign), planning).await {
            Ok(group) => group,
            Err(error) => {
                // Nothing of it was submitted.
                dealt.into_iter().chain(self.backlog.drain()).for_each(|call| call.fail(&error));
                return self.failed(renewal.is_some(), error).await;
            }
        };
        if group.is_fenced() {
            self.backlog.put_back(dealt);
            return Err(Ended::Fenced);
        }
        self.renew_now |= renewal.is_some();
        let renewal = renewal.filter(|_| group.has_renewal());
        if group.commands() == 0 {
            self.backlog.put_back(dealt);
            return Ok(());
        }
        if group.is_empty() && !self.reign.leads_at(self.shared.clock.now().boot) {
            // What is answered without a commit may be out of date by now, until a renewal is stored.
            self.renew_now = true;
            self.backlog.put_back(dealt);
            return Ok(());
        }
        match self.store(group, dealt).await? {
            Ok(()) => self.stored(renewal),
            Err(error) => self.failed(renewal.is_some(), error).await?,
        }
        Ok(())
    }

    /// Stores a group, to the end, so that the callers learn what became of their requests even if this
    /// reign is over by then.
    async fn store(
        &mut self,
        group: Group,
        mut dealt: VecDeque<Pending>,
    ) -> Result<Result<()>, Ended> {
        let base = self.planner.known.version();
        let next = base.next(self.shared.options.random.draw()).map_err(Ended::Failed)?;
        let is_empty = group.is_empty();
        let commands = group.commands() as u64;
        let (effect, writes, answers) = group.submit(&mut dealt, next);
        let tapped = self.taps.copy(&effect);
        self.backlog.put_back(dealt);
        if is_empty {
            self.shared.meters.commands.increment(commands);
            answers.reply(self.reign);
            // Nothing was waited for: a client that is refused again and again must not hold the thread.
            tokio::task::yield_now().await;
            return Ok(Ok(()));
        }
        let (shared, reign) = (self.shared.clone(), self.reign.clone());
        let storing = Lasting::new(async move {
            let limit = shared.options.lease;
            let is_open = || !reign.is_closed();
            match caught(settle::commit(&shared, base, effect, limit, is_open)).await {
                Ok(verdict) => {
                    answer(answers, &verdict, &reign);
                    verdict
                }
                // The callers learn that the outcome is uncertain, since their answers are dropped.
                Err(panic) => Verdict::Failed(shared.guard.panicked_in_commit(panic)),
            }
        });
        let (requests, backlog) = (&mut self.arrivals.requests, &mut self.backlog);
        // A renewal that had no room goes first.
        let plans_ahead = !self.renew_now;
        let storing =
            self.planner.committed((next, writes), requests, backlog, plans_ahead, storing);
        let verdict = self.struggle.watch(self.shared, Some(self.reign), storing).await;
        match (&verdict, &tapped) {
            (Verdict::Stored, Some(effect)) => self.taps.stored(base, effect),
            (Verdict::Stored, None) => {}
            _ => self.taps.lose(),
        }
        let meters = &self.shared.meters;
        match verdict {
            Verdict::Stored => {
                meters.commits.increment(1);
                meters.commands.increment(commands);
            }
            Verdict::Conflict(_) => meters.conflicts.increment(1),
            Verdict::NotStored(_) | Verdict::Unknown(_) | Verdict::Failed(_) => {
                meters.failures.increment(1);
            }
        }
        if commands > 1 {
            // Its callers are about to ask again, together.
            tokio::task::yield_now().await;
        }
        self.act_on(verdict).await
    }

    async fn act_on(&mut self, verdict: Verdict) -> Result<Result<()>, Ended> {
        if matches!(verdict, Verdict::Stored) {
            return Ok(Ok(()));
        }
        // Whatever was planned on is read again, and what was planned on it is planned again.
        self.drop_plans();
        let is_ours = match verdict {
            Verdict::Conflict(found) => {
                let looking = self.planner.is_ours(found);
                self.struggle.watch(self.shared, Some(self.reign), looking).await
            }
            _ => false,
        };
        match verdict {
            Verdict::Conflict(_) if is_ours => {
                let context = "an earlier commit of this reign was stored late";
                Ok(Err(Error::new(ErrorKind::Unavailable, context)))
            }
            Verdict::Conflict(_) | Verdict::Stored => Err(Ended::Fenced),
            Verdict::Failed(error) => Err(Ended::Failed(error)),
            Verdict::NotStored(error) | Verdict::Unknown(error) => Ok(Err(error)),
        }
    }

    /// What was worked out ahead, unless some caller has given up since: nothing is spent for it.
    fn take_ahead(&mut self) -> (Group, VecDeque<Pending>) {
        let (group, dealt) = self.planner.ahead.take();
        if !dealt.iter().any(Pending::is_abandoned) {
            return (group, dealt);
        }
        self.backlog.put_back(dealt);
        Default::default()
    }

    /// Forgets what is known, and has planned again what was worked out on it.
    fn drop_plans(&mut self) {
        let (_, dealt) = self.planner.ahead.take();
        self.backlog.put_back(dealt);
        self.planner.forget();
    }

    /// Acts on a commit that was stored.
    fn stored(&mut self, renewal: Option<(u64, Now)>) {
        self.pause = BACKOFF.0;
        let Some((high_water_ms, began)) = renewal else { return };
        let (lease, now) = (self.shared.options.lease, self.shared.clock.now());
        self.struggle.succeed(now.boot);
        self.shared.resignations.forget(lease);
        self.shared.reserve(high_water_ms);
        self.reign.extend(high_water_ms, began.boot, lease);
        self.renew_at = began.boot + self.shared.options.renewal();
        self.renew_now = false;
        self.shared.meters.lease_left.set(self.reign.lease_left(now.boot).as_secs_f64());
        self.shared.renewed(self.reign.epoch);
        // Those who wait for the extension look again.
        self.shared.look_again();
    }

    /// Pauses after a commit that was not stored, or is not known to be.
    async fn failed(&mut self, renewal: bool, error: Error) -> Result<(), Ended> {
        if error.is_final() {
            return Err(Ended::Failed(error));
        }
        tracing::warn!(epoch = %self.reign.epoch, error = %format_args!("{error:#}"), "a commit failed");
        self.renew_now |= renewal;
        let pausing = self.shared.clock.sleep(self.pause);
        self.struggle.watch(self.shared, Some(self.reign), pausing).await;
        self.pause = (self.pause * 2).min(BACKOFF.1);
        Ok(())
    }

    fn is_lively(&self, now: Now) -> bool {
        now.boot < self.last_busy + self.shared.options.idle_after()
    }
}

/// Tells the callers what became of their requests.
fn answer(answers: Answers, verdict: &Verdict, reign: &Reign) {
    match settle::caller_error(verdict) {
        None => answers.reply(reign),
        Some(error) => answers.fail(&error),
    }
}
