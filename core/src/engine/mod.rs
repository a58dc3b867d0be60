//! Leading: from a claim of leadership to an open reign, and until it ends.

mod backlog;
mod clock_guard;
mod group;
mod guard;
mod handover;
mod history;
mod lasting;
mod liveness;
mod meters;
mod pending;
mod problems;
mod read_ahead;
mod reign;
mod resign;
mod service;
mod settle;
mod shares;
mod space;
mod takeover;
mod taps;
mod turns;
mod wall_clock;
mod window;

use std::{
    future::pending,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, mpsc, watch};

pub(crate) use self::wall_clock::EARLIEST_MS;
use self::{
    guard::DriverGuard,
    history::History,
    meters::{Meters, RefusalMeters},
    problems::Problems,
    reign::Queues,
    resign::Resignations,
    service::{Arrivals, Service},
    shares::Used,
    space::SpaceLeft,
    takeover::Takeover,
    turns::Turns,
};
pub(crate) use self::{
    handover::Handover,
    liveness::Liveness,
    pending::{Outcomes, Pending, lost},
    reign::{Denied, Reign},
    taps::{Tap, Tapped},
};
pub use self::{history::Change, wall_clock::WallClock, window::MAX_HIGH_WATER_MS};
use crate::{
    Clock, ConsensusDriver, Epoch, Error, ErrorKind, LeaderHint, Leadership, OracleOptions, Reads,
    Result, Version,
    caller::{Callers, Room},
    state::{Answer, Query, REIGN, Stage, WorkingSet, answer},
};

/// What this node is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum Phase {
    /// No leader is known.
    Electing,
    /// Another node leads.
    Following(Option<LeaderHint>),
    /// This node should lead, and makes sure that its predecessor has stopped.
    TakingOver {
        /// Its epoch, once its fence is stored.
        epoch: Option<Epoch>,
        /// What keeps it from going on, if anything does.
        trouble: Option<Arc<str>>,
    },
    /// This node serves, as far as its lease holds.
    Serving {
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node has served, and its lease has run out, since it cannot renew it. It asks for another leader,
    /// and serves again if it can renew the lease before there is one. The lease of a leader without
    /// requests runs out as well, but the next request renews it: such a leader is still `Serving`.
    Lapsed {
        /// Its epoch.
        epoch: Epoch,
    },
    /// This node is stopping.
    Stopping,
    /// This node will not serve again in this process.
    Failed(Arc<str>),
}

/// What the engine's task and its callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) guard: Arc<DriverGuard>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: OracleOptions,
    pub(crate) reign: ArcSwapOption<Reign>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Those who wait, in the order in which they began to.
    pub(crate) waiters: Notify,
    /// Their places.
    pub(crate) waiting: Arc<Room>,
    /// The places of requests that are queued for a commit.
    pub(crate) queued: Arc<Room>,
    pub(crate) callers: Arc<Callers>,
    /// For those who wait since timestamps are too far ahead of the clock.
    pub(crate) turns: Arc<Turns>,
    pub(crate) space: Arc<SpaceLeft>,
    pub(crate) meters: Meters,
    pub(crate) used: Arc<Used>,
    pub(crate) history: History,
    pub(crate) problems: Problems,
    pub(crate) refusals: Arc<RefusalMeters>,
    resignations: Resignations,
    /// What the wall clock is thought of, while this node leads.
    wall_clock: Mutex<WallClock>,
    /// The furthest millisecond that is reserved in the state, as far as this node knows.
    reserved_ms: AtomicU64,
}

/// How often a query is repeated because the state has changed between its reads.
const MOST_ATTEMPTS: usize = 16;

impl Shared {
    pub(crate) fn new(driver: Arc<dyn ConsensusDriver>, options: OracleOptions) -> Self {
        let meters = Meters::new(&options.limits);
        Self {
            guard: Arc::new(DriverGuard::new(driver, options.clock.clone())),
            clock: options.clock.clone(),
            reign: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::Electing),
            waiters: Notify::new(),
            waiting: Arc::new(Room::waiting(options.max_waiting)),
            queued: Arc::new(Room::queued(options.max_waiting)),
            callers: Arc::default(),
            turns: Arc::default(),
            space: Arc::new(SpaceLeft::new(options.space.clone())),
            meters,
            used: Arc::default(),
            history: History::default(),
            problems: Problems::default(),
            refusals: Arc::new(RefusalMeters::new()),
            resignations: Resignations::new(options.lease),
            wall_clock: Mutex::default(),
            reserved_ms: AtomicU64::new(0),
            options,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.history.enter(self.clock.now(), &phase);
        self.meters.show(&phase);
        self.phase.send_replace(phase);
        self.look_again();
    }

