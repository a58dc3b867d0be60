use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use tokio::sync::{mpsc, oneshot, watch};

use super::{
    CommitLimits, ConsensusDriver, Effect, Leadership, Outcome, Reads, Report, Snapshot, VERSION,
    Version,
};
use crate::{
    BootTime, Clock, Error, ErrorKind, Latency, NodeId, Result, SeqStore, SystemClock,
    series::STORE_SYNC_DURATION,
    state::{CLAIM, NODE, REIGN},
};

/// How many calls may wait for the store's thread. The engine has a few under way at once.
const QUEUE: usize = 64;

/// Bounds the memory and the time of one commit.
const LIMITS: CommitLimits = CommitLimits { writes: 16_384, bytes: 1 << 20 };

/// The only claim there is: this node leads from the start to the end.
const CLAIM_OF_PROCESS: u64 = 1;

/// A driver over any store that one process owns: it always leads.
///
/// A thread owns the store. The first storage error is final: the store is not called again, leadership
/// ends, and every later call fails with it.
#[derive(Debug)]
pub struct LocalDriver {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
    writes: Arc<Latency>,
}

#[derive(Debug)]
enum Job {
    Commit { base: Version, effect: Effect, reply: oneshot::Sender<Result<Outcome>> },
    Read { wanted: Reads, reply: oneshot::Sender<Result<Snapshot>> },
    Stop,
}

impl LocalDriver {
    /// Takes the store, and leads.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open<S: SeqStore>(store: S) -> Result<Arc<Self>> {
        Self::open_with(|| Ok(store)).await
    }

    /// As [`open`](Self::open), with a store that is opened by the thread which then owns it.
    /// Opening may block.
    ///
    /// Dropping the future does not undo the opening; the store is dropped as soon as it has ended.
    ///
    /// # Errors
    /// Those of `open`, and those of the store.
    pub async fn open_with<S: SeqStore>(
        open: impl FnOnce() -> Result<S> + Send + 'static,
    ) -> Result<Arc<Self>> {
        Self::open_by(Arc::new(SystemClock), open).await
    }

    /// As [`open_with`](Self::open_with), and by this clock it is told how long the store takes for a commit.
    ///
    /// # Errors
    /// As there.
    pub async fn open_by<S: SeqStore>(
        clock: Arc<dyn Clock>,
        open: impl FnOnce() -> Result<S> + Send + 'static,
    ) -> Result<Arc<Self>> {
        let (opened, started) = oneshot::channel();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (lead, leadership) = watch::channel(Leadership::Unknown);
        let writes = Arc::new(Latency::shown_as(STORE_SYNC_DURATION));
        let timed = Timed { writes: writes.clone(), clock };
        let thread = thread::Builder::new()
            .name("tsoracle-store".into())
            .spawn(move || match open().and_then(|store| Owner::new(store, timed)) {
                Ok((mut owner, node)) => {
                    lead.send_replace(Leadership::Leader { claim: CLAIM_OF_PROCESS });
                    owner.lead = Some(lead);
                    // If no caller waits for the driver any more, the queue is closed as well.
                    let _ = opened.send(Ok(node));
                    owner.run(queue);
                }
                // The store is dropped by now: it may be opened again at once.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|source| fatal("cannot start the store's thread").with_source(source))?;
        let node = started.await.map_err(|_| fatal("the store panicked while it was opened"))??;
        Ok(Arc::new(Self { node, leadership, jobs, thread: Mutex::new(Some(thread)), writes }))
    }

    async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        self.jobs.send(job(reply)).await.map_err(|_| stopped())?;
        // The thread answers every job it takes; a job left in the queue at the end was not begun.
        answer.await.map_err(|_| stopped())?
    }
}

#[async_trait]
impl ConsensusDriver for LocalDriver {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let wanted = wanted.clone();
        self.submit(|reply| Job::Read { wanted, reply }).await
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        self.submit(|reply| Job::Commit { base, effect, reply }).await
    }

    /// Nothing, since no other process writes while this one has the store.
    fn seen(&self, _: &Version) -> Option<BootTime> {
        None
    }

    async fn resign(&self, _: u64) {}

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn report(&self, now: BootTime) -> Report {
        Report { writes: Some(self.writes.summary(now)), ..Report::default() }
    }

    async fn shutdown(&self) -> Result<()> {
        // A closed queue means that the thread has ended already.
        let _ = self.jobs.send(Job::Stop).await;
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        let Some(thread) = thread else { return Ok(()) };
        let joined = tokio::task::spawn_blocking(move || thread.join()).await;
        match joined {
            Ok(Ok(())) => Ok(()),
            _ => Err(fatal("the store's thread panicked")),
        }
    }
}

/// How long the store takes to make a commit durable, and by which clock.
struct Timed {
    writes: Arc<Latency>,
    clock: Arc<dyn Clock>,
}

/// The thread's side: the store, the version of its state, and the first error it gave.
struct Owner<S> {
    store: S,
    version: Version,
    /// Dropped at the first error, which closes the channel.
    lead: Option<watch::Sender<Leadership>>,
    latched: Option<Error>,
    timed: Timed,
}

