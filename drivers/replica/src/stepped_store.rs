use std::sync::{Arc, mpsc};

use tokio::sync::{Notify, oneshot};
use tsoracle_core::Result;

use crate::{Replica, store_owner::Owner, store_thread::Job};

/// What the thread of a [`StoreThread`](crate::StoreThread) does, a step at a time: for simulations, in which
/// a sync takes as long as they want.
pub struct SteppedStore {
    owner: Owner,
    queue: mpsc::Receiver<Job>,
    asked: Arc<Notify>,
    /// A job that waits for the sync which is under way.
    held: Option<Job>,
    written: Option<Result<()>>,
    /// Dropped when it has stopped.
    _ending: oneshot::Sender<()>,
}

/// What comes next.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Next {
    /// A step, once [`SteppedStore::asked`] returns.
    Wait,
    /// A step, once what was written is durable.
    Sync,
    /// Nothing. It is to be dropped.
    Stopped,
}

impl SteppedStore {
    pub(crate) fn new(
        owner: Owner,
        queue: mpsc::Receiver<Job>,
        asked: Arc<Notify>,
        _ending: oneshot::Sender<()>,
    ) -> Self {
        Self { owner, queue, asked, held: None, written: None, _ending }
    }

    /// Returns once there may be something to do.
    pub async fn asked(&mut self) {
        self.asked.notified().await;
    }

    /// Does what can be done until the next sync.
    pub fn step(&mut self) -> Next {
        if let Some(written) = self.written.take() {
            self.owner.written(written);
        }
        while let Some(job) = self.held.take().or_else(|| self.queue.try_recv().ok()) {
            if self.owner.must_flush(&job) {
                self.written = self.owner.write();
                if self.written.is_some() {
                    self.held = Some(job);
                    return Next::Sync;
                }
            }
            if !self.owner.perform(job) {
                return Next::Stopped;
            }
        }
        self.written = self.owner.write();
        if self.written.is_some() { Next::Sync } else { Next::Wait }
    }

    /// What is owned.
    pub fn replica(&self) -> &Replica {
        &self.owner.replica
    }
}

#[cfg(test)]
mod tests {
    use tsoracle_core::{BootTime, SystemClock};
    use tsoracle_store::Store;

    use super::*;
    use crate::StoreThread;

    #[test]
    fn where_nothing_waits_nothing_is_synced() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let replica = Replica::open(store, BootTime::from_nanos(1)).unwrap();
        let (_thread, mut stepped) = StoreThread::simulated(Arc::new(SystemClock), replica);
        assert_eq!(stepped.step(), Next::Wait);
    }
}
