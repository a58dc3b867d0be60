//! What is done to a state that no server serves from: by an operator, or by a migration.

use std::{sync::Arc, time::Duration};

use crate::{
    Clock, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, Outcome, Random, Reads, Result,
    SystemClock, Version,
    state::{Command, Plan, REIGN, Record, Reply, View, WorkingSet},
};

/// Pause before a commit is made again.
const PAUSE: Duration = Duration::from_millis(200);

/// How often that is done.
const ATTEMPTS: u32 = 50;

/// Waits until a driver wants this node to lead, and returns its claim.
///
/// # Errors
/// `Unavailable` if it does not within `limit`, or never will.
pub async fn wait_until_leader(
    driver: &dyn ConsensusDriver,
    clock: &dyn Clock,
    limit: Duration,
) -> Result<u64> {
    let mut leadership = driver.leadership();
    let leads = leadership.wait_for(|now| matches!(now, Leadership::Leader { .. }));
    let context = tokio::select! {
        biased;
        led = leads => match led.as_deref() {
            Ok(Leadership::Leader { claim }) => return Ok(*claim),
            _ => "the driver has failed".into(),
        },
        () = clock.sleep(limit) => {
            format!("this node was not elected within {limit:?}; are the others running?")
        }
    };
    Err(Error::new(ErrorKind::Unavailable, context))
}

/// A time, in milliseconds since 1970, that an operator wants every timestamp to be later than.
///
/// It is compared with the clock, and refused if it is more than a year away from it: in another unit, or a slip of
/// the keyboard, it would take the service's time away for good, or do nothing. Times that leave less than a
/// year of timestamps are always refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Floor {
    high_water_ms: u64,
    is_forced: bool,
}

impl Floor {
    /// One that the operator insists on, however far from the clock it is.
    pub const fn forced(high_water_ms: u64) -> Self {
        Self { high_water_ms, is_forced: true }
    }

    fn now_ms(self) -> Option<u64> {
        (!self.is_forced).then(|| SystemClock.now().wall_ms)
    }
}

impl From<u64> for Floor {
    fn from(high_water_ms: u64) -> Self {
        Self { high_water_ms, is_forced: false }
    }
}

/// Sets the high-water of a state that was never used: every timestamp will be later.
///
/// # Errors
/// `Rejected` with [`NotEmpty`](crate::Reject::NotEmpty) if it was used, with
/// [`FarFromClock`](crate::Reject::FarFromClock) or [`OutOfRange`](crate::Reject::OutOfRange) as [`Floor`] says; those
/// of the driver.
pub async fn initialize(driver: &Arc<dyn ConsensusDriver>, floor: impl Into<Floor>) -> Result<()> {
    let floor: Floor = floor.into();
    let command = Command::Init { high_water_ms: floor.high_water_ms, now_ms: floor.now_ms() };
    execute(driver, &SystemClock, &command, |base| base.era).await.map(drop)
}

/// Lets a state be served that was restored from a backup: in a new era, and with timestamps later than
/// the floor. Returns the high-water, which may be higher than that if the floor is forced. The next leader waits for
/// `lease`, or the longest one that the state knows of.
///
/// # Errors
/// `Rejected` with [`NothingToRaise`](crate::Reject::NothingToRaise) if the state is there already, with
/// [`FarFromClock`](crate::Reject::FarFromClock) or [`OutOfRange`](crate::Reject::OutOfRange) as [`Floor`] says; those
/// of the driver.
pub async fn adopt(
    driver: &Arc<dyn ConsensusDriver>,
    floor: impl Into<Floor>,
    lease: Duration,
) -> Result<u64> {
    let floor: Floor = floor.into();
    let command = Command::Adopt {
        high_water_ms: floor.high_water_ms,
        lease_ms: crate::state::millis(lease),
        now_ms: floor.now_ms(),
    };
    match execute(driver, &SystemClock, &command, |base| base.era.saturating_add(1)).await? {
        Reply::Adopted { high_water_ms } => Ok(high_water_ms),
        other => Err(Error::new(ErrorKind::Fatal, format!("an adoption was answered {other:?}"))),
    }
}

