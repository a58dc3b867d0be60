//! The thread that owns a replica, and everything that goes through it.

use std::{
    fmt, mem,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use tsoracle_core::{
    BootTime, Clock as _, Effect, Error, ErrorKind, Reads, Result, Snapshot, SystemClock, Version,
};
use tsoracle_store::Table;

use crate::{Evidence, Latch, Replica, snapshot::Chunks};

/// Jobs that are done before those among them that wait for a sync get it.
const SHARE: usize = 256;

/// Speaks to the thread that owns a [`Replica`]. Cheap to clone.
///
/// Jobs are done in the order in which they were submitted, except that writes which wait share a sync.
/// The first error or panic is final: afterwards every job fails with it, and the store is not used
/// again.
#[derive(Clone)]
pub struct StoreThread(Arc<Inner>);

struct Inner {
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
    evidence: Evidence,
    status: Arc<Status>,
}

/// What the thread lets others see.
struct Status {
    failed: watch::Sender<Option<Arc<Error>>>,
    /// Since when a sync has been under way, in nanoseconds of boot time; 0 if none is.
    syncing_since: AtomicU64,
}

/// Writes that may share a sync with others.
pub struct Write {
    /// The writes.
    pub writes: Vec<(Table, Effect)>,
    /// The index of the first log entry among them, if there is one.
    pub first: Option<u64>,
    /// The commits that come into the log by them.
    pub logged: Vec<Version>,
    /// Called by the thread once they are durable, or have failed.
    pub done: Box<dyn FnOnce(Result<()>) + Send>,
}

/// What has to be durable before a job is done.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum After {
    /// Nothing.
    Anytime,
    /// The log up to this index. What is applied must be on this node's disk as well: a crash undoes
    /// applying, and it is done again from the log.
    Log(u64),
    /// Everything that was submitted before.
    Everything,
}

enum Job {
    Write(Write, BootTime),
    Work(After, Box<dyn FnOnce(&mut Owner) + Send>),
    Stop,
}

impl StoreThread {
    /// Starts the thread, which opens its replica by itself, with whatever else was found.
    ///
    /// # Errors
    /// Those of `open`. The store is closed then.
    pub async fn start<T: Send + 'static>(
        open: impl FnOnce() -> Result<(Replica, T)> + Send + 'static,
    ) -> Result<(Self, T)> {
        let (jobs, queue) = mpsc::channel();
        let (opened, opening) = oneshot::channel();
        let (failed, syncing_since) = (watch::Sender::new(None), AtomicU64::new(0));
        let status = Arc::new(Status { failed, syncing_since });
        let own = status.clone();
        let thread = std::thread::Builder::new()
            .name("tsoracle-store".into())
            .spawn(move || match open() {
                Ok((replica, found)) => {
                    let evidence = replica.evidence();
                    // If no caller waits any more, the queue is closed as well.
                    let _ = opened.send(Ok((evidence, found)));
                    let latch = Latch::default();
                    Owner { replica, pending: vec![], latch, status: own }.run(&queue);
                }
                // The store is dropped by now: it may be opened again at once.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|source| fatal("cannot start the store's thread").with_source(source))?;
        let (evidence, found) =
            opening.await.map_err(|_| fatal("the store panicked while it was opened"))??;
        let thread = Mutex::new(Some(thread));
        Ok((Self(Arc::new(Inner { jobs, thread, evidence, status })), found))
    }

    /// When commits were first observed.
    pub fn evidence(&self) -> &Evidence {
        &self.0.evidence
    }

    /// Has `write` made, after all that were submitted before.
    pub fn submit(&self, write: Write) {
        self.send(Job::Write(write, SystemClock.now().boot));
    }

    /// Has `writes` made in this order, and returns what waits until they are durable.
    pub fn write(
        &self,
        writes: Vec<(Table, Effect)>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        let done = Box::new(|written| drop(reply.send(written)));
        self.submit(Write { writes, first: None, logged: vec![], done });
        async move { answer.await.map_err(|_| stopped())? }
    }

    /// Has the thread do `work`. Dropping the future does not keep it from being done.
    pub fn run<T, W>(
        &self,
        after: After,
        work: W,
    ) -> impl Future<Output = Result<T>> + Send + use<T, W>
    where
        T: Send + 'static,
        W: FnOnce(&mut Replica) -> Result<T> + Send + 'static,
    {
        let (reply, answer) = oneshot::channel();
        let work = Box::new(|owner: &mut Owner| drop(reply.send(owner.guard(work))));
        self.send(Job::Work(after, work));
        // A job that the thread never does is dropped, with its reply.
        async move { answer.await.map_err(|_| stopped())? }
    }

    /// Reads from all that was applied.
    ///
    /// # Errors
    /// Those of the store, and the one that it has failed with.
    pub async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let wanted = wanted.clone();
        self.run(After::Anytime, move |replica| replica.read(&wanted)).await
    }

    /// The state as of now, to be sent elsewhere.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn snapshot(&self) -> Result<Chunks> {
        self.run(After::Anytime, Replica::snapshot).await
    }

    /// For how long the disk has not answered.
    pub fn stalled_for(&self) -> Duration {
        match self.0.status.syncing_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => SystemClock.now().boot.since(BootTime::from_nanos(since)),
        }
    }

    /// Why the store has failed, once it has.
    pub fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.0.status.failed.subscribe()
    }

    /// Ends the thread, after what was submitted before, and closes the store. Snapshots may be read on.
    ///
    /// # Errors
    /// `Fatal` if the thread panicked.
    pub async fn stop(&self) -> Result<()> {
        self.send(Job::Stop);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(fatal("the store's thread panicked")),
        }
    }

    fn send(&self, job: Job) {
        // Fails if the thread has ended; callers that wait are told as the job is dropped.
        let _ = self.0.jobs.send(job);
    }
}