impl<S: SeqStore> Owner<S> {
    /// Finds or draws the node's id. A state without a version is empty, or one of before there were any.
    fn new(mut store: S, timed: Timed) -> Result<(Self, NodeId)> {
        let mut version = Version::decode(SeqStore::get(&store, VERSION)?.as_deref())?;
        let node = SeqStore::get(&store, NODE)?.map(|bytes| node_id(&bytes)).transpose()?;
        if version == Version::EMPTY && node.is_none() && SeqStore::get(&store, REIGN)?.is_some() {
            let context = "the state has entries, but no version; it is damaged";
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let (node, is_known) = match node {
            Some(node) => (node, true),
            None => (NodeId(draw()?), false),
        };
        if version == Version::EMPTY || !is_known {
            version = version.next(draw()?)?;
            let mut effect = Effect::default();
            effect.put(NODE, node.0.to_be_bytes());
            effect.delete(CLAIM);
            effect.set_version(version);
            store.commit(effect)?;
        }
        Ok((Self { store, version, lead: None, latched: None, timed }, node))
    }

    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            // A caller that has gone does not undo what was done for it.
            match job {
                Job::Commit { base, effect, reply } => {
                    let _ = reply.send(self.commit(base, effect));
                    // What the store has put off until it is read is done while the caller goes on.
                    let _ = self.guard(|store| SeqStore::get(store, VERSION));
                }
                Job::Read { wanted, reply } => {
                    let _ = reply.send(self.guard(|store| wanted.read_from(store)));
                }
                Job::Stop => break,
            }
        }
    }

    fn commit(&mut self, base: Version, effect: Effect) -> Result<Outcome> {
        if let Some(error) = &self.latched {
            return Err(error.clone());
        }
        let next = effect.version()?;
        match base.admits(next, self.version) {
            Some(Outcome::Stored) if self.version != next => {}
            Some(outcome) => return Ok(outcome),
            None => return Err(ahead(base, self.version)),
        }
        let (writes, began) = (self.timed.writes.clone(), self.timed.clock.now().boot);
        let timing = writes.begin(began);
        self.guard(|store| store.commit(effect)).map_err(|error| {
            let context = "the commit failed, and may or may not be stored";
            Error::new(ErrorKind::Uncertain, context).with_source(error)
        })?;
        timing.end(self.timed.clock.now().boot);
        self.version = next;
        Ok(Outcome::Stored)
    }

    /// Calls the store unless it has failed before, and latches its first error or panic.
    fn guard<T>(&mut self, call: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.latched {
            return Err(error.clone());
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut self.store)))
            .unwrap_or_else(|_| Err(fatal("the store panicked")));
        outcome.inspect_err(|error| {
            tracing::error!(error = %format_args!("{error:#}"), "storage failed; this process serves no more");
            self.latched = Some(Error::new(
                match error.kind() {
                    ErrorKind::Corrupt => ErrorKind::Corrupt,
                    _ => ErrorKind::Fatal,
                },
                format!("storage failed, and is not tried again: {error:#}"),
            ));
            self.lead = None;
        })
    }
}

/// Gives the node of a store another id: for a directory that [was copied](crate::Directory::is_copy), whose lock
/// proves no earlier process dead.
///
/// # Errors
/// `Fatal` if the system has no randomness.
pub fn new_node() -> Result<Effect> {
    let mut effect = Effect::default();
    effect.put(NODE, draw()?.to_be_bytes());
    Ok(effect)
}

fn node_id(bytes: &[u8]) -> Result<NodeId> {
    bytes.try_into().map(|bytes| NodeId(u128::from_be_bytes(bytes))).map_err(|_| {
        let key = NODE.escape_ascii();
        Error::new(ErrorKind::Corrupt, format!("the value under {key} is not 16 bytes long"))
    })
}

pub(super) fn draw() -> Result<u128> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes)
        .map_err(|source| fatal("no randomness for an id").with_source(source))?;
    Ok(u128::from_be_bytes(bytes))
}

/// The error of a commit on a version that this state has never had.
fn ahead(base: Version, at: Version) -> Error {
    let context = format!("a commit on {base:?} came to a state that is at {at:?} only");
    Error::new(ErrorKind::Unavailable, context)
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}

#[cfg(test)]
mod tests {
    use std::sync::atomic::{AtomicUsize, Ordering};

    use super::*;
    use crate::{Entry, MemoryStore};

    /// Fails every commit but the first one, and counts its calls.
    #[derive(Debug)]
    struct Failing {
        store: MemoryStore,
        commits: usize,
        calls: Arc<AtomicUsize>,
    }

    impl SeqStore for Failing {
        fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.store.get(key)
        }

        fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.store.scan(from, to, limit)
        }

        fn commit(&mut self, effect: Effect) -> Result<()> {
            self.calls.fetch_add(1, Ordering::Relaxed);
            self.commits += 1;
            if self.commits > 1 {
                Err(fatal("the disk is gone"))
            } else {
                self.store.commit(effect)
            }
        }
    }

    #[tokio::test]
    async fn after_an_error_the_store_is_not_called_again() {
        let calls = Arc::<AtomicUsize>::default();
        let store = Failing { store: MemoryStore::default(), commits: 0, calls: calls.clone() };
        let driver = LocalDriver::open(store).await.unwrap();
        let base = driver.read(&Reads::default()).await.unwrap().version;
        let effect = || {
            let mut effect = Effect::default();
            effect.set_version(base.next(1).unwrap());
            effect
        };
        let error = driver.commit(base, effect()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Uncertain);
        let before = calls.load(Ordering::Relaxed);
        let error = driver.commit(base, effect()).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
        let error = driver.read(&Reads::keys(["a"])).await.unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
        assert_eq!(calls.load(Ordering::Relaxed), before);
        assert!(driver.leadership().has_changed().is_err(), "the channel of leadership is open");
    }
}
