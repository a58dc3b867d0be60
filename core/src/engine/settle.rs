//! What became of a commit whose outcome the driver does not know.

use std::time::Duration;

use super::{Shared, takeover::BACKOFF};
use crate::{
    BootTime, Effect, Error, ErrorKind, Outcome, Reads, Result, Snapshot, Version,
    state::{REIGN, ReignRecord},
};

/// What became of a commit.
#[derive(Debug)]
pub(crate) enum Verdict {
    /// It is stored.
    Stored,
    /// It is not stored and never will be, since the state had moved on to this version.
    Conflict(Version),
    /// It is not stored and never will be; the state may still be at its base.
    NotStored(Error),
    /// It may be stored, or become so later.
    Unknown(Error),
    /// This node is done for, and the outcome is not known.
    Failed(Error),
}

/// Commits `effect` on `base`, in the task of the caller, which must not be dropped. If the driver is in doubt, finds out what became of it, for at most `limit`.
///
/// While `is_open`, a state that is still at the base is moved on by a commit of nothing but a version: which
/// of the two is stored decides. Outside of a reign nothing is committed to find out.
pub(crate) async fn commit(
    shared: &Shared,
    base: Version,
    effect: Effect,
    limit: Duration,
    is_open: impl Fn() -> bool,
) -> Verdict {
    let next = match effect.version() {
        Ok(next) => next,
        Err(error) => return Verdict::Failed(error),
    };
    let error = match shared.guard.commit_here(base, effect).await {
        Ok(Outcome::Stored) => return Verdict::Stored,
        Ok(Outcome::Conflict { found }) => return Verdict::Conflict(found),
        Err(error) => error,
    };
    match error.kind() {
        ErrorKind::Uncertain => {
            tracing::warn!(error = %format_args!("{error:#}"), "the outcome of a commit is not known; finding out");
            let until = shared.clock.now().boot + limit;
            Settlement { shared, base, next, until }.find_out(error, is_open).await
        }
        _ if error.is_final() && shared.guard.has_misbehaved() => {
            let context = "the driver is not relied on, and the commit may or may not be stored";
            Verdict::Unknown(Error::new(ErrorKind::Uncertain, context).with_source(error))
        }
        _ if error.is_final() => Verdict::Failed(error),
        _ => Verdict::NotStored(error),
    }
}

/// A commit whose outcome is to be found out.
struct Settlement<'a> {
    shared: &'a Shared,
    base: Version,
    next: Version,
    until: BootTime,
}

impl Settlement<'_> {
    async fn find_out(&self, doubt: Error, is_open: impl Fn() -> bool) -> Verdict {
        let mut pause = BACKOFF.0;
        loop {
            match self.look().await {
                Ok(Some(verdict)) => return verdict,
                Ok(None) if is_open() => match self.move_on().await {
                    Ok(Some(verdict)) => return verdict,
                    Ok(None) => {}
                    Err(error) => return Verdict::Failed(error),
                },
                Ok(None) => {}
                Err(error) if error.is_final() => {
                    // A storage error is final, and it is what the doubt came from.
                    return Verdict::Unknown(doubt);
                }
                Err(error) => {
                    tracing::debug!(error = %format_args!("{error:#}"), "cannot find out yet")
                }
            }
            if self.shared.clock.now().boot >= self.until {
                return Verdict::Unknown(doubt);
            }
            self.shared.clock.sleep(pause).await;
            pause = (pause * 2).min(BACKOFF.1);
        }
    }

    /// What the state tells. Nothing if it is still at the base.
    async fn look(&self) -> Result<Option<Verdict>> {
        let left = self.until.since(self.shared.clock.now().boot).max(BACKOFF.1);
        let snapshot = self.shared.guard.read(&Reads::keys([REIGN]), left).await?;
        Ok(tell(self.base, self.next, snapshot.version, reign(snapshot)?.as_ref()))
    }

    /// Commits nothing but a version on the base. Nothing if that does not decide.
    async fn move_on(&self) -> Result<Option<Verdict>> {
        let mut effect = Effect::default();
        effect.set_version(self.base.next(self.shared.options.random.draw())?);
        match self.shared.guard.commit_here(self.base, effect).await {
            Ok(Outcome::Stored) => {
                let context = "another commit was stored in its place";
                Ok(Some(Verdict::NotStored(Error::new(ErrorKind::Unavailable, context))))
            }
            Err(error) if error.is_final() => Err(error),
            // The state tells which one was stored.
            Ok(Outcome::Conflict { .. }) | Err(_) => Ok(None),
        }
    }
}

