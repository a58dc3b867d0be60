//! Leading: from a claim of leadership to an open reign, and until it ends.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use arc_swap::ArcSwapOption;
use tokio::{
    sync::{Notify, mpsc, watch},
    task::JoinSet,
};

use crate::{
    Clock, ConsensusDriver, Epoch, Error, ErrorKind, LeaderHint, Leadership, OracleOptions, Result,
    asked::{check, nonsense, panicked},
    meters::Meters,
    reign::{Queues, Reign},
    service::{Arrivals, Service},
    state::{Answer, Query},
    takeover,
};

/// What this node is doing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Phase {
    /// No leader is known.
    Electing,
    /// Another node leads.
    Following(Option<LeaderHint>),
    /// This node was elected, and makes sure that its predecessor has stopped.
    TakingOver {
        /// Its claim.
        epoch: Epoch,
        /// What keeps it from going on, if anything does.
        trouble: Option<Arc<str>>,
    },
    /// This node serves, as far as its lease holds.
    Serving {
        /// Its claim.
        epoch: Epoch,
    },
    /// This node was told to stop.
    Stopping,
    /// This node will not serve again in this process.
    Failed(Arc<str>),
}

/// What the engine's task and its callers share.
#[derive(Debug)]
pub(crate) struct Shared {
    pub(crate) driver: Arc<dyn ConsensusDriver>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) options: OracleOptions,
    pub(crate) reign: ArcSwapOption<Reign>,
    pub(crate) phase: watch::Sender<Phase>,
    /// Those who wait, in the order in which they began to.
    pub(crate) waiters: Notify,
    pub(crate) waiting: AtomicUsize,
    pub(crate) meters: Meters,
    /// The furthest millisecond that may have been granted from, as far as this node knows.
    promised_ms: AtomicU64,
    /// The furthest frontier that was answered.
    frontier_ms: AtomicU64,
    /// Why the driver is not relied on any more.
    distrust: watch::Sender<Option<Arc<str>>>,
}

impl Shared {
    pub(crate) fn new(driver: Arc<dyn ConsensusDriver>, options: OracleOptions) -> Self {
        Self {
            driver,
            clock: options.clock.clone(),
            options,
            reign: ArcSwapOption::empty(),
            phase: watch::Sender::new(Phase::Electing),
            waiters: Notify::new(),
            waiting: AtomicUsize::new(0),
            meters: Meters::new(),
            promised_ms: AtomicU64::new(0),
            frontier_ms: AtomicU64::new(0),
            distrust: watch::Sender::new(None),
        }
    }

    pub(crate) fn enter(&self, phase: Phase) {
        self.phase.send_replace(phase);
        self.look_again();
    }

    /// Lets those who wait look again.
    pub(crate) fn look_again(&self) {
        self.waiters.notify_waiters();
    }

    /// Notes that a driver has said that timestamps up to here are reserved.
    pub(crate) fn promise(&self, high_water_ms: u64) {
        self.promised_ms.fetch_max(high_water_ms, Ordering::AcqRel);
    }

    pub(crate) fn promised_ms(&self) -> u64 {
        self.promised_ms.load(Ordering::Acquire)
    }

    /// Reads, for as long as `patience` lasts.
    ///
    /// # Errors
    /// Those of the driver; `Unavailable` if it does not answer; `Fatal` if it panics or answers
    /// what was not asked, which also ends this node's serving.
    pub(crate) async fn read(&self, query: Query, patience: Duration) -> Result<Answer> {
        let reached_ms = self.frontier_ms.load(Ordering::Acquire);
        // Reading changes nothing: the task ends with whoever waits for it.
        let (driver, mut task) = (self.driver.clone(), JoinSet::new());
        let asked = query.clone();
        task.spawn(async move { driver.read(asked).await });
        let read = tokio::select! {
            biased;
            Some(read) = task.join_next() => read,
            () = self.clock.sleep(patience) => {
                let context = format!("the driver did not answer a query within {patience:?}");
                return Err(Error::new(ErrorKind::Unavailable, context));
            }
        };
        let checked = match read {
            Ok(Ok(answer)) => check(&query, &answer).map(|()| answer),
            Ok(Err(error)) => return Err(error),
            Err(panic) => Err(panicked("a query", panic)),
        };
        let checked = checked.and_then(|answer| match answer {
            Answer::Frontier { frontier_ms, .. } if frontier_ms < reached_ms => {
                Err(nonsense(&format!("a frontier that had reached {reached_ms} ms"), &answer))
            }
            Answer::Frontier { frontier_ms, .. } => {
                self.frontier_ms.fetch_max(frontier_ms, Ordering::AcqRel);
                Ok(answer)
            }
            answer => Ok(answer),
        });
        checked
            .inspect_err(|error| drop(self.distrust.send_replace(Some(error.to_string().into()))))
    }

    /// Returns once the driver is not relied on any more.
    async fn distrusted(&self) -> Error {
        let mut distrust = self.distrust.subscribe();
        let reason =
            distrust.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        // The sender is here, and what was waited for is some.
        let reason = reason.unwrap_or_else(|| "the driver is not relied on".into());
        Error::new(ErrorKind::Fatal, &*reason)
    }
}

