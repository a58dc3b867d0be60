use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::sync::watch;

use super::lasting::{Lasting, Panic, caught};
use crate::{
    Clock, ConsensusDriver, Effect, Error, ErrorKind, Latency, Outcome, Reads, Result, Snapshot,
    Version, series,
};

/// Calls a driver, and lets through only answers that the contract allows.
///
/// A state whose version went back, an answer to another call, and a panic each end
/// this node's serving for good: what such a driver stores cannot be relied on.
#[derive(Debug)]
pub(crate) struct DriverGuard {
    driver: Arc<dyn ConsensusDriver>,
    clock: Arc<dyn Clock>,
    /// The newest version that was read or stored here.
    newest: Mutex<Version>,
    /// Why the driver is not relied on any more.
    distrust: watch::Sender<Option<Arc<str>>>,
    misbehaved: AtomicBool,
    /// How long commits take that are stored.
    pub(crate) commits: Latency,
}

impl DriverGuard {
    pub(crate) fn new(driver: Arc<dyn ConsensusDriver>, clock: Arc<dyn Clock>) -> Self {
        let (newest, distrust) = (Mutex::default(), watch::Sender::new(None));
        let misbehaved = AtomicBool::new(false);
        let commits = Latency::shown_as(series::COMMIT_DURATION);
        Self { driver, clock, newest, distrust, misbehaved, commits }
    }

    pub(crate) fn driver(&self) -> &Arc<dyn ConsensusDriver> {
        &self.driver
    }

    /// Reads, for at most `limit`.
    ///
    /// # Errors
    /// Those of the driver; `Unavailable` if it does not answer in time; `Fatal` or `Corrupt` for an
    /// answer that the contract does not allow, which also ends this node's serving.
    pub(crate) async fn read(&self, wanted: &Reads, limit: Duration) -> Result<Snapshot> {
        let newest = self.newest();
        // Reading changes nothing: it ends with the caller.
        let read = tokio::select! {
            biased;
            read = caught(self.driver.read(wanted)) => read,
            () = self.clock.sleep(limit) => {
                let context = format!("the driver did not answer a read within {limit:?}");
                return Err(Error::new(ErrorKind::Unavailable, context));
            }
        };
        let checked = match read {
            Ok(Ok(snapshot)) => check_shape(wanted, snapshot),
            Ok(Err(error)) => return Err(self.noting(error)),
            Err(panic) => Err(panicked("a read", panic)),
        };
        let checked = checked.and_then(|snapshot| {
            self.advance(newest, snapshot.version)?;
            Ok(snapshot)
        });
        checked.map_err(|error| self.misbehaving(error))
    }

    /// Commits, which is carried out even if the caller is gone.
    ///
    /// # Errors
    /// As [`read`](Self::read).
    pub(crate) async fn commit(self: &Arc<Self>, base: Version, effect: Effect) -> Result<Outcome> {
        let guard = self.clone();
        let committing = Lasting::new(async move {
            let committed = caught(guard.commit_here(base, effect)).await;
            committed.unwrap_or_else(|panic| Err(guard.panicked_in_commit(panic)))
        });
        committing.await
    }

    /// As [`commit`](Self::commit), for a caller that goes on to the end.
    ///
    /// # Errors
    /// As [`commit`](Self::commit). A panic of the driver is the caller's, which reports it to
    /// [`panicked_in_commit`](Self::panicked_in_commit).
    pub(crate) async fn commit_here(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let next = effect.version()?;
        let timing = self.commits.begin(self.clock.now().boot);
        let committed = self.driver.commit(base, effect).await;
        if matches!(committed, Ok(Outcome::Stored)) {
            timing.end(self.clock.now().boot);
        }
        let checked = match committed {
            Ok(Outcome::Stored) => self.advance(base, next).map(|()| Outcome::Stored),
            Ok(Outcome::Conflict { found }) => {
                if found.position() >= base.position() && found != base && found != next {
                    Ok(Outcome::Conflict { found })
                } else {
                    let answer = format!("a conflict with {found:?}");
                    Err(nonsense(&format!("a commit of {next:?} on {base:?}"), &answer))
                }
            }
            Err(error) => return Err(self.noting(error)),
        };
        checked.map_err(|error| self.misbehaving(error))
    }

