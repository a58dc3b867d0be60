use std::sync::{Mutex, PoisonError};

use tsoracle_core::{BootTime, Clock, SystemClock};

/// The newest write of the reign record that this node knows of, by its revision, and since when.
#[derive(Debug, Default)]
pub(crate) struct Seen(Mutex<(i64, BootTime)>);

impl Seen {
    /// Notes that the record was seen as this revision wrote it.
    pub(crate) fn note(&self, revision: i64) {
        let mut seen = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if revision > seen.0 {
            *seen = (revision, SystemClock.now().boot);
        }
    }

    /// When the record was first seen as this revision wrote it.
    pub(crate) fn since(&self, revision: i64) -> Option<BootTime> {
        let (newest, at) = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        (newest == revision && revision > 0).then_some(at)
    }
}