/// Works out one command and commits it, until it is stored. `era` is that of the version it makes.
///
/// # Errors
/// `Rejected` if it is refused; those of the driver, once trying again is of no use.
pub(crate) async fn execute(
    driver: &Arc<dyn ConsensusDriver>,
    clock: &dyn Clock,
    command: &Command,
    era: impl Fn(Version) -> u64,
) -> Result<Reply> {
    let random = Random::default();
    let mut attempts: Vec<(Version, Reply)> = Vec::new();
    let mut rounds = 0;
    loop {
        let error = match execute_once(driver, &random, command, &era, &mut attempts).await {
            Ok(Some(reply)) => return Ok(reply),
            Ok(None) => Error::new(ErrorKind::Unavailable, "the state was changed meanwhile"),
            Err(error) if error.is_retryable() => error,
            Err(error) => return Err(error),
        };
        rounds += 1;
        if rounds >= ATTEMPTS {
            return Err(error);
        }
        tracing::debug!(error = %format_args!("{error:#}"), "trying again");
        clock.sleep(PAUSE).await;
    }
}

/// Nothing if the state had moved on.
async fn execute_once(
    driver: &Arc<dyn ConsensusDriver>,
    random: &Random,
    command: &Command,
    era: impl Fn(Version) -> u64,
    attempts: &mut Vec<(Version, Reply)>,
) -> Result<Option<Reply>> {
    let mut known = read(driver, command.reads()).await?;
    if let Ok(Some(Record::Reign(record))) = known.get(REIGN)
        && let Some(landed) = attempts.iter().position(|(next, _)| *next == record.version)
    {
        // An earlier attempt was stored, though its answer was lost.
        return Ok(Some(attempts.swap_remove(landed).1));
    }
    let (plan, reply) = loop {
        let mut plan = Plan::default();
        let planned = plan.add(&known, Epoch::default(), command, driver.limits());
        if let Some(missing) = known.take_missing() {
            let snapshot = driver.read(&missing).await?;
            if snapshot.version != known.version() {
                return Ok(None);
            }
            known.learn(missing, snapshot)?;
            continue;
        }
        match planned? {
            Some(reply) => break (plan, reply?),
            None => {
                let context = "the driver takes less than one command";
                return Err(Error::new(ErrorKind::Fatal, context));
            }
        }
    };
    if plan.is_empty() {
        return Ok(Some(reply));
    }
    let base = known.version();
    let next = Version { era: era(base), ..base.next(random.draw())? };
    attempts.push((next, reply.clone()));
    // In a task of its own, since dropping this future must not leave a half-done call.
    let (effect, committing) = (plan.finish(next).0, driver.clone());
    let committed = tokio::spawn(async move { committing.commit(base, effect).await }).await;
    let panicked = |panic| {
        let context = "the driver panicked in a commit";
        Error::new(ErrorKind::Fatal, context).with_source(panic)
    };
    match committed.map_err(panicked)?? {
        Outcome::Stored => Ok(Some(reply)),
        Outcome::Conflict { .. } => Ok(None),
    }
}

async fn read(driver: &Arc<dyn ConsensusDriver>, reads: Reads) -> Result<WorkingSet> {
    let snapshot = driver.read(&reads).await?;
    let mut known = WorkingSet::at(snapshot.version);
    known.learn(reads, snapshot)?;
    Ok(known)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{LocalDriver, ManualClock, MemoryStore};

    #[tokio::test]
    async fn what_cannot_be_read_is_given_up() {
        let stopped = LocalDriver::open(MemoryStore::default()).await.unwrap();
        stopped.shutdown().await.unwrap();
        let (driver, clock): (Arc<dyn ConsensusDriver>, _) = (stopped, ManualClock::new(0));
        let executing = tokio::spawn({
            let clock = clock.clone();
            async move {
                let command = Command::Init { high_water_ms: 1, now_ms: None };
                execute(&driver, &clock, &command, |base| base.era).await
            }
        });
        for _ in 0..ATTEMPTS * 10 {
            tokio::task::yield_now().await;
            clock.advance(PAUSE);
        }
        assert!(executing.is_finished(), "after a number of attempts");
        let error = executing.await.unwrap().unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Unavailable, "{error}");
    }
}