    /// The error of a commit that ended in a panic.
    pub(crate) fn panicked_in_commit(&self, panic: Panic) -> Error {
        self.misbehaving(panicked("a commit", panic))
    }

    /// Returns once the driver is not relied on any more, with the reason.
    pub(crate) async fn distrusted(&self) -> Error {
        let mut distrust = self.distrust.subscribe();
        let reason =
            distrust.wait_for(Option::is_some).await.ok().and_then(|reason| reason.clone());
        // The sender is here, and what was waited for is some.
        let reason = reason.unwrap_or_else(|| "the driver is not relied on".into());
        Error::new(ErrorKind::Fatal, &*reason)
    }

    fn newest(&self) -> Version {
        *self.newest.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes a version that was read or stored by a call which began when `floor` was the newest one.
    fn advance(&self, floor: Version, version: Version) -> Result<()> {
        let mut newest = self.newest.lock().unwrap_or_else(PoisonError::into_inner);
        let same_place = |known: Version| known.position() == version.position();
        let is_other = [floor, *newest].into_iter().find(|known| same_place(*known));
        if version.position() < floor.position() || is_other.is_some_and(|known| known != version) {
            let context = format!(
                "the state went back: it is at {version:?}, and was at {floor:?} before; it was \
                 restored from a backup, replaced or damaged, and this node serves no more"
            );
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        if version.position() > newest.position() {
            *newest = version;
        }
        Ok(())
    }

    /// An error of the driver itself. After one that is final, nothing is served any more.
    fn noting(&self, error: Error) -> Error {
        if error.is_final() { self.distrusting(error) } else { error }
    }

    /// Whether the driver has answered what the contract does not allow, or has panicked. Then the outcome
    /// of a commit is unknown, whatever it answered.
    pub(crate) fn has_misbehaved(&self) -> bool {
        self.misbehaved.load(Ordering::Acquire)
    }

    fn misbehaving(&self, error: Error) -> Error {
        self.misbehaved.store(true, Ordering::Release);
        self.distrusting(error)
    }

    fn distrusting(&self, error: Error) -> Error {
        self.distrust.send_replace(Some(format!("{error:#}").into()));
        error
    }
}

/// Lets through what answers the reads, one by one.
fn check_shape(wanted: &Reads, snapshot: Snapshot) -> Result<Snapshot> {
    let fits = wanted.keys.len() == snapshot.values.len()
        && wanted.ranges.len() == snapshot.ranges.len()
        && wanted.ranges.iter().zip(&snapshot.ranges).all(|(range, entries)| {
            let keys = || entries.iter().map(|(key, _)| key);
            entries.len() <= range.limit
                && keys().all(|key| *key >= range.from && *key < range.to)
                && keys().is_sorted_by(|earlier, later| earlier < later)
        });
    if fits {
        return Ok(snapshot);
    }
    let (keys, ranges) = (wanted.keys.len(), wanted.ranges.len());
    Err(nonsense(&format!("reads of {keys} keys and {ranges} ranges"), &snapshot))
}

fn nonsense(asked: &str, answered: &impl std::fmt::Debug) -> Error {
    let answered: String = format!("{answered:?}").chars().take(300).collect();
    let context = format!("the driver answered {asked} with {answered}, and is not relied on");
    Error::new(ErrorKind::Fatal, context)
}

fn panicked(asked: &str, panic: Panic) -> Error {
    Error::new(ErrorKind::Fatal, format!("the driver panicked in {asked}")).with_source(panic)
}

#[cfg(test)]
#[path = "guard_test.rs"]
mod tests;
