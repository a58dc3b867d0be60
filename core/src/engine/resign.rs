use std::{
    sync::{Mutex, PoisonError},
    time::Duration,
};

use super::{Reign, Shared};
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
    /// The longest time that a commit took of late.
    usual: Duration,
}

/// When a claim under which nothing can be committed is given up.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Limits {
    /// From here on this node does not count as the one that serves.
    lapses: BootTime,
    /// From here on another one should lead.
    resigns: BootTime,
}

impl Struggle {
    pub(crate) fn under(claim: u64) -> Self {
        Self { claim, since: None, usual: Duration::ZERO }
    }

    /// A commit is attempted.
    pub(crate) fn attempt(&mut self, now: BootTime) {
        self.since.get_or_insert(now);
    }

    /// One has succeeded.
    pub(crate) fn succeed(&mut self, now: BootTime) {
        if let Some(since) = self.since.take() {
            // One that was slow is forgotten after some that were not.
            self.usual = now.since(since).max(self.usual - self.usual / 8);
        }
    }

    /// The rule: once the lease has run out and an attempt has lasted for half a lease, this node does not
    /// serve any more, and if none succeeds within what is usual here, half a lease more at most, it
    /// resigns. While it takes over there is no lease yet, and each step has as long as one would last.
    fn limits(&self, since: BootTime, lease_end: Option<BootTime>, lease: Duration) -> Limits {
        match lease_end {
            Some(end) => {
                let lapses = end.max(since + lease / 2);
                Limits { lapses, resigns: lapses + (self.usual * 2).min(lease / 2) }
            }
            None => {
                let end = since + lease * 3 / 2;
                Limits { lapses: end, resigns: end }
            }
        }
    }

    /// Awaits `attempt`, under the lease of `reign` if there is one. If that takes too long, this node
    /// counts as one that does not serve, and resigns as soon as it may, again and again for as long as this
    /// takes.
    pub(crate) async fn watch<T>(
        &self,
        shared: &Shared,
        reign: Option<&Reign>,
        attempt: impl Future<Output = T>,
    ) -> T {
        let mut attempt = std::pin::pin!(attempt);
        let since = self.since.unwrap_or_else(|| shared.clock.now().boot);
        let lease_end = reign.map(Reign::deadline);
        let limits = self.limits(since, lease_end, shared.options.lease);
        if let Some(reign) = reign {
            tokio::select! {
                biased;
                done = &mut attempt => return done,
                () = shared.clock.sleep_until(limits.lapses) => shared.lapse(reign.epoch),
            }
        }
        let mut next = limits.resigns;
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
        struggle.succeed(at(3));
        assert_eq!(struggle.since, None);
        struggle.attempt(at(4));
        assert_eq!(struggle.since, Some(at(4)));
    }

    /// When a leader lapses and resigns, in hundredths of a lease, whose attempt began at the first and whose
    /// lease ends at the second.
    fn limits(struggle: &Struggle, since: u64, end: Option<u64>) -> (u64, u64) {
        let lease = Duration::from_secs(100);
        let limits = struggle.limits(at(since), end.map(at), lease);
        let seconds = |at: BootTime| at.since(BootTime::default()).as_secs();
        (seconds(limits.lapses), seconds(limits.resigns))
    }

    #[test]
    fn leadership_ends_with_the_lease_and_what_is_usual_beyond_it() {
        let mut struggle = Struggle::under(1);
        assert_eq!(limits(&struggle, 30, Some(100)), (100, 100));
        // One that was idle has half a lease from when it is asked.
        assert_eq!(limits(&struggle, 900, Some(100)), (950, 950));
        // A fence or an open has as long as a lease lasts, and half of that.
        assert_eq!(limits(&struggle, 900, None), (1_050, 1_050));
        struggle.attempt(at(0));
        struggle.succeed(at(10));
        assert_eq!(limits(&struggle, 30, Some(100)), (100, 120));
        struggle.attempt(at(0));
        struggle.succeed(at(80));
        assert_eq!(limits(&struggle, 30, Some(100)), (100, 150), "never beyond half a lease");
        for _ in 0..40 {
            struggle.attempt(at(0));
            struggle.succeed(at(0));
        }
        assert_eq!(limits(&struggle, 30, Some(100)).1, 100, "what was slow once is forgotten");
    }
}
