//! Calls that go together: one stream to one peer, and the callers who ride on it.
//!
//! A caller joins the batch that is not sent yet. A batch is sealed when the transport takes it to
//! send it, so that every caller in it began before it was sent. It is sent at once while few are in
//! flight, and otherwise when one of those is answered; no timer delays anybody, and nothing is asked
//! for in advance.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::task::AbortHandle;
use tokio::time::Instant;
use tonic::transport::Channel;

use crate::pool::Learner;

mod batch;
mod drive;
mod kind;
mod queue;
mod ride;

pub(crate) use batch::Lost;
pub(crate) use kind::{Kind, Sequences, Timestamps};
pub(crate) use ride::{Missed, Ride, Way};

use queue::Queue;

/// The most callers that wait on one line.
pub(crate) const MAX_WAITING: usize = 65_536;

/// A stream to one peer, opened when it is needed, and again after it has broken.
pub(crate) struct Line<K: Kind> {
    shared: Arc<Shared<K>>,
    task: Mutex<Option<AbortHandle>>,
}

/// What a line's callers, its task and the transport share.
pub(crate) struct Shared<K: Kind> {
    queue: Mutex<Queue<K>>,
}

impl<K: Kind> Shared<K> {
    fn lock(&self) -> MutexGuard<'_, Queue<K>> {
        // The queue is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<K: Kind> Line<K> {
    pub(crate) fn new() -> Self {
        let shared = Arc::new(Shared { queue: Mutex::new(Queue::new()) });
        Self { shared, task: Mutex::default() }
    }

    /// Asks along with others, from `now` on, and waits for the answer until `until`. Joins when first
    /// polled, and must be polled within a runtime.
    pub(crate) fn ride<'a>(
        &'a self,
        way: Way<'a>,
        entry: K::Entry,
        now: Instant,
        until: Instant,
    ) -> Ride<'a, K> {
        Ride::new(self, way, entry, now, until)
    }

    fn start(&self, run: u64, channel: Channel, learner: Learner) {
        let task = tokio::spawn(drive::run(self.shared.clone(), run, channel, learner));
        let task = task.abort_handle();
        *self.task.lock().unwrap_or_else(PoisonError::into_inner) = Some(task);
    }
}

impl<K: Kind> Drop for Line<K> {
    fn drop(&mut self) {
        let task = self.task.get_mut().unwrap_or_else(PoisonError::into_inner);
        if let Some(task) = task.take() {
            task.abort();
        }
    }
}
