use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::Shared;
use crate::BootTime;

/// The longest time, in leases, before leadership is resigned again. It bounds how long a leader that hangs
/// stays once another node can lead.
const LONGEST_PAUSE: u32 = 8;

/// When this node asks the driver to let others lead, and how often.
#[derive(Debug)]
pub(crate) struct Resignations(Mutex<State>);

#[derive(Debug)]
struct State {
    not_before: BootTime,
    pause: Duration,
}

impl Resignations {
    pub(crate) fn new(lease: Duration) -> Self {
        Self(Mutex::new(State { not_before: BootTime::default(), pause: lease * 2 }))
    }

    /// Whether leadership is to be resigned now, and when next: not before a time that doubles. Also under the
    /// same claim, since the driver does nothing while no other node can lead.
    fn begin(&self, now: BootTime, longest: Duration) -> (bool, BootTime) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let begins = now >= state.not_before;
        if begins {
            state.not_before = now + state.pause;
            state.pause = (state.pause * 2).min(longest);
        }
        (begins, state.not_before)
    }

    /// A renewal was stored, so that the next trouble is looked at as the first one.
    pub(crate) fn forget(&self, lease: Duration) {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if state.pause > lease * 2 {
            state.pause = lease * 2;
        }
    }
}

/// A claim under which something has to be committed in time.
#[derive(Debug)]
pub(crate) struct Struggle {
    claim: u64,
    /// Since when a commit was attempted and none has succeeded.
    since: Option<BootTime>,
}

impl Struggle {
    pub(crate) fn under(claim: u64) -> Self {
        Self { claim, since: None }
    }

    /// A commit is attempted.
    pub(crate) fn attempt(&mut self, now: BootTime) {
        self.since.get_or_insert(now);
    }

    /// One has succeeded.
    pub(crate) fn succeed(&mut self) {
        self.since = None;
    }

    /// Awaits `attempt`. Resigns once none has succeeded within one and a half leases, or as soon after that as
    /// it may, again and again for as long as this takes.
    pub(crate) async fn watch<T>(&self, shared: &Shared, attempt: impl Future<Output = T>) -> T {
        let mut attempt = std::pin::pin!(attempt);
        let lease = shared.options.lease;
        let since = self.since.unwrap_or_else(|| shared.clock.now().boot);
        let mut next = since + lease * 3 / 2;
        loop {
            tokio::select! {
                biased;
                done = &mut attempt => return done,
                () = shared.clock.sleep_until(next) => next = resign(shared, self.claim),
            }
        }
    }
}

/// Asks the driver to let others lead, unless it is too early, in a task of its own: a driver that hangs must
/// not hold up more. Returns when to do it again.
pub(crate) fn resign(shared: &Shared, claim: u64) -> BootTime {
    let now = shared.clock.now().boot;
    let (begins, next) = shared.resignations.begin(now, shared.options.lease * LONGEST_PAUSE);
    if begins {
        tracing::warn!(claim, "the lease cannot be renewed; asking for another leader");
        shared.meters.resignations.increment(1);
        let driver = shared.guard.driver().clone();
        tokio::spawn(async move { driver.resign(claim).await });
    }
    next
}

#[cfg(test)]
mod tests {
    use super::*;

    const LEASE: Duration = Duration::from_secs(1);

    fn at(seconds: u64) -> BootTime {
        BootTime::default() + Duration::from_secs(seconds)
    }

    /// When leadership is resigned, if it is tried every second.
    fn resigned(resignations: &Resignations, from: u64, until: u64) -> Vec<u64> {
        (from..until).filter(|now| resignations.begin(at(*now), LEASE * 16).0).collect()
    }

    #[test]
    fn pauses_double_up_to_the_longest() {
        let resignations = Resignations::new(LEASE);
        assert_eq!(resigned(&resignations, 10, 100), [10, 12, 16, 24, 40, 56, 72, 88]);
    }

    #[test]
    fn when_it_is_too_early_the_time_is_named_at_which_it_is_not() {
        let resignations = Resignations::new(LEASE);
        assert_eq!(resignations.begin(at(10), LEASE * 16), (true, at(12)));
        assert_eq!(resignations.begin(at(11), LEASE * 16), (false, at(12)));
    }

    #[test]
    fn a_renewal_makes_the_next_pauses_short_and_lifts_none() {
        let resignations = Resignations::new(LEASE);
        assert_eq!(resigned(&resignations, 10, 25), [10, 12, 16, 24]);
        resignations.forget(LEASE);
        assert_eq!(resigned(&resignations, 25, 48), [40, 42, 46]);
    }

    #[test]
    fn trouble_counts_from_the_first_attempt_since_one_has_succeeded() {
        let mut struggle = Struggle::under(1);
        struggle.attempt(at(1));
        struggle.attempt(at(2));
        assert_eq!(struggle.since, Some(at(1)));
        struggle.succeed();
        assert_eq!(struggle.since, None);
        struggle.attempt(at(3));
        assert_eq!(struggle.since, Some(at(3)));
    }
}
