use std::{fmt::Debug, pin::pin, sync::Arc, time::Duration};

use tokio::{
    sync::{Mutex, watch},
    task::JoinHandle,
};

use crate::{
    BootTime, Caller, CallerId, ConsensusDriver, Epoch, Error, ErrorKind, OracleOptions, Reject,
    Result, Rules, SeqBlock, TIMESTAMPS_PER_MS, TimestampRange, WallClock,
    engine::{self, Denied, Liveness, MAX_HIGH_WATER_MS, Phase, Reign, Shared},
    series,
    state::{Answer, Query, millis},
};

mod copying;
mod leases;
mod listing;
mod members;
mod overview;
mod sequences;

pub use copying::{CopiedCommit, CopyPart, StateCopy};
pub use listing::{MAX_SEQ_PAGE, SeqList, SeqListing};
pub use overview::{Overview, Usage};

/// The target of spans, which are for whoever collects traces.
pub const SPANS: &str = "tsoracle::spans";

/// The oracle: timestamps and gapless sequences over any driver, usable in-process.
///
/// Cloning it is cheap. Once the last clone is dropped it stops as [`shutdown`](Self::shutdown)
/// does, but no caller waits for that.
#[derive(Clone, Debug)]
pub struct Oracle {
    shared: Arc<Shared>,
    control: Arc<Control>,
    hold: Duration,
    /// Whom requests come from; this process, if it is not said.
    caller: Option<Caller>,
}

#[derive(Debug)]
struct Control {
    stop: watch::Sender<bool>,
    liveness: Liveness,
    /// Until it has ended and the driver has stopped.
    task: Mutex<Option<JoinHandle<()>>>,
    /// One transfer of leadership at a time.
    transferring: Arc<Mutex<()>>,
}

/// Timestamps, and the epoch they were granted under.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Grant {
    /// The timestamps.
    pub range: TimestampRange,
    /// Who granted them.
    pub epoch: Epoch,
}

/// Blocks, and the epoch they were committed under.
///
/// For a repeated request, the epoch is the one that answered now.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqGrant {
    /// In the order asked for.
    pub blocks: Vec<SeqBlock>,
    /// Who committed or repeated them.
    pub epoch: Epoch,
}

/// How an oracle is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Status {
    /// What it is doing.
    pub phase: Phase,
    /// Its epoch while it leads.
    pub epoch: Option<Epoch>,
    /// How long it may serve without a renewal; zero unless it leads.
    pub lease_left: Duration,
    /// Up to where timestamps are durably reserved; 0 unless it leads.
    pub high_water_ms: u64,
    /// Every timestamp issued up to this millisecond is durably covered; 0 unless it leads.
    pub max_safe_physical_ms: u64,
    /// What the wall clock of this node is thought of; only while it leads.
    pub wall_clock: Option<WallClock>,
    /// By how much timestamps are ahead of that clock; zero unless it leads.
    pub ahead_of_clock: Duration,
    /// Requests that wait for a commit, a leader or the clock.
    pub waiting: usize,
    /// The version of the rules that the state is under; only while it leads.
    pub rules: Option<Rules>,
    /// Bytes that are free where the state is stored, if [that is watched](OracleOptions::space).
    pub free_bytes: Option<u64>,
    /// How many of them are kept in reserve: with less, nothing new is begun.
    pub reserve_bytes: Option<u64>,
}

impl Oracle {
    /// Starts serving whenever `driver` says that this node leads.
    ///
    /// Must be called within a tokio runtime. A `metrics` recorder must be installed before.
    ///
    /// # Errors
    /// `Config` if the options make no sense.
    pub fn start(driver: Arc<dyn ConsensusDriver>, options: OracleOptions) -> Result<Self> {
        options.validate()?;
        let hold = options.hold;
        let shared = Arc::new(Shared::new(driver, options));
        let (stop, stopped) = watch::channel(false);
        let (liveness, responder) = Liveness::new();
        let task = tokio::spawn(engine::run(shared.clone(), stopped, responder));
        let task = Mutex::new(Some(task));
        let control = Arc::new(Control { stop, liveness, task, transferring: Arc::default() });
        Ok(Self { shared, control, hold, caller: None })
    }

    /// The same oracle, whose calls wait for a leader, a renewal or the clock no longer than `hold`,
    /// for a caller who has less time than [`hold`](OracleOptions::hold).
    #[must_use]
    pub fn with_hold(&self, hold: Duration) -> Self {
        Self { hold: hold.min(self.hold), ..self.clone() }
    }

