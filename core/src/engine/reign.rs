use std::{
    sync::atomic::{AtomicBool, AtomicU64, Ordering},
    time::Duration,
};

use tokio::sync::{Notify, mpsc};

use crate::{
    BootTime, Epoch, Now, OracleOptions, TimestampRange,
    engine::window::{MAX_HIGH_WATER_MS, Refused, Window},
    engine::{
        clock_guard::ClockGuard, handover::Handover, pending::Pending, taps::TapRequest,
        wall_clock::WallClock,
    },
    state::{AHEAD_STEP_MS, millis},
};

/// Requests for no more than this many timestamps do not wait for others that ask for more: they have the last
/// quarter of how far timestamps may be ahead for themselves. They alone cannot use that up: it would take
/// a million of them a second.
const SMALL_COUNT: u32 = 256;

/// One reign of this node: what it may grant, and until when.
///
/// Its window and its deadline belong to it alone. Extensions raise them; nothing is ever taken
/// over from an earlier reign, and a closed one never serves again.
#[derive(Debug)]
pub(crate) struct Reign {
    pub(crate) epoch: Epoch,
    /// Session time runs from here.
    pub(crate) opened: BootTime,
    pub(crate) queues: Queues,
    window: Window,
    /// On the boot clock, in nanoseconds.
    deadline: AtomicU64,
    closed: AtomicBool,
    clock_guard: ClockGuard,
    /// How far ahead the next extension reserves, where the clock is not behind.
    window_ms: AtomicU64,
    window_ahead_ms: u64,
    /// There were requests since this was last looked at.
    busy: AtomicBool,
    /// Some caller cannot go on, or soon cannot, without an extension.
    wanted: AtomicBool,
    wanting: Notify,
}

/// What is put to a reign while it is open.
#[derive(Debug)]
pub(crate) struct Queues {
    pub(crate) requests: mpsc::UnboundedSender<Pending>,
    /// One at a time.
    pub(crate) handovers: mpsc::UnboundedSender<Handover>,
    pub(crate) taps: mpsc::UnboundedSender<TapRequest>,
}

/// Why a reign granted nothing.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Denied {
    /// It is closed.
    Closed,
    /// The lease has run out, or the window is used up; an extension is on its way.
    Extending,
    /// Time would run away; it may be granted at this boot time.
    Ahead(BootTime),
    /// There are no more timestamps.
    OutOfRange,
}

impl Reign {
    pub(crate) fn new(
        epoch: Epoch,
        opened: BootTime,
        window: Window,
        clock_guard: ClockGuard,
        options: &OracleOptions,
        queues: Queues,
    ) -> Self {
        let deadline = (opened + options.lease).as_nanos();
        let window_ahead_ms = millis(options.window_ahead);
        Self {
            epoch,
            opened,
            queues,
            window,
            deadline: AtomicU64::new(deadline),
            closed: AtomicBool::new(false),
            window_ms: AtomicU64::new(clock_guard.window_ms(window_ahead_ms)),
            clock_guard,
            window_ahead_ms,
            busy: AtomicBool::new(true),
            wanted: AtomicBool::new(false),
            wanting: Notify::new(),
        }
    }

    /// Grants `count` timestamps at `now`, which was read after the request had arrived.
    #[inline(always)]
    pub(crate) fn grant(&self, now: Now, count: u32) -> Result<TimestampRange, Denied> {
        self.touch();
        if !self.leads_at(now.boot) {
            return Err(self.not_leading());
        }
        let time = self.clock_guard.follow(now);
        match self.window.grant(time.wall_ms, time.limit_ms, count) {
            Ok(range) => {
                self.look_ahead(range, time.wall_ms);
                Ok(range)
            }
            Err(Refused::Ahead { .. }) => self.grant_ahead(now, count, false),
            Err(refused) => Err(self.denied(now, refused)),
        }
    }

    /// As [`grant`](Self::grant), for a request whose turn it is while others wait for theirs.
    pub(crate) fn grant_in_turn(&self, now: Now, count: u32) -> Result<TimestampRange, Denied> {
        self.touch();
        match self.leads_at(now.boot) {
            true => self.grant_ahead(now, count, true),
            false => Err(self.not_leading()),
        }
    }

    /// Has requests wait for their turn earlier, or not any more.
    pub(crate) fn crowd(&self, crowded: bool) {
        self.clock_guard.crowd(crowded);
    }

    /// Grants where timestamps are ahead of the clock: small counts at once, others when it is their turn.
    #[cold]
    #[inline(never)]
    fn grant_ahead(&self, now: Now, count: u32, in_turn: bool) -> Result<TimestampRange, Denied> {
        let small = count <= SMALL_COUNT;
        let time = self.clock_guard.ahead(now, small);
        if !small && !in_turn {
            let by_ms = self.window.reached_ms().saturating_sub(time.limit_ms).max(1);
            return Err(self.denied(now, Refused::Ahead { by_ms }));
        }
        let granted = self.window.grant(time.wall_ms, time.limit_ms, count);
        let range = granted.map_err(|refused| self.denied(now, refused))?;
        self.look_ahead(range, time.wall_ms);
        Ok(range)
    }

