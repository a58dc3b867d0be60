//! The only place that reads clocks and sleeps.

use std::{
    fmt::Debug,
    ops::{Add, Sub},
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use async_trait::async_trait;
use rustix::time::{ClockId, clock_gettime};
use tokio::sync::watch;

/// A reading of the boot-time clock: time since some start, running on while the machine sleeps.
///
/// Readings of two machines cannot be compared; only that both run at the same rate is assumed.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct BootTime(u64);

impl BootTime {
    /// The reading `nanos` nanoseconds after the clock's start.
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(nanos)
    }

    /// Nanoseconds since the clock's start.
    pub const fn as_nanos(self) -> u64 {
        self.0
    }

    /// Whole milliseconds since the clock's start.
    pub const fn as_millis(self) -> u64 {
        self.0 / 1_000_000
    }

    /// The time since `earlier`, or zero if that lies ahead.
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.saturating_sub(earlier.0))
    }
}

impl Add<Duration> for BootTime {
    type Output = Self;

    fn add(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_add(nanos))
    }
}

impl Sub<Duration> for BootTime {
    type Output = Self;

    fn sub(self, duration: Duration) -> Self {
        let nanos = u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
        Self(self.0.saturating_sub(nanos))
    }
}

/// Both clocks, read together: every decision uses one such pair.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Now {
    /// Milliseconds since the Unix epoch, by a clock that may be arbitrarily wrong.
    pub wall_ms: u64,
    /// The boot-time clock.
    pub boot: BootTime,
}

/// Where the engine gets time from, so that tests own it.
#[async_trait]
pub trait Clock: Debug + Send + Sync + 'static {
    /// Reads both clocks. Called on every grant: it must not block or allocate.
    fn now(&self) -> Now;

    /// Returns once the boot-time clock has reached `boot`.
    async fn sleep_until(&self, boot: BootTime);

    /// Returns once `duration` has passed on the boot-time clock.
    async fn sleep(&self, duration: Duration) {
        self.sleep_until(self.now().boot + duration).await;
    }
}

/// The machine's clocks: `CLOCK_REALTIME` and, on Linux, `CLOCK_BOOTTIME`.
///
/// Elsewhere `CLOCK_MONOTONIC` stands in, which on macOS also runs on during sleep.
#[derive(Clone, Copy, Default, Debug)]
pub struct SystemClock;

#[cfg(target_os = "linux")]
const BOOT_CLOCK: ClockId = ClockId::Boottime;
#[cfg(not(target_os = "linux"))]
const BOOT_CLOCK: ClockId = ClockId::Monotonic;

/// The runtime's timer stops while the machine sleeps, so long sleeps look again this often.
const LONGEST_NAP: Duration = Duration::from_secs(1);

#[async_trait]
impl Clock for SystemClock {
    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    fn now(&self) -> Now {
        // Through the C library, so that tests can set it wrong. One of before 1970 shows 1970.
        let wall = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let boot = clock_gettime(BOOT_CLOCK);
        let whole = |seconds: i64| u64::try_from(seconds).unwrap_or(0);
        Now {
            wall_ms: wall
                .as_secs()
                .saturating_mul(1_000)
                .saturating_add(wall.subsec_millis().into()),
            boot: BootTime(whole(boot.tv_sec) * 1_000_000_000 + whole(boot.tv_nsec)),
        }
    }

    #[expect(clippy::disallowed_methods, reason = "this is the clock")]
    async fn sleep_until(&self, boot: BootTime) {
        loop {
            let left = boot.since(self.now().boot);
            if left.is_zero() {
                return;
            }
            tokio::time::sleep(left.min(LONGEST_NAP)).await;
        }
    }
}

/// A clock that moves only when a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock(watch::Sender<Now>);

impl ManualClock {
    /// A clock that stands at `wall_ms`, its boot clock at one hour.
    pub fn new(wall_ms: u64) -> Self {
        let boot = BootTime::default() + Duration::from_secs(3_600);
        Self::starting_at(Now { wall_ms, boot })
    }

    /// A clock that stands at `now`.
    pub fn starting_at(now: Now) -> Self {
        Self(watch::Sender::new(now))
    }

    /// Lets time pass, on both clocks.
    pub fn advance(&self, duration: Duration) {
        self.0.send_modify(|now| {
            now.wall_ms += duration.as_millis() as u64;
            now.boot = now.boot + duration;
        });
    }

    /// Sets the wall clock alone.
    pub fn set_wall(&self, wall_ms: u64) {
        self.0.send_modify(|now| now.wall_ms = wall_ms);
    }
}

#[async_trait]
impl Clock for ManualClock {
    fn now(&self) -> Now {
        *self.0.borrow()
    }

    async fn sleep_until(&self, boot: BootTime) {
        // The sender lives in `self`, so the wait cannot fail.
        let _ = self.0.subscribe().wait_for(|now| now.boot >= boot).await;
    }
}