    /// A caller of that id, so that what it takes counts: [`with_caller`](Self::with_caller).
    pub fn caller(&self, id: CallerId) -> Caller {
        self.shared.callers.get(id)
    }

    /// The same oracle for requests of this caller, who gets its share of what is bounded, and no more once
    /// that is scarce: places to wait, sessions, named requests, stamping leases, new sequences and
    /// timestamps. Requests of this process itself know no shares.
    #[must_use]
    pub fn with_caller(self, caller: Caller) -> Self {
        Self { caller: Some(caller), ..self }
    }

    /// Grants `count` contiguous timestamps, greater than all that any call got before this one.
    ///
    /// Waits up to [`hold`](OracleOptions::hold) while a leader is sought, this node takes over or
    /// its lease is renewed. Dropping the future costs nothing.
    ///
    /// # Errors
    /// `Invalid` if `count` is not 1 to [`TIMESTAMPS_PER_MS`]; `NotLeader`; `Unavailable` if the
    /// lease cannot be renewed or the clock would be outrun; `Overloaded`; `Rejected` with
    /// [`Reject::OutOfRange`] at the end of the timestamp space; `Fatal`.
    pub async fn get_ts(&self, count: u32) -> Result<Grant> {
        check_ts_count(count)?;
        match self.grant(count) {
            Ok(granted) => Ok(granted),
            Err(_) => self.wait_for_grant(count).await,
        }
    }

    /// As [`get_ts`](Self::get_ts), but never waits: `None` where that would.
    ///
    /// # Errors
    /// `Invalid` if `count` is not 1 to [`TIMESTAMPS_PER_MS`].
    pub fn try_get_ts(&self, count: u32) -> Result<Option<Grant>> {
        check_ts_count(count)?;
        Ok(self.grant(count).ok())
    }

    /// How this oracle is doing, now.
    pub fn status(&self) -> Status {
        let now = self.shared.clock.now();
        let boot = now.boot;
        let reign = self.shared.reign.load();
        let leading = reign.as_ref().filter(|reign| reign.leads_at(boot));
        let high_water_ms = leading.map_or(0, |reign| reign.high_water_ms());
        let window_ms = millis(self.shared.options.window_ahead);
        let space = self.shared.space.found();
        Status {
            phase: self.shared.phase.borrow().clone(),
            epoch: leading.map(|reign| reign.epoch),
            lease_left: leading.map_or(Duration::ZERO, |reign| reign.lease_left(boot)),
            high_water_ms,
            max_safe_physical_ms: high_water_ms.saturating_sub(window_ms + 1),
            wall_clock: leading.map(|_| self.shared.wall_clock()),
            ahead_of_clock: leading.map_or(Duration::ZERO, |reign| reign.ahead_of_clock(now)),
            waiting: self.shared.waiting.used(),
            rules: leading.and_then(|_| self.shared.used.rules()),
            free_bytes: space.map(|(free, _)| free),
            reserve_bytes: space.map(|(_, reserve)| reserve),
        }
    }

    /// Has gauges of what changes by time alone show what is now. Meant to be called each second.
    pub fn show_meters(&self) {
        let status = self.status();
        let (now, meters) = (self.shared.clock.now(), &self.shared.meters);
        let commits = self.shared.guard.commits.summary(now.boot);
        meters.commit_under_way.set(commits.under_way.unwrap_or_default().as_secs_f64());
        if let Some(writes) = self.shared.guard.driver().report(now.boot).writes {
            let lasts = writes.under_way.unwrap_or_default();
            series::STORE_SYNC_UNDER_WAY.gauge().set(lasts.as_secs_f64());
        }
        meters.lease_left.set(status.lease_left.as_secs_f64());
        meters.ahead_of_clock.set(status.ahead_of_clock.as_secs_f64());
        let ahead_ms = status.high_water_ms.saturating_sub(now.wall_ms);
        meters.window_ahead.set(Duration::from_millis(ahead_ms).as_secs_f64());
    }

    /// Whether this node serves. The lease of one that no caller has asked for anything lately is renewed for
    /// that, for which this waits up to [`hold`](OracleOptions::hold).
    pub async fn serves(&self) -> bool {
        let is_serving = || matches!(*self.shared.phase.borrow(), Phase::Serving { .. });
        let holds = || self.reign()?.check(self.shared.clock.now().boot);
        is_serving() && self.wait(holds).await.is_ok()
    }

