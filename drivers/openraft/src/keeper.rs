//! The thread that owns the store, and everything that goes through it.

mod job;
mod thread;

use std::{
    path::PathBuf,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicU64, Ordering},
        mpsc,
    },
    thread::JoinHandle,
    time::Duration,
};

use tokio::sync::{oneshot, watch};
use tsoracle_cluster::{Cluster, EntryId, Identity};
use tsoracle_core::{
    BootTime, Clock as _, Error, ErrorKind, NodeId, Result, SystemClock,
    state::{Answer, Effect, Query},
};
use tsoracle_store::{StateView, Table};

use self::job::{Job, Write};
use crate::{
    types::{Applied, Entry, Meta, SnapshotFile},
    waiting::Waiting,
};

pub(crate) use self::thread::{BUILT, LOG, Opened, RAFT};

/// Speaks to the thread that owns the store. Cheap to clone.
#[derive(Clone, Debug)]
pub(crate) struct Keeper(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
    snapshots: PathBuf,
    /// Every start has another one.
    first_claim: u32,
    files: AtomicU64,
    /// Since when a sync has been under way, in nanoseconds of boot time; 0 if none is.
    syncing_since: Arc<AtomicU64>,
    current: Mutex<Option<(Meta, SnapshotFile)>>,
    /// Held by whoever builds a snapshot, which keeps the store's file open.
    building: Arc<tokio::sync::Semaphore>,
    failed: watch::Receiver<Option<Arc<Error>>>,
}

impl Keeper {
    /// Opens the store of `cluster`'s directory in a thread of its own, and finds who it is.
    ///
    /// # Errors
    /// Those of the store and of [`Identity::open`].
    pub(crate) async fn open(
        cluster: &Cluster,
        waiting: Arc<Waiting>,
    ) -> Result<(Self, Identity, Opened)> {
        let (jobs, queue) = mpsc::channel();
        let (opened, started) = oneshot::channel();
        let (failing, failed) = watch::channel(None);
        let syncing_since = Arc::<AtomicU64>::default();
        let thread = std::thread::Builder::new()
            .name("tsoracle-store".into())
            .spawn({
                let cluster = cluster.clone();
                let shows =
                    thread::Shows { waiting, failing, syncing_since: syncing_since.clone() };
                move || thread::run(&cluster, shows, queue, opened)
            })
            .map_err(|source| fatal("cannot start the store's thread").with_source(source))?;
        let (identity, opened) =
            started.await.map_err(|_| fatal("the store panicked while it was opened"))??;
        let keeper = Self(Arc::new(Inner {
            jobs,
            thread: Mutex::new(Some(thread)),
            snapshots: thread::snapshots(&cluster.path),
            first_claim: identity.claim(),
            files: AtomicU64::new(0),
            syncing_since,
            current: Mutex::new(opened.snapshot.clone()),
            building: Arc::new(tokio::sync::Semaphore::new(1)),
            failed,
        }));
        Ok((keeper, identity, opened))
    }

    /// Has log entries written, from `first` on, of which those named were seen now; calls `done`
    /// when they are durable.
    pub(crate) fn append(
        &self,
        first: u64,
        effect: Effect,
        seen: Vec<EntryId>,
        done: impl FnOnce(Result<()>) + Send + 'static,
    ) {
        let now = SystemClock.now().boot;
        let write =
            Write { first: Some(first), seen, now, ..Write::new(vec![(LOG, effect)], done) };
        self.submit(Job::Write(write));
    }

    /// Makes `writes`, durable on return.
    pub(crate) async fn write_now(&self, writes: Vec<(Table, Effect)>) -> Result<()> {
        self.begin(writes).await
    }

    /// Has `writes` made in this order, and returns what waits until they are durable.
    pub(crate) fn begin(
        &self,
        writes: Vec<(Table, Effect)>,
    ) -> impl Future<Output = Result<()>> + Send + use<> {
        let (reply, answer) = oneshot::channel();
        self.submit(Job::Write(Write::new(writes, move |done| drop(reply.send(done)))));
        async move { answer.await.map_err(|_| stopped())? }
    }

    /// The log entries from `from` to before `to`, as they are stored.
    pub(crate) async fn log(&self, from: u64, to: u64) -> Result<Vec<Vec<u8>>> {
        self.ask(|reply| Job::Log { from, to, reply }).await
    }

    /// The value under `key` of this driver's own table.
    pub(crate) async fn read(&self, key: &'static [u8]) -> Result<Option<Vec<u8>>> {
        self.ask(|reply| Job::Read { key, reply }).await
    }