    /// Has the window extended if little of it is left after a grant.
    #[inline]
    fn look_ahead(&self, range: TimestampRange, wall_ms: u64) {
        let left_ms = self.window.ceiling_ms().saturating_sub(range.last().physical_ms());
        let is_ahead = range.last().physical_ms() > wall_ms;
        let window_ms = if is_ahead { AHEAD_STEP_MS } else { self.window_ms() };
        if left_ms < window_ms / 2 {
            self.want();
        }
    }

    #[cold]
    fn denied(&self, now: Now, refused: Refused) -> Denied {
        match refused {
            Refused::Exhausted { needed_ms } if needed_ms > MAX_HIGH_WATER_MS => Denied::OutOfRange,
            Refused::Exhausted { .. } => {
                self.want();
                Denied::Extending
            }
            Refused::Ahead { by_ms } => Denied::Ahead(now.boot + Duration::from_millis(by_ms)),
        }
    }

    /// Whether the lease holds at `boot`.
    pub(crate) fn leads_at(&self, boot: BootTime) -> bool {
        !self.closed.load(Ordering::Acquire)
            && boot.as_nanos() < self.deadline.load(Ordering::Acquire)
    }

    /// Notes that there are requests, so that the lease is kept up.
    pub(crate) fn touch(&self) {
        if !self.busy.load(Ordering::Relaxed) {
            self.busy.store(true, Ordering::Relaxed);
        }
    }

    /// Whether there were requests since this was last asked.
    pub(crate) fn take_busy(&self) -> bool {
        self.busy.swap(false, Ordering::Relaxed)
    }

    /// Whether the lease holds at `boot`; asks for a renewal if it has run out.
    pub(crate) fn check(&self, boot: BootTime) -> Result<(), Denied> {
        if self.leads_at(boot) { Ok(()) } else { Err(self.not_leading()) }
    }

    /// Whether it was ended in memory.
    pub(crate) fn is_closed(&self) -> bool {
        self.closed.load(Ordering::Acquire)
    }

    /// Returns once an extension is wanted at once.
    pub(crate) async fn wanted(&self) {
        self.wanting.notified().await;
    }

    /// Follows the wall clock, as far as it is believed. What the clocks of peers show is asked for only where that
    /// matters.
    pub(crate) fn follow_wall(&self, now: Now, peers_ms: impl FnOnce() -> Vec<u64>) -> WallClock {
        let clock = self.clock_guard.rebase(now, self.window.reached_ms(), peers_ms);
        self.window_ms.store(self.clock_guard.window_ms(self.window_ahead_ms), Ordering::Relaxed);
        clock
    }

    /// By how much timestamps are ahead of the wall clock.
    pub(crate) fn ahead_of_clock(&self, now: Now) -> Duration {
        Duration::from_millis(self.window.reached_ms().saturating_sub(now.wall_ms))
    }

    /// The time that is reserved lies far back, which a successor would take for the time that it is.
    pub(crate) fn is_stale(&self, now: Now, limit: Duration) -> bool {
        self.wall_ms(now) > self.high_water_ms().saturating_add(millis(limit))
    }

    /// The wall clock, as far as it is believed.
    pub(crate) fn wall_ms(&self, now: Now) -> u64 {
        self.clock_guard.follow(now).wall_ms
    }

    /// The high-water to ask for with the next extension.
    pub(crate) fn next_high_water(&self, now: Now) -> u64 {
        self.wanted.store(false, Ordering::Release);
        let wall_ms = self.clock_guard.follow(now).wall_ms;
        let needed_ms = self.window.reached_ms().saturating_add(AHEAD_STEP_MS);
        MAX_HIGH_WATER_MS.min(wall_ms.saturating_add(self.window_ms()).max(needed_ms))
    }

    /// Raises the window and the deadline, after a commit that was begun at `start`.
    pub(crate) fn extend(&self, high_water_ms: u64, start: BootTime, lease: Duration) {
        self.window.raise(high_water_ms);
        self.deadline.fetch_max((start + lease).as_nanos(), Ordering::AcqRel);
    }

    /// Ends the reign in memory, for good.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Release);
    }

    pub(crate) fn high_water_ms(&self) -> u64 {
        self.window.ceiling_ms()
    }

    /// When the lease runs out, unless it is renewed.
    pub(crate) fn deadline(&self) -> BootTime {
        BootTime::from_nanos(self.deadline.load(Ordering::Acquire))
    }

    pub(crate) fn lease_left(&self, boot: BootTime) -> Duration {
        match self.leads_at(boot) {
            true => self.deadline().since(boot),
            false => Duration::ZERO,
        }
    }

    fn window_ms(&self) -> u64 {
        self.window_ms.load(Ordering::Relaxed)
    }

    fn not_leading(&self) -> Denied {
        if self.closed.load(Ordering::Acquire) {
            return Denied::Closed;
        }
        self.want();
        Denied::Extending
    }

    fn want(&self) {
        if !self.wanted.swap(true, Ordering::AcqRel) {
            self.wanting.notify_one();
        }
    }
}