    /// Returns once the engine has had a turn, from now on: true, or false if it has ended. Later, or never, if a driver
    /// blocks it: a process of which this does not return is to be started again.
    pub async fn is_responsive(&self) -> bool {
        self.control.liveness.had_turn().await
    }

    /// What this oracle is doing, to be watched. Values may repeat.
    pub fn phase(&self) -> watch::Receiver<Phase> {
        self.shared.phase.subscribe()
    }

    /// Stops: refuses new requests, ends what is in flight, releases the lease, and stops the
    /// driver. Takes at most [`shutdown_timeout`](OracleOptions::shutdown_timeout), and as long
    /// again for the driver. If the future is dropped meanwhile, another call goes on from there.
    ///
    /// # Errors
    /// `Unavailable` if that was not enough time; the driver's own.
    pub async fn shutdown(&self) -> Result<()> {
        self.control.stop.send_replace(true);
        let mut task = self.control.task.lock().await;
        let Some(running) = task.as_mut() else { return Ok(()) };
        let limit = self.shared.options.shutdown_timeout;
        let ended = within(&self.shared, limit, "the reign did not end", async {
            // It must not be polled again after its end.
            if !running.is_finished() {
                // A panic of the task is on record as a failed phase.
                drop(running.await);
            }
        });
        let ended = ended.await;
        let driver = self.shared.guard.driver().shutdown();
        let stopped = within(&self.shared, limit, "the driver did not stop", driver).await;
        *task = None;
        ended.and(stopped.and_then(|stopped| stopped))
    }

    fn grant(&self, count: u32) -> Result<Grant, Denied> {
        let reign = self.shared.reign.load();
        let reign = reign.as_ref().ok_or(Denied::Closed)?;
        let range = reign.grant(self.shared.clock.now(), count)?;
        self.shared.meters.grants.increment(1);
        self.shared.meters.timestamps.increment(u64::from(count));
        Ok(Grant { range, epoch: reign.epoch })
    }

    fn grant_in_turn(&self, count: u32) -> Result<Grant, Denied> {
        let reign = self.reign()?;
        reign.crowd(true);
        let range = reign.grant_in_turn(self.shared.clock.now(), count)?;
        self.shared.meters.grants.increment(1);
        self.shared.meters.timestamps.increment(u64::from(count));
        Ok(Grant { range, epoch: reign.epoch })
    }

    async fn wait_for_grant(&self, count: u32) -> Result<Grant> {
        let _waiting = self.shared.waiting.enter(self.caller.as_ref(), 1)?;
        let deadline = self.deadline();
        // A leader and its lease are waited for by all together. Where timestamps have run ahead of the
        // clock, what becomes free goes to the callers in turn.
        let free = self.wait_until(deadline, || match self.grant(count) {
            Err(Denied::Ahead(at)) => Ok(Err(at)),
            granted => granted.map(Ok),
        });
        let at = match free.await? {
            Ok(granted) => return Ok(granted),
            Err(at) => at,
        };
        let caller = self.caller.as_ref().map(Caller::id);
        let turn = tokio::select! {
            biased;
            turn = self.shared.turns.take(caller) => turn,
            () = self.shared.clock.sleep_until(deadline) => {
                let phase = self.shared.phase.borrow().clone();
                return Err(terminal_error(&phase).unwrap_or_else(|| timeout_error(Denied::Ahead(at), &phase)));
            }
        };
        let granted = self.wait_until(deadline, || self.grant_in_turn(count)).await;
        drop(turn);
        if self.shared.turns.is_free()
            && let Ok(reign) = self.reign()
        {
            reign.crowd(false);
        }
        granted
    }

    /// Answers a question from the stored state, under the lease: it is checked after the answer has
    /// arrived, or else once a renewal is stored. The question may depend on how long the reign has been
    /// open, in milliseconds.
    async fn ask(&self, query: impl Fn(u64) -> Query) -> Result<(Answer, Epoch)> {
        let _waiting = self.shared.waiting.enter(self.caller.as_ref(), 1)?;
        let reign = self.wait(|| self.reign()).await?;
        reign.touch();
        let elapsed_ms = millis(self.shared.clock.now().boot.since(reign.opened));
        let limit = self.hold.max(self.shared.options.lease);
        let answer = self.shared.ask(reign.epoch, &query(elapsed_ms), limit).await?;
        self.wait(|| reign.check(self.shared.clock.now().boot)).await?;
        Ok((answer, reign.epoch))
    }

