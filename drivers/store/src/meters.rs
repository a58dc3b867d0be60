use tsoracle_core::{
    BootTime, Clock as _, Result, SystemClock,
    series::{self, Gauge, Histogram},
};

use crate::{journal::Journal, segment::Segment};

/// What a store shows of itself. A recorder must be installed before it is opened.
pub(crate) struct Meters {
    sync: Histogram,
    /// How long snapshots take.
    pub(crate) snapshots: Histogram,
    segments: Gauge,
    journal: Gauge,
    snapshot: Gauge,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            sync: series::STORE_SYNC_DURATION.histogram(),
            snapshots: series::STORE_SNAPSHOT_DURATION.histogram(),
            segments: series::STORE_SEGMENTS.gauge(),
            journal: series::STORE_JOURNAL.gauge(),
            snapshot: series::STORE_SNAPSHOT.gauge(),
        }
    }

    /// Measures how long a sync takes.
    pub(crate) fn sync(&self, sync: impl FnOnce() -> Result<()>) -> Result<()> {
        let began = now();
        let synced = sync();
        self.sync.record(now().since(began).as_secs_f64());
        synced
    }
}

impl Journal {
    /// Shows how much there is of it.
    pub(crate) fn show(&self) {
        let bytes: u64 = self.older.iter().chain([&self.segment]).map(Segment::used).sum();
        self.meters.segments.set((self.older.len() + 1) as f64);
        self.meters.journal.set(bytes as f64);
        self.meters.snapshot.set(self.snapshot as f64);
    }
}

pub(crate) fn now() -> BootTime {
    SystemClock.now().boot
}