    /// The lease of the open reign of `epoch` has run out, and cannot be renewed.
    fn lapse(&self, epoch: Epoch) {
        self.meters.lease_left.set(0.0);
        if *self.phase.borrow() == (Phase::Serving { epoch }) {
            tracing::warn!(%epoch, "the lease has run out before it could be renewed");
            let cause = "its lease ran out before it could be renewed";
            self.history.add(self.clock.now(), Some(epoch), "this node does not serve", cause);
            self.enter(Phase::Lapsed { epoch });
        }
    }

    /// It was renewed.
    fn renewed(&self, epoch: Epoch) {
        if *self.phase.borrow() == (Phase::Lapsed { epoch }) {
            tracing::info!(%epoch, "the lease is renewed; serving again");
            let cause = "its lease is renewed";
            self.history.add(self.clock.now(), Some(epoch), "this node serves again", cause);
            self.enter(Phase::Serving { epoch });
        }
    }

    /// Lets those who wait look again.
    pub(crate) fn look_again(&self) {
        self.waiters.notify_waiters();
    }

    /// Notes that timestamps up to here are reserved in the state.
    pub(crate) fn reserve(&self, high_water_ms: u64) {
        self.reserved_ms.fetch_max(high_water_ms, Ordering::AcqRel);
    }

    /// Shows what the wall clock of this node is thought of, and by how much timestamps are ahead of it.
    fn show_clock(&self, clock: WallClock, ahead: Duration) {
        let not_followed = match clock {
            WallClock::Ahead(by) => by.as_secs_f64(),
            WallClock::Followed | WallClock::Behind(_) => 0.0,
        };
        self.meters.clock_not_followed.set(not_followed);
        self.meters.ahead_of_clock.set(ahead.as_secs_f64());
        *self.wall_clock.lock().unwrap_or_else(PoisonError::into_inner) = clock;
    }

