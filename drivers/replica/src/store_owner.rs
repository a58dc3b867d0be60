//! What owns a replica: the side of the thread.

use std::{
    mem,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
};

use tokio::sync::watch;
use tsoracle_core::{BootTime, Clock, Error, Result};

use crate::{
    Latch, Replica,
    store_thread::{After, Job, Write},
};

/// Jobs that are done before those among them that wait for a sync get it.
const SHARE: usize = 256;

/// What the thread lets others see.
pub(crate) struct Status {
    pub(crate) failed: watch::Sender<Option<Arc<Error>>>,
    /// Since when a sync has been under way, in nanoseconds of boot time; 0 if none is.
    pub(crate) syncing_since: AtomicU64,
}

impl Default for Status {
    fn default() -> Self {
        Self { failed: watch::Sender::new(None), syncing_since: AtomicU64::new(0) }
    }
}

/// Does the jobs.
pub(crate) struct Owner {
    pub(crate) replica: Replica,
    /// Writes that wait for the next sync, and when each was submitted.
    pending: Vec<(Write, BootTime)>,
    latch: Latch,
    status: Arc<Status>,
    clock: Arc<dyn Clock>,
}

impl Owner {
    pub(crate) fn new(replica: Replica, status: Arc<Status>, clock: Arc<dyn Clock>) -> Self {
        Self { replica, pending: vec![], latch: Latch::default(), status, clock }
    }

    pub(crate) fn run(mut self, queue: &mpsc::Receiver<Job>) {
        while let Ok(job) = queue.recv() {
            let mut goes_on = self.take(job);
            // Whatever came meanwhile shares the sync.
            for _ in 0..SHARE {
                match queue.try_recv() {
                    Ok(job) if goes_on => goes_on = self.take(job),
                    _ => break,
                }
            }
            self.flush();
            if !goes_on {
                return;
            }
        }
    }

    /// Does one job, or puts it with those that wait for the next sync. False once it was stopped.
    fn take(&mut self, job: Job) -> bool {
        if self.must_flush(&job) {
            self.flush();
        }
        self.perform(job)
    }

    /// Whether writes that wait have to be durable before the job is done.
    pub(crate) fn must_flush(&self, job: &Job) -> bool {
        match job {
            Job::Write(..) | Job::Work(After::Anytime, _) => false,
            Job::Work(After::Everything, _) | Job::Stop => true,
            Job::Work(After::Log(last), _) => {
                let must_wait = |first: u64| first <= *last;
                self.pending.iter().any(|(write, _)| write.first.is_some_and(must_wait))
            }
        }
    }

    /// Does one job, or puts it with those that wait for the next sync. False once it was stopped.
    pub(crate) fn perform(&mut self, job: Job) -> bool {
        match job {
            Job::Write(write, now) => self.pending.push((write, now)),
            Job::Work(_, work) => work(self),
            Job::Stop => {
                // What cannot be written is applied again by the next start.
                let _ = self.guard(Replica::settle);
                return false;
            }
        }
        true
    }

    fn flush(&mut self) {
        if let Some(written) = self.write() {
            self.written(written);
        }
    }

    /// Makes what waits durable, with one sync. None if nothing waits; otherwise
    /// [`written`](Self::written) comes next.
    pub(crate) fn write(&mut self) -> Option<Result<()>> {
        if self.pending.is_empty() {
            return None;
        }
        let writes: Vec<_> =
            self.pending.iter_mut().flat_map(|(write, _)| mem::take(&mut write.writes)).collect();
        let now = self.clock.now().boot.as_nanos();
        self.status.syncing_since.store(now, Ordering::Release);
        Some(self.guard(|replica| replica.write(writes)))
    }

    /// Tells those who wait how it went.
    pub(crate) fn written(&mut self, written: Result<()>) {
        self.status.syncing_since.store(0, Ordering::Release);
        for (write, submitted) in mem::take(&mut self.pending) {
            for version in write.logged {
                self.replica.evidence().logged(version, submitted);
            }
            (write.done)(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(error.clone()),
            });
        }
    }

    pub(crate) fn guard<T>(&mut self, work: impl FnOnce(&mut Replica) -> Result<T>) -> Result<T> {
        let outcome = self.latch.guard(|| work(&mut self.replica));
        if let Some(error) = self.latch.error()
            && self.status.failed.borrow().is_none()
        {
            self.status.failed.send_replace(Some(Arc::new(error.clone())));
        }
        outcome
    }
}
