use tsoracle_core::series::{self, Gauge, Histogram};

use crate::{journal::Journal, segment::Segment};

/// What a store shows of itself. A recorder must be installed before it is opened.
pub(crate) struct Meters {
    /// How long snapshots take.
    pub(crate) snapshots: Histogram,
    segments: Gauge,
    journal: Gauge,
    snapshot: Gauge,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            snapshots: series::STORE_SNAPSHOT_DURATION.histogram(),
            segments: series::STORE_SEGMENTS.gauge(),
            journal: series::STORE_JOURNAL.gauge(),
            snapshot: series::STORE_SNAPSHOT.gauge(),
        }
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
