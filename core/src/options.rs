use std::{path::PathBuf, sync::Arc, time::Duration};

use crate::{
    Clock, Error, ErrorKind, Random, Result, SystemClock,
    engine::EARLIEST_MS,
    state::{Limits, RETENTION},
};

/// Where free space is watched: below a reserve, nothing new is begun.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Space {
    /// Where the state is stored.
    pub directory: PathBuf,
    /// How many bytes are kept in reserve; a twentieth of all or 256 MiB, whichever is less, if it is not said.
    pub reserve: Option<u64>,
}

/// How an [`Oracle`](crate::Oracle) serves. The defaults suit a LAN.
#[derive(Clone, Debug)]
pub struct OracleOptions {
    /// How long a leader serves after its last durable renewal. A successor may have to wait 1.1
    /// times as long.
    pub lease: Duration,
    /// How far beyond the present timestamps are reserved by each renewal.
    pub window_ahead: Duration,
    /// How far timestamps are reserved beyond the floor when taking over.
    pub failover_advance: Duration,
    /// How far timestamps may run ahead of the wall clock under load; beyond it requests wait.
    pub max_ahead: Duration,
    /// By how much the wall clock may leap ahead of the boot clock and still be followed.
    pub max_clock_step: Duration,
    /// How far ahead of the stored time the wall clock may be when this node starts or takes over, and still be followed.
    /// A service that was stopped for longer needs [`trust_clock_until_ms`](Self::trust_clock_until_ms) once.
    pub max_clock_jump: Duration,
    /// Until it shows this, in milliseconds since 1970, the wall clock is right when this node starts or takes
    /// over, whatever the state or the clocks of peers say.
    pub trust_clock_until_ms: Option<u64>,
    /// How long a request waits for a leader, a renewal or the clock before it is refused.
    pub hold: Duration,
    /// How many requests may wait at once; beyond it they are refused.
    pub max_waiting: usize,
    /// The most values one sequence block may have.
    pub max_seq_count: u32,
    /// How long a stamping lease may be asked to run, at least and at most.
    pub lease_ttl: (Duration, Duration),
    /// How long the answer to a named request is kept, in time that a leader served.
    pub name_retention: Duration,
    /// Caps on what the state may hold.
    pub limits: Limits,
    /// Where free space is watched, if anywhere.
    pub space: Option<Space>,
    /// How long stopping may take, before what is in flight is given up.
    pub shutdown_timeout: Duration,
    /// Where time comes from.
    pub clock: Arc<dyn Clock>,
    /// Where the names of versions come from, and the length of some pauses.
    pub random: Random,
}

impl Default for OracleOptions {
    fn default() -> Self {
        Self {
            lease: Duration::from_secs(1),
            window_ahead: Duration::from_secs(3),
            failover_advance: Duration::from_secs(1),
            max_ahead: Duration::from_secs(3),
            max_clock_step: Duration::from_secs(10),
            max_clock_jump: Duration::from_secs(30 * 24 * 3_600),
            trust_clock_until_ms: None,
            hold: Duration::from_secs(1),
            max_waiting: 65_536,
            max_seq_count: 65_536,
            lease_ttl: (Duration::from_secs(5), Duration::from_secs(300)),
            name_retention: Duration::from_secs(30 * 24 * 3_600),
            limits: Limits::default(),
            space: None,
            shutdown_timeout: Duration::from_secs(5),
            clock: Arc::new(SystemClock),
            random: Random::default(),
        }
    }
}

/// Leases outside of this can neither be renewed in time nor waited for in patience.
const LEASE: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(60));

/// A window beyond this would carry timestamps far into the future at every restart.
const LONGEST_WINDOW: Duration = Duration::from_secs(3_600);

/// Names that are kept for longer than ten years would fill the place for them for good.
const LONGEST_RETENTION: Duration = Duration::from_secs(3_653 * 24 * 3_600);

/// How far after the present a wall clock may be declared to be right.
const LONGEST_TRUST_MS: u64 = 366 * 24 * 3_600 * 1_000;

impl OracleOptions {
    /// How long after a renewal the next one begins, while there are requests: 300 ms of a lease of
    /// one second.
    pub(crate) fn renewal(&self) -> Duration {
        self.lease * 3 / 10
    }

    /// How long after the last request the lease is let lapse.
    pub(crate) fn idle_after(&self) -> Duration {
        self.lease * 30
    }

    /// The lease in whole milliseconds, as it is put on record: never less than is served under.
    pub(crate) fn lease_ms(&self) -> u64 {
        u64::try_from(self.lease.as_nanos().div_ceil(1_000_000)).unwrap_or(u64::MAX)
    }

    /// How often expired sessions are looked for.
    pub(crate) fn expiry(&self) -> Duration {
        RETENTION / 60
    }

