//! Serving: the loop of an open reign. One commit is in flight at a time; it renews the lease when
//! that is due, and takes along every sequence request that has arrived.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use tokio::sync::{mpsc, watch};

use crate::{
    BootTime, Error, ErrorKind, Reject, Result, Session,
    asked::{Asked, panicked},
    clock::Now,
    engine::{Ended, Phase, Shared},
    errand::Errand,
    group::{Group, Pending, answer_all},
    handover::Handover,
    reign::Reign,
    state::{Answer, Command, Moment, Query, millis},
    takeover::BACKOFF,
};

/// How often an idle leader looks at the wall clock, without writing anything.
const CLOCK_WATCH: Duration = Duration::from_secs(10);

/// How many expired sessions one command looks at.
const EXPIRE_SESSIONS: usize = 16;

/// An open reign at work.
pub(crate) struct Service<'a> {
    shared: &'a Shared,
    reign: &'a Arc<Reign>,
    arrivals: Arrivals,
    pending: VecDeque<Pending>,
    errands: VecDeque<Errand>,
    /// Why the reign is to end, unless this node stops.
    handover: Option<Handover>,
    /// A renewal cannot wait for its time.
    renew_now: bool,
    renew_at: BootTime,
    last_busy: BootTime,
    expire_at: BootTime,
    pause: Duration,
    /// The wall clock is not believed at the moment.
    leapt: bool,
}

/// What comes in while a reign is open.
#[derive(Debug)]
pub(crate) struct Arrivals {
    pub(crate) sequences: mpsc::UnboundedReceiver<Pending>,
    pub(crate) errands: mpsc::UnboundedReceiver<Errand>,
    pub(crate) handovers: mpsc::UnboundedReceiver<Handover>,
}

/// What a commit brought for the engine itself.
struct Outcome {
    /// Some command was refused as of an epoch that is over.
    fenced: bool,
}

impl<'a> Service<'a> {
    pub(crate) fn new(shared: &'a Shared, reign: &'a Arc<Reign>, arrivals: Arrivals) -> Self {
        Self {
            shared,
            reign,
            arrivals,
            pending: VecDeque::new(),
            errands: VecDeque::new(),
            handover: None,
            renew_now: false,
            renew_at: reign.opened + shared.options.renewal(),
            last_busy: reign.opened,
            expire_at: reign.opened,
            pause: BACKOFF.0,
            leapt: false,
        }
    }

    /// Serves until stopped, fenced or failed, or until the lead is to be handed over.
    pub(crate) async fn run(mut self, stop: &mut watch::Receiver<bool>) -> Ended {
        while self.next_work(stop).await {
            if let Err(ended) = self.commit_group().await {
                return ended;
            }
        }
        self.release(stop).await
    }

