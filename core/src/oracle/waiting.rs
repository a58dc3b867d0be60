use std::sync::atomic::Ordering;

use crate::{Error, ErrorKind, Result, engine::Shared};

/// Places among those who wait, which are bounded.
pub(super) struct Waiting<'a> {
    shared: &'a Shared,
    places: usize,
}

impl<'a> Waiting<'a> {
    pub(super) fn enter(shared: &'a Shared, places: usize) -> Result<Self> {
        let before = shared.waiting.fetch_add(places, Ordering::Relaxed);
        let entered = Self { shared, places };
        shared.meters.waiting.set((before + places) as f64);
        if before + places > shared.options.max_waiting {
            return Err(overloaded(before));
        }
        Ok(entered)
    }
}

impl Drop for Waiting<'_> {
    fn drop(&mut self) {
        let before = self.shared.waiting.fetch_sub(self.places, Ordering::Relaxed);
        self.shared.meters.waiting.set((before - self.places) as f64);
    }
}

pub(super) fn overloaded(waiting: usize) -> Error {
    let context = format!("{waiting} requests wait already; ask again later");
    Error::new(ErrorKind::Overloaded, context)
}