/// What a state at version `current`, with this reign record, tells of a commit of `next` on `base`. Nothing
/// if it is still at the base, or cannot be distinguished from that.
fn tell(
    base: Version,
    next: Version,
    current: Version,
    reign: Option<&ReignRecord>,
) -> Option<Verdict> {
    let not_stored = || {
        let context = "another commit was stored in its place";
        Some(Verdict::NotStored(Error::new(ErrorKind::Unavailable, context)))
    };
    if current == next {
        return Some(Verdict::Stored);
    }
    if current.position() <= base.position() {
        return None;
    }
    if current.position() == next.position() {
        return not_stored();
    }
    // Further on, the last fence tells what it was based on.
    let fenced_on = reign.map_or(Version::EMPTY, |record| record.fenced_on);
    if fenced_on == next {
        Some(Verdict::Stored)
    } else if fenced_on == base || fenced_on.position() == next.position() {
        not_stored()
    } else {
        let context = "the state has moved on since, and does not tell any more";
        Some(Verdict::Unknown(Error::new(ErrorKind::Uncertain, context)))
    }
}

/// The reign record of a snapshot that was read for it alone.
pub(super) fn reign(snapshot: Snapshot) -> Result<Option<ReignRecord>> {
    ReignRecord::first_of(snapshot.values)
}

/// The error for a caller whose request was part of a commit that ended so. Nothing if it is
/// stored.
pub(super) fn caller_error(verdict: &Verdict) -> Option<Error> {
    match verdict {
        Verdict::Stored => None,
        Verdict::Conflict(_) => {
            let context =
                "the state was changed by another commit; the request was not carried out";
            Some(Error::new(ErrorKind::NotLeader(None), context))
        }
        Verdict::NotStored(error) | Verdict::Unknown(error) | Verdict::Failed(error) => {
            Some(error.clone())
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Epoch, state::Stage};

    fn version(number: u64, name: u128) -> Version {
        Version { era: 0, number, name }
    }

    fn fenced(fenced_on: Version) -> ReignRecord {
        ReignRecord {
            epoch: Epoch(9),
            stage: Stage::Open,
            high_water_ms: 0,
            lease_ms: 0,
            opened_by: None,
            released: false,
            session_ms: 0,
            session_base_ms: 0,
            version: Version::EMPTY,
            fenced_on,
        }
    }

    fn told_at(current: Version, fenced_on: Version) -> &'static str {
        match tell(version(5, 50), version(6, 60), current, Some(&fenced(fenced_on))) {
            Some(Verdict::Stored) => "stored",
            Some(Verdict::NotStored(_)) => "not stored",
            Some(Verdict::Unknown(_)) => "unknown",
            Some(other) => panic!("{other:?}"),
            None => "not yet",
        }
    }

    #[test]
    fn a_state_tells_by_its_version_or_by_what_its_fence_was_based_on() {
        let old = version(2, 20);
        assert_eq!(told_at(version(6, 60), old), "stored");
        assert_eq!(told_at(version(6, 61), old), "not stored");
        assert_eq!(told_at(version(5, 50), old), "not yet");
        assert_eq!(told_at(version(9, 90), version(6, 60)), "stored");
        assert_eq!(told_at(version(9, 90), version(6, 61)), "not stored");
        assert_eq!(told_at(version(9, 90), version(5, 50)), "not stored");
        assert_eq!(told_at(version(9, 90), version(7, 70)), "unknown");
        assert_eq!(told_at(version(9, 90), old), "unknown");
        assert_eq!(told_at(Version { era: 1, number: 6, name: 60 }, old), "unknown");
    }
}