    /// Waits until there is something to do; false once it is time to release.
    async fn next_work(&mut self, stop: &mut watch::Receiver<bool>) -> bool {
        if *stop.borrow() {
            return false;
        }
        if let Ok(handover) = self.arrivals.handovers.try_recv() {
            return !self.is_to_hand_over(handover);
        }
        // A renewal that failed is tried again at once: its time may be far off, and those who want
        // it have said so already.
        if self.renew_now || !self.pending.is_empty() || !self.errands.is_empty() {
            return true;
        }
        let now = self.shared.clock.now();
        let lively = self.is_lively(now);
        let timer = if lively { self.renew_at } else { now.boot + CLOCK_WATCH };
        let most = self.shared.driver.limits().commands.max(1);
        let (mut arrived, mut errands) = (Vec::new(), Vec::new());
        // The reign holds the senders, so the queues stay open as long as this loop runs.
        tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return false,
            Some(handover) = self.arrivals.handovers.recv() => {
                return !self.is_to_hand_over(handover);
            }
            () = self.reign.wanted() => self.renew_now = true,
            _ = self.arrivals.sequences.recv_many(&mut arrived, most) => {
                self.pending.extend(arrived);
            }
            _ = self.arrivals.errands.recv_many(&mut errands, most) => self.errands.extend(errands),
            () = self.shared.clock.sleep_until(timer) => {
                if !lively {
                    self.watch_clock(self.shared.clock.now());
                }
            }
        }
        // Whatever came on the other queue meanwhile goes along.
        while let Ok(errand) = self.arrivals.errands.try_recv() {
            self.errands.push_back(errand);
        }
        while self.pending.len() < most
            && let Ok(pending) = self.arrivals.sequences.try_recv()
        {
            self.pending.push_back(pending);
        }
        true
    }

    /// Gathers what is due into one commit, and acts on its outcome.
    async fn commit_group(&mut self) -> Result<(), Ended> {
        let limits = self.shared.driver.limits();
        if limits.commands == 0 || limits.bytes == 0 {
            let context = format!("the driver says that a commit takes nothing: {limits:?}");
            return Err(Ended::Failed(Error::new(ErrorKind::Fatal, context)));
        }
        let expired = self.expired_sessions().await;
        let now = self.shared.clock.now();
        if self.reign.take_busy() {
            self.last_busy = now.boot;
        }
        let mut group = Group::default();
        let due = self.is_lively(now) && now.boot >= self.renew_at;
        let renewal = (self.renew_now || due).then(|| self.next_high_water(now));
        let elapsed_ms = millis(now.boot.since(self.reign.opened));
        if let Some(high_water_ms) = renewal {
            group.commands.push(Command::Extend { high_water_ms, elapsed_ms });
        }
        if !expired.is_empty() {
            group.commands.push(Command::Expire { sessions: expired });
        }
        let moment = self.moment(now);
        group.run_errands(&mut self.errands, limits, moment);
        group.fill(&mut self.pending, limits, elapsed_ms);
        if group.commands.is_empty() {
            return Ok(());
        }
        match self.commit(group).await? {
            Some(outcome) => self.learn(outcome, renewal, now),
            None => {
                self.renew_now |= renewal.is_some();
                self.shared.clock.sleep(self.pause).await;
                self.pause = (self.pause * 2).min(BACKOFF.1);
                Ok(())
            }
        }
    }

    /// Commits in a task of its own, so that the callers learn what became of their requests even
    /// if this reign is over by then. `None` if it failed in a way that may pass.
    async fn commit(&self, group: Group) -> Result<Option<Outcome>, Ended> {
        let own = group.own();
        let Group { commands, erranders, waiters } = group;
        let (driver, epoch) = (self.shared.driver.clone(), self.reign.epoch);
        self.shared.meters.commits.increment(1);
        self.shared.meters.commands.increment(commands.len() as u64);
        let task = tokio::spawn(async move {
            let asked = Asked::of(&commands);
            let mut results = match driver.commit(epoch, commands).await {
                // Where the answers are not to be relied on, the outcome is uncertain to everyone.
                Ok(committed) => asked.check(committed)?.results,
                Err(error) => {
                    erranders.into_iter().for_each(|errander| errander.fail(&error));
                    answer_all(waiters, Err(error.duplicate()), epoch);
                    return Err(error);
                }
            };
            let fenced = results.iter().any(|result| matches!(result, Err(Reject::Fenced { .. })));
            answer_all(waiters, Ok(results.split_off(own + erranders.len())), epoch);
            for (errander, result) in erranders.into_iter().zip(results.split_off(own)) {
                errander.answer(result, epoch);
            }
            Ok(Outcome { fenced })
        });
        let error = match task.await {
            Ok(Ok(outcome)) => return Ok(Some(outcome)),
            Ok(Err(error)) => error,
            Err(panic) => panicked("a commit", panic),
        };
        if matches!(error.kind(), ErrorKind::Fatal | ErrorKind::Corrupt) {
            return Err(Ended::Failed(error));
        }
        tracing::warn!(%epoch, %error, "a commit failed");
        Ok(None)
    }

    /// Acts on the outcome of a commit that was begun at `began`.
    fn learn(&mut self, outcome: Outcome, renewal: Option<u64>, began: Now) -> Result<(), Ended> {
        if outcome.fenced {
            return Err(Ended::Fenced);
        }
        self.pause = BACKOFF.0;
        let Some(asked_ms) = renewal else { return Ok(()) };
        let (lease, now) = (self.shared.options.lease, self.shared.clock.now());
        self.shared.promise(asked_ms);
        self.reign.extend(asked_ms, began.boot, lease);
        self.renew_at = began.boot + self.shared.options.renewal();
        self.renew_now = false;
        self.shared.meters.lease_left.set(self.reign.lease_left(now.boot).as_secs_f64());
        // Those who wait for the extension look again.
        self.shared.look_again();
        Ok(())
    }

    fn next_high_water(&mut self, now: Now) -> u64 {
        self.watch_clock(now);
        self.reign.next_high_water(now)
    }

    /// Lets the reign follow the wall clock, and reports a leap that it does not follow, once.
    fn watch_clock(&mut self, now: Now) {
        let leap = self.reign.follow_wall(now);
        if let Some(leap) = leap
            && !self.leapt
        {
            self.shared.meters.clock_leaps.increment(1);
            tracing::warn!(
                ?leap,
                "the wall clock leapt ahead and is not followed; timestamps go on at the pace of \
                 the boot clock until it is mended or this node restarts"
            );
        }
        self.leapt = leap.is_some();
    }

    /// Sessions that are due to be forgotten, looked for now and then while there are requests.
    async fn expired_sessions(&mut self) -> Vec<Session> {
        let now = self.shared.clock.now();
        if now.boot < self.expire_at || !self.is_lively(now) {
            return vec![];
        }
        self.expire_at = now.boot + self.shared.options.expiry();
        // The renewal does not wait for a driver that is slow to answer, or never does.
        let patience = self.shared.options.lease / 10;
        match self.shared.read(Query::Expired { limit: EXPIRE_SESSIONS }, patience).await {
            Ok(Answer::Expired(sessions)) => {
                if sessions.len() == EXPIRE_SESSIONS {
                    self.expire_at = now.boot;
                }
                sessions
            }
            // Other answers do not come through.
            Ok(_) => vec![],
            Err(error) => {
                tracing::debug!(%error, "cannot look for expired sessions now");
                vec![]
            }
        }
    }

    fn moment(&self, now: Now) -> Moment {
        let elapsed_ms = millis(now.boot.since(self.reign.opened));
        Moment { now_ms: self.reign.wall_ms(now), elapsed_ms }
    }

    fn is_lively(&self, now: Now) -> bool {
        now.boot < self.last_busy + self.shared.options.idle_after()
    }

    /// Whether the lead is to be handed over: not if whoever wanted it has gone.
    fn is_to_hand_over(&mut self, handover: Handover) -> bool {
        self.handover = Some(handover).filter(|handover| !handover.is_abandoned());
        self.handover.is_some()
    }

    /// Ends the reign gracefully: closes it in memory, commits what was accepted, and releases, so
    /// that the successor need not wait for the lease.
    async fn release(mut self, stop: &mut watch::Receiver<bool>) -> Ended {
        self.reign.close();
        self.shared.reign.store(None);
        let handover = self.handover.take();
        self.shared.enter(match handover {
            Some(_) => Phase::Electing,
            None => Phase::Stopping,
        });
        if let Err(ended) = self.commit_accepted().await {
            return ended;
        }
        loop {
            let release = Group { commands: vec![Command::Release], ..Group::default() };
            match self.commit(release).await {
                Err(ended) => return ended,
                // If it was refused, the reign is over all the same: an attempt before this one, or a
                // later reign, has ended it.
                Ok(Some(_)) => break,
                Ok(None) if handover.is_none() => return Ended::Stopped,
                // Without a release this node might not be given another claim.
                Ok(None) => tokio::select! {
                    biased;
                    _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
                    () = self.shared.clock.sleep(self.pause) => {}
                },
            }
            self.pause = (self.pause * 2).min(BACKOFF.1);
        }
        match handover {
            Some(handover) => {
                handover.go_on();
                Ended::HandedOver
            }
            None => Ended::Stopped,
        }
    }

    /// Commits the requests that are there already, and closes the queues.
    async fn commit_accepted(&mut self) -> Result<(), Ended> {
        self.arrivals.sequences.close();
        while let Some(accepted) = self.arrivals.sequences.recv().await {
            self.pending.push_back(accepted);
        }
        self.arrivals.errands.close();
        while let Some(accepted) = self.arrivals.errands.recv().await {
            self.errands.push_back(accepted);
        }
        let now = self.moment(self.shared.clock.now());
        while !self.pending.is_empty() || !self.errands.is_empty() {
            let mut group = Group::default();
            let limits = self.shared.driver.limits();
            group.run_errands(&mut self.errands, limits, now);
            group.fill(&mut self.pending, limits, now.elapsed_ms);
            if !group.commands.is_empty() {
                self.commit(group).await?;
            }
        }
        Ok(())
    }
}