    pub(crate) async fn apply(&self, entries: Vec<Entry>) -> Result<()> {
        self.ask(|reply| Job::Apply { entries, reply }).await
    }

    pub(crate) async fn applied(&self) -> Result<Applied> {
        self.ask(|reply| Job::Applied { reply }).await
    }

    pub(crate) async fn answer(&self, query: Query) -> Result<Answer> {
        self.ask(|reply| Job::Answer { query, reply }).await
    }

    /// Raises the node's claim, durably.
    pub(crate) async fn raise_claim(&self) -> Result<u32> {
        self.ask(|reply| Job::Claim { reply }).await
    }

    /// Remembers by which id a node is known, durably.
    pub(crate) async fn know(&self, node: u32, id: NodeId) -> Result<()> {
        let mut effect = Effect::default();
        effect.put(node.to_be_bytes(), id.0.to_be_bytes());
        self.write_now(vec![(thread::KNOWN, effect)]).await
    }

    /// The state as of now, and how far it has come.
    pub(crate) async fn view(&self) -> Result<(Applied, StateView)> {
        self.ask(|reply| Job::View { reply }).await
    }

    /// Makes the file the current snapshot, unless that is further already.
    pub(crate) async fn publish(&self, meta: Meta, file: SnapshotFile) -> Result<()> {
        let published = {
            let (meta, file) = (meta.clone(), file.clone());
            self.ask(|reply| Job::Publish { meta, file, reply }).await?
        };
        if published {
            self.set_current(meta, file);
        }
        Ok(())
    }

    /// Replaces the state by the snapshot in `file`, a file of this node's own, and makes that the
    /// current one.
    pub(crate) async fn install(&self, meta: Meta, file: SnapshotFile) -> Result<()> {
        let (state, path) = (meta.clone(), file.clone());
        self.ask(|reply| Job::Install { meta: state, file: path, reply }).await?;
        self.set_current(meta, file);
        Ok(())
    }

    pub(crate) fn current_snapshot(&self) -> Option<(Meta, SnapshotFile)> {
        self.0.current.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn set_current(&self, meta: Meta, file: SnapshotFile) {
        let mut current = self.0.current.lock().unwrap_or_else(PoisonError::into_inner);
        if current.as_ref().is_none_or(|(known, _)| known.last_log_id <= meta.last_log_id) {
            *current = Some((meta, file));
        }
    }

    /// A name that no file ever had, beginning with `kind`.
    pub(crate) fn new_file(&self, kind: &str) -> SnapshotFile {
        let number = self.0.files.fetch_add(1, Ordering::Relaxed);
        let claim = self.0.first_claim;
        SnapshotFile(self.0.snapshots.join(format!("{kind}{claim}-{number}")))
    }

    /// Keeps the store open for as long as it is held.
    pub(crate) async fn build(&self) -> Result<tokio::sync::OwnedSemaphorePermit> {
        self.0.building.clone().acquire_owned().await.map_err(|_| stopped())
    }

    /// For how long the disk has not answered.
    pub(crate) fn hangs_for(&self) -> Duration {
        match self.0.syncing_since.load(Ordering::Acquire) {
            0 => Duration::ZERO,
            since => SystemClock.now().boot.since(BootTime::from_nanos(since)),
        }
    }

    /// Why the store has failed, once it has. Closed when the thread has ended.
    pub(crate) fn failed(&self) -> watch::Receiver<Option<Arc<Error>>> {
        self.0.failed.clone()
    }

    /// Ends the thread, after what was submitted before, and lets the directory go.
    pub(crate) async fn stop(&self) -> Result<()> {
        // Waits for whoever holds a view.
        let _ = self.0.building.acquire().await;
        self.0.building.close();
        self.submit(Job::Stop);
        let thread = self.0.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        match tokio::task::spawn_blocking(move || thread.join()).await {
            Ok(Ok(())) => Ok(()),
            _ => Err(fatal("the store's thread panicked")),
        }
    }

    async fn ask<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.submit(job(reply));
        // A job that the thread does not come to is dropped, with its reply.
        answer.await.map_err(|_| stopped())?
    }

    fn submit(&self, job: Job) {
        // Fails if the thread has ended; whoever waits is told as the job is dropped.
        let _ = self.0.jobs.send(job);
    }
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}

/// When something that was never seen was seen.
const NEVER: BootTime = BootTime::from_nanos(0);
