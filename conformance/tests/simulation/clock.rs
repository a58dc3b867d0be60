//! The clocks of a node: its wall clock may show anything, its boot clock only runs a little fast or
//! slow, also while the node is paused.

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicI64, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use tokio::time::Instant;
use tsoracle_core::{BootTime, Clock, Now};

use crate::gate::Gate;

/// What all wall clocks would show at the start if they were right.
const NOON_MS: i64 = 1_800_000_000_000;

/// Simulated time that passes.
#[expect(clippy::disallowed_methods, reason = "the runtime's time is the simulated one")]
pub(crate) async fn pass(duration: Duration) {
    tokio::time::sleep(duration).await;
}

/// The clocks of one process.
#[derive(Clone, Debug)]
pub(crate) struct NodeClock(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    gate: Gate,
    run_start: Instant,
    start: Instant,
    /// In millionths of real time.
    rate_ppm: u64,
    /// The boot clock at `start`, less what it stood still.
    boot_ns: AtomicU64,
    /// How wrong the machine's wall clock is.
    wall_error_ms: Arc<AtomicI64>,
    /// A reading that was taken before a pause, and is used after it.
    held: Mutex<Option<Now>>,
}

impl NodeClock {
    pub(crate) fn new(
        gate: Gate,
        run_start: Instant,
        rate_ppm: u64,
        boot: BootTime,
        wall_error_ms: Arc<AtomicI64>,
    ) -> Self {
        let boot_ns = AtomicU64::new(boot.as_nanos());
        let (start, held) = (Instant::now(), Mutex::default());
        Self(Arc::new(Inner { gate, run_start, start, rate_ppm, boot_ns, wall_error_ms, held }))
    }

    /// Has the boot clock not run for so long, as an `Instant` does not while a machine sleeps.
    pub(crate) fn lose(&self, paused: Duration) {
        let lost_ns = self.ran_ns(paused);
        self.0.boot_ns.fetch_sub(lost_ns, Ordering::Relaxed);
    }

    /// Does something with a reading of before.
    pub(crate) fn with_reading<T>(&self, reading: Now, work: impl FnOnce() -> T) -> T {
        *self.0.held.lock().unwrap() = Some(reading);
        let done = work();
        *self.0.held.lock().unwrap() = None;
        done
    }

    fn ran_ns(&self, passed: Duration) -> u64 {
        (passed.as_nanos() as u64 / 1_000_000) * self.0.rate_ppm
    }
}

#[async_trait]
impl Clock for NodeClock {
    fn now(&self) -> Now {
        if let Some(reading) = *self.0.held.lock().unwrap() {
            return reading;
        }
        let ran_ns = self.ran_ns(self.0.start.elapsed());
        let boot_ns = self.0.boot_ns.load(Ordering::Relaxed);
        let error_ms = self.0.wall_error_ms.load(Ordering::Relaxed);
        let passed_ms = self.0.run_start.elapsed().as_millis() as i64;
        Now {
            wall_ms: (NOON_MS + passed_ms + error_ms) as u64,
            boot: BootTime::from_nanos(boot_ns.wrapping_add(ran_ns)),
        }
    }

    async fn sleep_until(&self, boot: BootTime) {
        self.0.gate.run(self.reached(boot)).await;
    }
}

impl NodeClock {
    async fn reached(&self, boot: BootTime) {
        loop {
            let left_ns = boot.since(self.now().boot).as_nanos() as u64;
            if left_ns == 0 {
                return;
            }
            // The runtime's time has steps of a millisecond.
            pass(Duration::from_millis(left_ns.div_ceil(self.0.rate_ppm))).await;
        }
    }
}