    fn reign(&self) -> Result<Arc<Reign>, Denied> {
        self.shared.reign.load_full().ok_or(Denied::Closed)
    }

    /// Attempts again whenever something has changed, until it succeeds or waiting is of no use.
    async fn wait<T>(&self, attempt: impl Fn() -> Result<T, Denied>) -> Result<T> {
        self.wait_until(self.deadline(), attempt).await
    }

    fn deadline(&self) -> BootTime {
        self.shared.clock.now().boot + self.hold
    }

    async fn wait_until<T>(
        &self,
        deadline: BootTime,
        attempt: impl Fn() -> Result<T, Denied>,
    ) -> Result<T> {
        let clock = &self.shared.clock;
        loop {
            // From here on, so that no change during the attempt is missed.
            let mut changed = pin!(self.shared.waiters.notified());
            changed.as_mut().enable();
            let current = self.shared.phase.borrow().clone();
            let denied = match attempt() {
                Ok(value) => return Ok(value),
                Err(Denied::OutOfRange) => {
                    let high_water_ms = MAX_HIGH_WATER_MS + 1;
                    return Err(Reject::OutOfRange { high_water_ms }.into());
                }
                Err(denied) => denied,
            };
            if let Some(error) = terminal_error(&current) {
                return Err(error);
            }
            if clock.now().boot >= deadline {
                return Err(timeout_error(denied, &current));
            }
            let until = match denied {
                Denied::Ahead(at) => at.min(deadline),
                _ => deadline,
            };
            tokio::select! {
                biased;
                () = changed => {}
                () = clock.sleep_until(until) => {}
            }
        }
    }
}

/// The error of a request that no amount of waiting here would help.
fn terminal_error(phase: &Phase) -> Option<Error> {
    match phase {
        Phase::Following(leader) => {
            let context = "this node does not lead";
            Some(Error::new(ErrorKind::NotLeader(leader.clone()), context))
        }
        Phase::Stopping => Some(not_leading("this node is stopping")),
        Phase::Failed(reason) => Some(Error::new(ErrorKind::Fatal, reason.to_string())),
        Phase::Electing
        | Phase::TakingOver { .. }
        | Phase::Serving { .. }
        | Phase::Lapsed { .. } => None,
    }
}

/// The error of a request that was held as long as it may be.
fn timeout_error(denied: Denied, phase: &Phase) -> Error {
    match (denied, phase) {
        (Denied::Ahead(_), _) => Error::new(
            ErrorKind::Unavailable,
            "timestamps have run as far ahead of the clock as they may; ask for fewer at a time",
        ),
        (_, Phase::TakingOver { trouble: Some(trouble), .. }) => {
            not_leading(&format!("this node cannot take over: {trouble}"))
        }
        (_, Phase::TakingOver { .. }) => not_leading("this node is taking over"),
        (_, Phase::Serving { .. } | Phase::Lapsed { .. }) => {
            not_leading("the lease has run out and cannot be renewed")
        }
        _ => not_leading("no leader is known"),
    }
}

fn not_leading(context: &str) -> Error {
    Error::new(ErrorKind::NotLeader(None), context)
}

/// A reply that no rule gives to this command, which would be a bug.
fn unplanned(asked: &str, answered: &impl Debug) -> Error {
    Error::new(ErrorKind::Fatal, format!("{asked} was answered {answered:?}"))
}

fn check_ts_count(count: u32) -> Result<()> {
    if (1..=TIMESTAMPS_PER_MS).contains(&count) {
        return Ok(());
    }
    let context = format!("a grant has 1 to {TIMESTAMPS_PER_MS} timestamps, not {count}");
    Err(Error::new(ErrorKind::Invalid, context))
}

async fn within<T>(
    shared: &Shared,
    limit: Duration,
    otherwise: &str,
    work: impl Future<Output = T>,
) -> Result<T> {
    tokio::select! {
        biased;
        done = work => Ok(done),
        () = shared.clock.sleep(limit) => {
            let context = format!("{otherwise} within {limit:?}");
            Err(Error::new(ErrorKind::Unavailable, context))
        }
    }
}
