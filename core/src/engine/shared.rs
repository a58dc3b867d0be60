use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::sync::{Notify, watch};

use super::{
    Phase, Reign, WallClock,
    guard::DriverGuard,
    history::History,
    meters::{Meters, RefusalMeters},
    problems::Problems,
    resign::Resignations,
    shares::Used,
    space::SpaceLeft,
    turns::Turns,
};
use crate::{
    Clock, ConsensusDriver, Epoch, Error, ErrorKind, OracleOptions, Result, Version,
    caller::{Callers, Room},
    state::{Answer, Query, REIGN, Stage, WorkingSet, answer},
};

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
    pub(crate) refusals: Arc<RefusalMeters>,
    pub(crate) used: Arc<Used>,
    pub(crate) history: History,
    pub(crate) problems: Problems,
    pub(super) resignations: Resignations,
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
            refusals: Arc::new(RefusalMeters::new()),
            used: Arc::default(),
            history: History::default(),
            problems: Problems::default(),
            resignations: Resignations::new(options.lease),
            wall_clock: Mutex::default(),
            reserved_ms: AtomicU64::new(0),
            options,
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.meters.show(&phase);
        self.history.enter(self.clock.now(), &phase);
        self.phase.send_replace(phase);
        self.look_again();
    }

    /// The lease of the open reign of `epoch` has run out, and cannot be renewed.
    pub(super) fn lapse(&self, epoch: Epoch) {
        self.meters.lease_left.set(0.0);
        if *self.phase.borrow() == (Phase::Serving { epoch }) {
            tracing::warn!(%epoch, "the lease has run out before it could be renewed");
            let cause = "its lease ran out before it could be renewed";
            self.history.add(self.clock.now(), Some(epoch), "this node does not serve", cause);
            self.enter(Phase::Lapsed { epoch });
        }
    }

    /// It was renewed.
    pub(super) fn renewed(&self, epoch: Epoch) {
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
    pub(super) fn show_clock(&self, clock: WallClock, ahead: Duration) {
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

    pub(super) fn reserved_ms(&self) -> u64 {
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