/// How a reign, or the attempt at one, ended.
#[derive(Debug)]
pub(crate) enum Ended {
    /// It was told to stop, and released what it held.
    Stopped,
    /// It released what it held, so that another node may lead.
    HandedOver,
    /// A newer epoch has taken over; this claim is worth nothing any more.
    Fenced,
    /// The driver is done for.
    Failed(Error),
}

/// Follows the leadership until told to stop. Where nobody will stop the driver, since this failed
/// or all have let go of the oracle, it does so: a leader that serves no more must not keep others
/// from leading.
pub(crate) async fn run(shared: Arc<Shared>, stop: watch::Receiver<bool>) {
    let followed = tokio::spawn({
        let (shared, stop) = (shared.clone(), stop.clone());
        async move { follow(&shared, stop).await }
    });
    // Whatever ends it, a panic included, nobody goes on waiting for it.
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
            stopped = shared.driver.shutdown() => {
                if let Err(error) = stopped {
                    tracing::warn!(%error, "the driver did not stop cleanly");
                }
            }
            () = shared.clock.sleep(shared.options.shutdown_timeout) => {}
        }
    }
}

/// Leads whenever leadership is this node's. Returns how that ended.
async fn follow(shared: &Shared, mut stop: watch::Receiver<bool>) -> Phase {
    let mut leadership = shared.driver.leadership();
    let mut claimed = Epoch::default();
    let reason = loop {
        let current = leadership.borrow_and_update().clone();
        let leads = matches!(current, Leadership::Leader { .. });
        match current {
            Leadership::Leader { epoch } if epoch < claimed => {
                break format!("the driver claims epoch {epoch} after epoch {claimed}");
            }
            Leadership::Leader { epoch } => {
                claimed = epoch;
                shared.enter(Phase::TakingOver { epoch, trouble: None });
                let ended = tokio::select! {
                    biased;
                    ended = lead(shared, epoch, stop.clone()) => ended,
                    () = other_than(&mut leadership, epoch) => Ended::Fenced,
                    error = shared.distrusted() => Ended::Failed(error),
                };
                tracing::info!(%epoch, ?ended, "the reign has ended");
                match ended {
                    Ended::Stopped => return Phase::Stopping,
                    Ended::Failed(error) => break error.to_string(),
                    // A claim that was released is worth nothing any more, either.
                    Ended::Fenced | Ended::HandedOver => {
                        shared.enter(Phase::Electing);
                        tokio::select! {
                            biased;
                            () = other_than(&mut leadership, epoch) => {}
                            _ = stop.wait_for(|stop| *stop) => return Phase::Stopping,
                        }
                    }
                }
            }
            Leadership::Follower { leader } => {
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
            }
        }
        if leadership.has_changed().is_err() {
            break why_over(shared).await;
        }
    };
    Phase::Failed(reason.into())
}

/// Returns once leadership is anything but this claim, or its channel is closed.
async fn other_than(leadership: &mut watch::Receiver<Leadership>, epoch: Epoch) {
    let claim = Leadership::Leader { epoch };
    // An error means that the channel is closed, which is not leading either.
    let _ = leadership.wait_for(|now| *now != claim).await;
}

/// A driver whose leadership is over for good usually knows why, and says so soon or never.
async fn why_over(shared: &Shared) -> String {
    tokio::select! {
        biased;
        answer = shared.driver.read(Query::Reign) => match answer {
            Err(error) => error.to_string(),
            Ok(_) => "the driver's leadership channel is closed".into(),
        },
        () = shared.clock.sleep(shared.options.lease) => {
            "the driver's leadership channel is closed, and it does not say why".into()
        }
    }
}

/// Takes over under `epoch`, then serves until stopped, fenced or failed. Dropping it ends the
/// reign at once.
async fn lead(shared: &Shared, epoch: Epoch, mut stop: watch::Receiver<bool>) -> Ended {
    let (queue, sequences) = mpsc::unbounded_channel();
    let (errand_queue, errands) = mpsc::unbounded_channel();
    let (handover_queue, handovers) = mpsc::unbounded_channel();
    let queues = Queues { sequences: queue, errands: errand_queue, handovers: handover_queue };
    let arrivals = Arrivals { sequences, errands, handovers };
    let fenced = tokio::select! {
        biased;
        fenced = takeover::fence_and_wait(shared, epoch) => fenced,
        _ = stop.wait_for(|stop| *stop) => return Ended::Stopped,
    };
    let opening = async { takeover::open(shared, epoch, fenced?, queues).await };
    // A stop waits for an open that may take effect, so that it can be released: a successor would
    // have to wait for as long as the lease otherwise.
    let given_up = async {
        // The sender is dropped with this node, which is a stop as well.
        let _ = stop.wait_for(|stop| *stop).await;
        shared.clock.sleep(shared.options.lease).await;
    };
    let reign = tokio::select! {
        biased;
        opened = opening => match opened {
            Ok(reign) => Arc::new(reign),
            Err(ended) => return ended,
        },
        () = given_up => return Ended::Stopped,
    };
    let _closing = Closing { shared, reign: &reign };
    shared.reign.store(Some(reign.clone()));
    shared.enter(Phase::Serving { epoch });
    shared.meters.reigns.increment(1);
    tracing::info!(%epoch, "serving");
    Service::new(shared, &reign, arrivals).run(&mut stop).await
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
    }
}