impl fmt::Debug for StoreThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreThread").finish_non_exhaustive()
    }
}

/// The thread's side.
struct Owner {
    replica: Replica,
    /// Writes that wait for the next sync, and when each was submitted.
    pending: Vec<(Write, BootTime)>,
    latch: Latch,
    status: Arc<Status>,
}

impl Owner {
    fn run(mut self, queue: &mpsc::Receiver<Job>) {
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

    /// Does one job, or puts it with those that wait for the next sync. False once told to stop.
    fn take(&mut self, job: Job) -> bool {
        match job {
            Job::Write(write, now) => self.pending.push((write, now)),
            Job::Work(after, work) => {
                let must_wait = |first: u64| match after {
                    After::Anytime => false,
                    After::Log(last) => first <= last,
                    After::Everything => true,
                };
                let mut pending = self.pending.iter();
                if after == After::Everything
                    || pending.any(|(write, _)| write.first.is_some_and(must_wait))
                {
                    self.flush();
                }
                work(self);
            }
            Job::Stop => {
                self.flush();
                // What cannot be written is applied again by the next start.
                let _ = self.guard(Replica::settle);
                return false;
            }
        }
        true
    }

    /// Makes what waits durable, with one sync.
    fn flush(&mut self) {
        if self.pending.is_empty() {
            return;
        }
        let mut pending = mem::take(&mut self.pending);
        let writes: Vec<_> =
            pending.iter_mut().flat_map(|(write, _)| mem::take(&mut write.writes)).collect();
        let now = SystemClock.now().boot.as_nanos();
        self.status.syncing_since.store(now, Ordering::Release);
        let written = self.guard(|replica| replica.write(writes));
        self.status.syncing_since.store(0, Ordering::Release);
        for (write, submitted) in pending {
            for version in write.logged {
                self.replica.evidence().logged(version, submitted);
            }
            (write.done)(match &written {
                Ok(()) => Ok(()),
                Err(error) => Err(error.clone()),
            });
        }
    }

    fn guard<T>(&mut self, work: impl FnOnce(&mut Replica) -> Result<T>) -> Result<T> {
        let outcome = self.latch.guard(|| work(&mut self.replica));
        if let Some(error) = self.latch.error()
            && self.status.failed.borrow().is_none()
        {
            self.status.failed.send_replace(Some(Arc::new(error.clone())));
        }
        outcome
    }
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}