    /// Checks that the values make sense together.
    ///
    /// # Errors
    /// `Config`, naming the value and its bounds.
    pub fn validate(&self) -> Result<()> {
        let refuse = |what: String| Err(Error::new(ErrorKind::Config, what));
        if self.lease < LEASE.0 || self.lease > LEASE.1 {
            return refuse(format!(
                "the lease must be {:?} to {:?}, not {:?}",
                LEASE.0, LEASE.1, self.lease
            ));
        }
        for (name, window) in
            [("window_ahead", self.window_ahead), ("failover_advance", self.failover_advance)]
        {
            if window.as_millis() == 0 || window > LONGEST_WINDOW {
                return refuse(format!("{name} must be 1ms to {LONGEST_WINDOW:?}, not {window:?}"));
            }
        }
        if self.window_ahead < self.lease {
            return refuse(format!(
                "window_ahead ({:?}) must not be shorter than the lease ({:?}), or timestamps run \
                 out between renewals",
                self.window_ahead, self.lease
            ));
        }
        if self.max_clock_jump < self.max_clock_step {
            return refuse(format!(
                "max_clock_jump ({:?}) must not be shorter than max_clock_step ({:?})",
                self.max_clock_jump, self.max_clock_step
            ));
        }
        if self.max_ahead > LONGEST_WINDOW {
            return refuse(format!(
                "max_ahead must be {LONGEST_WINDOW:?} at most, not {:?}: a client that asks for many \
                 timestamps takes time that far ahead",
                self.max_ahead
            ));
        }
        self.check_trusted_time()?;
        let (least, most) = self.lease_ttl;
        if least.as_millis() == 0 || least > most || most > LONGEST_WINDOW {
            return refuse(format!(
                "a stamping lease must run for 1ms to {LONGEST_WINDOW:?}, not {least:?} to {most:?}"
            ));
        }
        if self.name_retention < RETENTION || self.name_retention > LONGEST_RETENTION {
            return refuse(format!(
                "name_retention must be {RETENTION:?}, as that of sessions, to {LONGEST_RETENTION:?}, not {:?}",
                self.name_retention
            ));
        }
        if self.max_waiting == 0 || self.max_seq_count == 0 {
            return refuse("max_waiting and max_seq_count must not be 0".into());
        }
        Ok(())
    }

    /// One in seconds would trust no clock, and one far away any clock for good.
    fn check_trusted_time(&self) -> Result<()> {
        let Some(until_ms) = self.trust_clock_until_ms else { return Ok(()) };
        let wall_ms = self.clock.now().wall_ms;
        let is_set = wall_ms >= EARLIEST_MS;
        if until_ms >= EARLIEST_MS
            && !(is_set && until_ms > wall_ms.saturating_add(LONGEST_TRUST_MS))
        {
            return Ok(());
        }
        let context = format!(
            "trust_clock_until ({until_ms}) must be a time after 2020, and a year from now at most, in \
             milliseconds since 1970"
        );
        Err(Error::new(ErrorKind::Config, context))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ManualClock;

    const NOW_MS: u64 = 1_800_000_000_000;

    fn refused(change: impl FnOnce(&mut OracleOptions)) -> Option<String> {
        let clock: Arc<dyn Clock> = Arc::new(ManualClock::new(NOW_MS));
        let mut options = OracleOptions { clock, ..OracleOptions::default() };
        change(&mut options);
        options.validate().err().map(|error| {
            assert_eq!(*error.kind(), ErrorKind::Config);
            error.to_string()
        })
    }

    #[test]
    fn time_may_run_ahead_by_an_hour_at_most() {
        let ahead = |seconds| refused(|options| options.max_ahead = Duration::from_secs(seconds));
        assert_eq!(ahead(3_600), None);
        assert!(ahead(3_601).is_some_and(|error| error.contains("max_ahead")));
    }

    #[test]
    fn names_expire_at_some_time() {
        let kept = |days: u64| {
            refused(|options| options.name_retention = Duration::from_secs(days * 24 * 3_600))
        };
        assert_eq!(kept(3_653), None);
        for days in [0, 3_654, u64::MAX / 86_400] {
            assert!(kept(days).is_some_and(|error| error.contains("name_retention")), "{days}");
        }
    }

    #[test]
    fn a_clock_is_trusted_for_a_year_at_most() {
        let trusted = |until_ms| refused(|options| options.trust_clock_until_ms = Some(until_ms));
        assert_eq!(trusted(NOW_MS + LONGEST_TRUST_MS), None);
        // Left in a config file, it does nothing any more.
        assert_eq!(trusted(NOW_MS - LONGEST_TRUST_MS), None);
        for until_ms in [0, NOW_MS / 1_000, NOW_MS + LONGEST_TRUST_MS + 1, u64::MAX] {
            let error = trusted(until_ms).expect("it is refused");
            assert!(error.contains("trust_clock_until"), "{error}");
        }
        let until_ms = Some(NOW_MS);
        let unset = OracleOptions {
            clock: Arc::new(ManualClock::new(0)),
            trust_clock_until_ms: until_ms,
            ..OracleOptions::default()
        };
        assert!(unset.validate().is_ok(), "a clock that was never set tells nothing");
    }
}
