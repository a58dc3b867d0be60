use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::{Arc, Mutex, PoisonError},
    thread::{self, JoinHandle},
};

use async_trait::async_trait;
use tokio::{
    sync::{mpsc, oneshot, watch},
    task::unconstrained,
};

use crate::{
    CommitLimits, Committed, ConsensusDriver, Epoch, Error, ErrorKind, Leadership, Membership,
    NodeId, Result, SeqStore,
    state::{self, Answer, CLAIM, Command, Effect, NODE, Query},
};

/// How many calls may wait for the store's thread. The engine has a few under way at once.
const QUEUE: usize = 64;

/// Bounds the memory and the time of one commit.
const LIMITS: CommitLimits = CommitLimits { commands: 4_096, bytes: 1 << 20 };

/// A driver over any store that one process owns: it always leads.
///
/// A thread owns the store. Every open claims an epoch above all before it. The first storage error
/// is final: the store is not called again, leadership ends, and every later call fails with it.
#[derive(Debug)]
pub struct LocalDriver {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    jobs: mpsc::Sender<Job>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

#[derive(Debug)]
enum Job {
    Commit { epoch: Epoch, commands: Vec<Command>, reply: oneshot::Sender<Result<Committed>> },
    Read { query: Query, reply: oneshot::Sender<Result<Answer>> },
    Stop,
}

impl LocalDriver {
    /// Takes the store, claims an epoch, and leads.
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
        let (opened, started) = oneshot::channel();
        let (jobs, queue) = mpsc::channel(QUEUE);
        let (lead, leadership) = watch::channel(Leadership::Unknown);
        let thread = thread::Builder::new()
            .name("tsoracle-store".into())
            .spawn(move || match open().and_then(claim) {
                Ok((store, node, epoch)) => {
                    lead.send_replace(Leadership::Leader { epoch });
                    // If nobody waits for the driver any more, the queue is closed as well.
                    let _ = opened.send(Ok(node));
                    Owner { store, lead: Some(lead), latched: None }.run(queue);
                }
                // The store is dropped by now: it may be opened again at once.
                Err(error) => drop(opened.send(Err(error))),
            })
            .map_err(|source| fatal("cannot start the store's thread").with_source(source))?;
        let node = started.await.map_err(|_| fatal("the store panicked while it was opened"))??;
        Ok(Arc::new(Self { node, leadership, jobs, thread: Mutex::new(Some(thread)) }))
    }

    async fn submit<T>(&self, job: impl FnOnce(oneshot::Sender<Result<T>>) -> Job) -> Result<T> {
        let (reply, answer) = oneshot::channel();
        // Calls take effect in the order in which they were made. A task whose turn is over would not
        // even be queued, while one that called later may have its turn now.
        unconstrained(self.jobs.send(job(reply))).await.map_err(|_| stopped())?;
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

    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed> {
        self.submit(|reply| Job::Commit { epoch, commands, reply }).await
    }

    async fn read(&self, query: Query) -> Result<Answer> {
        self.submit(|reply| Job::Read { query, reply }).await
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
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

/// The thread's side: the store, and the first error it gave.
struct Owner<S> {
    store: S,
    /// Dropped at the first error, which closes the channel.
    lead: Option<watch::Sender<Leadership>>,
    latched: Option<Error>,
}

impl<S: SeqStore> Owner<S> {
    fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(job) = queue.blocking_recv() {
            // A caller that has gone does not undo what was done for it.
            match job {
                Job::Commit { epoch, commands, reply } => {
                    let _ = reply.send(self.commit(epoch, &commands));
                }
                Job::Read { query, reply } => {
                    let _ = reply.send(self.guard(|store| state::answer(store, &query)));
                }
                Job::Stop => break,
            }
        }
    }

    fn commit(&mut self, epoch: Epoch, commands: &[Command]) -> Result<Committed> {
        let (results, effect) = self.guard(|store| state::apply(store, epoch, commands))?;
        if !effect.is_empty() {
            self.guard(|store| store.commit(effect)).map_err(|error| {
                let context = "the commit failed, and may or may not be stored";
                Error::new(ErrorKind::Uncertain, context).with_source(error)
            })?;
        }
        Ok(Committed { results, replaced_seen: None })
    }

    /// Calls the store unless it has failed before, and latches its first error or panic.
    fn guard<T>(&mut self, call: impl FnOnce(&mut S) -> Result<T>) -> Result<T> {
        if let Some(error) = &self.latched {
            return Err(error.duplicate());
        }
        let outcome = catch_unwind(AssertUnwindSafe(|| call(&mut self.store)))
            .unwrap_or_else(|_| Err(fatal("the store panicked")));
        outcome.inspect_err(|error| {
            tracing::error!(%error, "storage failed; this process serves no more");
            self.latched = Some(Error::new(
                match error.kind() {
                    ErrorKind::Corrupt => ErrorKind::Corrupt,
                    _ => ErrorKind::Fatal,
                },
                format!("storage failed, and is not tried again: {error}"),
            ));
            self.lead = None;
        })
    }
}

/// Finds or draws the node's id, and claims an epoch above every earlier one.
fn claim<S: SeqStore>(mut store: S) -> Result<(S, NodeId, Epoch)> {
    let mut effect = Effect::default();
    let node = match read_u128(&store, NODE)? {
        Some(node) => node,
        None => {
            let mut bytes = [0; 16];
            getrandom::fill(&mut bytes)
                .map_err(|source| fatal("no randomness for a node id").with_source(source))?;
            effect.put(NODE, bytes);
            u128::from_be_bytes(bytes)
        }
    };
    let reigning = match state::answer(&store, &Query::Reign)? {
        Answer::Reign(Some(record)) => record.epoch.0,
        _ => 0,
    };
    let claimed = read_u128(&store, CLAIM)?.unwrap_or(0).max(reigning);
    let epoch = claimed.checked_add(1).ok_or_else(|| fatal("the epochs are used up"))?;
    effect.put(CLAIM, epoch.to_be_bytes());
    store.commit(effect)?;
    Ok((store, NodeId(node), Epoch(epoch)))
}

fn read_u128<S: SeqStore>(store: &S, key: &[u8]) -> Result<Option<u128>> {
    let decode = |bytes: Vec<u8>| {
        bytes.try_into().map(u128::from_be_bytes).map_err(|_| {
            let key = key.escape_ascii();
            Error::new(ErrorKind::Corrupt, format!("the value under {key} is not 16 bytes long"))
        })
    };
    SeqStore::get(store, key)?.map(decode).transpose()
}

fn fatal(context: &str) -> Error {
    Error::new(ErrorKind::Fatal, context)
}

fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}