    pub(crate) fn wall_clock(&self) -> WallClock {
        *self.wall_clock.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn reserved_ms(&self) -> u64 {
        self.reserved_ms.load(Ordering::Acquire)
    }

    /// Answers a question from one version of the state that is of the reign of `epoch`. The caller checks
    /// the lease afterwards.
    ///
    /// # Errors
    /// Those of the driver; `NotLeader` if another epoch has taken over; `Unavailable` if the state changes
    /// too quickly, or the driver does not answer within `limit`.
    pub(crate) async fn ask(&self, epoch: Epoch, query: &Query, limit: Duration) -> Result<Answer> {
        let mut known = WorkingSet::default();
        let mut wanted = query.reads();
        for _ in 0..MOST_ATTEMPTS {
            wanted.keys.push(REIGN.into());
            let snapshot = self.guard.read(&wanted, limit).await?;
            if snapshot.version != known.version() {
                let is_first = known.version() == Version::EMPTY;
                known = WorkingSet::at(snapshot.version);
                if !is_first {
                    wanted = query.reads();
                    continue;
                }
            }
            known.learn(wanted, snapshot)?;
            match answer(&known, &Query::Reign)? {
                Answer::Reign(Some(record))
                    if record.epoch == epoch && record.stage == Stage::Open => {}
                _ => {
                    let context = "another node has taken over";
                    return Err(Error::new(ErrorKind::NotLeader(None), context));
                }
            }
            let answered = answer(&known, query);
            wanted = match known.take_missing() {
                Some(missing) => missing,
                None => return answered,
            };
        }
        let context = "the state changes too quickly to be read; ask again later";
        Err(Error::new(ErrorKind::Unavailable, context))
    }
}

/// How a reign, or the attempt at one, ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It stopped, and released what it held.
    Stopped,
    /// It released what it held, so that another node may lead.
    HandedOver,
    /// Another epoch has taken over, or leadership has moved on.
    Fenced,
    /// The driver is done for.
    Failed(Error),
}

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
    let reason = loop {
        let current = leadership.borrow_and_update().clone();
        if let Some(leader) = leader_of(&current)
            && last_leader.replace(leader.clone()).is_some_and(|last| last != leader)
        {
            shared.meters.leader_changes.increment(1);
        }
        let (mut leads, mut follows) = (false, None);
        match current {
            Leadership::Leader { claim } => {
                leads = true;
                if last_claim.replace(claim) != Some(claim) {
                    shared.meters.elections.increment(1);
                }
                shared.enter(Phase::TakingOver { epoch: None, trouble: None });
                let ended = tokio::select! {
                    biased;
                    ended = lead(shared, claim, &mut rests, stop.clone()) => ended,
                    () = other_than(&mut leadership, claim) => Ended::Fenced,
                    error = shared.guard.distrusted() => Ended::Failed(error),
                };
                tracing::info!(claim, ?ended, "the reign has ended");
                let moved = *leadership.borrow() != Leadership::Leader { claim };
                shared.history.end_reign(shared.clock.now(), &ended, moved);
                match ended {
                    Ended::Stopped => return Phase::Stopping,
                    Ended::Failed(error) => break format!("{error:#}"),
                    Ended::Fenced | Ended::HandedOver => {
                        shared.enter(Phase::Electing);
                        // While the driver still shows this claim, two nodes that both believe to lead
                        // must not fence each other for ever. A transfer takes its time as well.
                        let pause = match ended {
                            Ended::HandedOver => shared.options.lease * LONGEST_REST,
                            _ => rests.next(shared, claim),
                        };
                        tokio::select! {
                            biased;
                            () = other_than(&mut leadership, claim) => {}
                            _ = stop.wait_for(|stop| *stop) => return Phase::Stopping,
                            error = shared.guard.distrusted() => break format!("{error:#}"),
                            () = shared.clock.sleep(pause) => {}
                        }
                    }
                }
            }
            Leadership::Follower { leader } => {
                follows = leader.clone();
                shared.enter(Phase::Following(leader));
            }
            Leadership::Unknown => {
                shared.enter(Phase::Electing);
            }
        }
        if !leads {
            tokio::select! {
                biased;
                changed = leadership.changed() => drop(changed),
                _ = stop.wait_for(|stop| *stop) => return Phase::Stopping,
                error = shared.guard.distrusted() => break format!("{error:#}"),
                () = name_epochs(shared, follows) => {}
            }
        }
        if leadership.has_changed().is_err() {
            // A driver that is stopped because the reign did not end in time has not failed.
            if *stop.borrow() {
                return Phase::Stopping;
            }
            break failure_reason(shared).await;
        }
    };
    Phase::Failed(reason.into())
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
struct Rests {
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

/// Takes over under `claim`, then serves until stopped, fenced or failed. Dropping it ends the
/// reign at once.
async fn lead(
    shared: &Arc<Shared>,
    claim: u64,
    rests: &mut Rests,
    mut stop: watch::Receiver<bool>,
) -> Ended {
    let (requests, requested) = mpsc::unbounded_channel();
    let (handover_queue, handovers) = mpsc::unbounded_channel();
    let (tap_queue, taps) = mpsc::unbounded_channel();
    let queues = Queues { requests, handovers: handover_queue, taps: tap_queue };
    let arrivals = Arrivals { requests: requested, handovers, taps };
    let mut takeover = Takeover::new(shared, claim);
    let fenced = tokio::select! {
        biased;
        fenced = takeover.fence_and_wait() => fenced,
        _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
    };
    let fenced = match fenced {
        Ok(fenced) => fenced,
        Err(ended) => return ended,
    };
    let cause = fenced.cause.clone();
    let opening = async { takeover.open(fenced, queues).await };
    // A stop waits for an open that may take effect, so that it can be released: a successor would
    // have to wait for as long as the lease otherwise.
    let given_up = async {
        // The sender is dropped with this node, which is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
        shared.clock.sleep(shared.options.lease).await;
    };
    let (reign, known) = tokio::select! {
        biased;
        opened = opening => match opened {
            Ok((reign, known)) => (Arc::new(reign), known),
            Err(ended) => return ended,
        },
        () = given_up => return Ended::Stopped,
    };
    let epoch = reign.epoch;
    let _closing = Closing { shared, reign: &reign };
    shared.history.add(shared.clock.now(), Some(epoch), "this node serves", cause);
    shared.reign.store(Some(reign.clone()));
    shared.enter(Phase::Serving { epoch });
    shared.meters.reigns.increment(1);
    // The node that serves may come back soon, so that the others give way to it.
    *rests = Rests::default();
    tracing::info!(%epoch, "serving");
    let serving = Service::new(shared, takeover.into_struggle(), &reign, known, arrivals);
    serving.run(&mut stop).await
}

/// Ends the reign in memory, however its leading ends.
struct Closing<'a> {
    shared: &'a Shared,
    reign: &'a Reign,
}

impl Drop for Closing<'_> {
    fn drop(&mut self) {
        self.reign.close();
        self.shared.reign.store(None);
        self.shared.meters.lease_left.set(0.0);
        self.shared.meters.used.iter().for_each(|gauge| gauge.set(0.0));
        self.shared.used.clear();
    }
}
