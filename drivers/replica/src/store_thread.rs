//! The thread that owns a replica, and everything that goes through it.

use std::{
    fmt,
    sync::{Arc, Mutex, PoisonError, atomic::Ordering, mpsc},
    thread::JoinHandle,
    time::Duration,
};

use tokio::{
    sync::{Notify, oneshot, watch},
    task::spawn_blocking,
};
use tsoracle_core::{
    BootTime, Clock, Effect, Error, ErrorKind, Latency, Reads, Result, Snapshot, Version,
};
use tsoracle_store::Table;

use crate::{
    Evidence, Replica, SteppedStore,
    snapshot::Chunks,
    store_owner::{Owner, Status},
};

/// Speaks to the thread that owns a [`Replica`]. Cheap to clone.
///
/// Jobs are done in the order in which they were submitted, except that writes which wait share a sync.
/// The first error or panic is final: afterwards every job fails with it, and the store is not used
/// again.
#[derive(Clone)]
pub struct StoreThread(Arc<Inner>);

struct Inner {
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<Thread>>,
    evidence: Evidence,
    writes: Arc<Latency>,
    status: Arc<Status>,
    clock: Arc<dyn Clock>,
    /// Wakes the simulation, if it has the place of the thread.
    asked: Option<Arc<Notify>>,
}

/// What does the jobs.
enum Thread {
    Own(JoinHandle<()>),
    /// A simulation, which tells when it has ended.
    Simulated(oneshot::Receiver<()>),
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

pub(crate) enum Job {
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
        clock: Arc<dyn Clock>,
        open: impl FnOnce() -> Result<(Replica, T)> + Send + 'static,
    ) -> Result<(Self, T)> {
        let (jobs, queue) = mpsc::channel();
        let (opened, opening) = oneshot::channel();
        let status = Arc::<Status>::default();
        let (own, own_clock) = (status.clone(), clock.clone());
        let thread = std::thread::Builder::new()
            .name("tsoracle-store".into())
            .spawn(move || match open() {
                Ok((replica, found)) => {
                    let shown = (replica.evidence(), replica.writes());
                    // If no caller waits any more, the queue is closed as well.
                    let _ = opened.send(Ok((shown, found)));
                    Owner::new(replica, own, own_clock).run(&queue);
                }
                // The store is dropped by now: it may be opened again at once.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|source| fatal("cannot start the store's thread").with_source(source))?;
        let ((evidence, writes), found) =
            opening.await.map_err(|_| fatal("the store panicked while it was opened"))??;
        let thread = Mutex::new(Some(Thread::Own(thread)));
        let asked = None;
        let inner = Inner { jobs, thread, evidence, writes, status, clock, asked };
        Ok((Self(Arc::new(inner)), found))
    }

    /// What a simulation does itself, in the place of a thread.
    pub fn simulated(clock: Arc<dyn Clock>, replica: Replica) -> (Self, SteppedStore) {
        let (jobs, queue) = mpsc::channel();
        let (asked, status) = (Arc::<Notify>::default(), Arc::<Status>::default());
        let (ending, ended) = oneshot::channel();
        let (evidence, writes) = (replica.evidence(), replica.writes());
        let owner = Owner::new(replica, status.clone(), clock.clone());
        let stepped = SteppedStore::new(owner, queue, asked.clone(), ending);
        let thread = Mutex::new(Some(Thread::Simulated(ended)));
        let asked = Some(asked);
        let inner = Inner { jobs, thread, evidence, writes, status, clock, asked };
        (Self(Arc::new(inner)), stepped)
    }

    /// When commits were first observed.
    pub fn evidence(&self) -> &Evidence {
        &self.0.evidence
    }

    /// How long writes take up to where they are durable.
    pub fn writes(&self) -> &Latency {
        &self.0.writes
    }

    /// Has `write` made, after all that were submitted before.
    pub fn submit(&self, write: Write) {
        self.send(Job::Write(write, self.0.clock.now().boot));
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
            since => self.0.clock.now().boot.since(BootTime::from_nanos(since)),
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
        let ended = match thread {
            None => true,
            Some(Thread::Own(thread)) => {
                matches!(spawn_blocking(move || thread.join()).await, Ok(Ok(())))
            }
            Some(Thread::Simulated(ended)) => ended.await.is_err(),
        };
        if ended { Ok(()) } else { Err(fatal("the store's thread panicked")) }
    }

    fn send(&self, job: Job) {
        // Fails if the thread has ended; callers that wait learn it as the job is dropped.
        let _ = self.0.jobs.send(job);
        if let Some(asked) = &self.0.asked {
            asked.notify_one();
        }
    }
}

impl fmt::Debug for StoreThread {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("StoreThread").finish_non_exhaustive()
    }
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}
