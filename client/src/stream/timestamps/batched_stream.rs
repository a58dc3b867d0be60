use std::array;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, Weak};
use std::time::Duration;

use crate::peers::Channel;
use tokio::time::Instant;
use tonic::Status;
use tsoracle_types::Timestamp;

use super::call::{Call, Unanswered};
use super::queue::Queue;
use crate::peers::Peer;
use crate::stream::batches::{Batches as _, CallError, Lost};
use crate::stream::task::Task;

/// The most peers that have a queue at the same time. Further ones are asked by unary calls.
const MAX_QUEUES: usize = 64;

/// The queues of a client. They live as long as the client, and are used by one peer after the other, so
/// that a call only borrows one.
pub(crate) struct Queues {
    queues: [OnceLock<Arc<Queue>>; MAX_QUEUES],
    taken: Mutex<[bool; MAX_QUEUES]>,
    /// The index of the one that served last. `MAX_QUEUES` if there is none.
    serving: AtomicUsize,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            queues: array::from_fn(|_| OnceLock::new()),
            taken: Mutex::new([false; MAX_QUEUES]),
            serving: AtomicUsize::new(MAX_QUEUES),
        }
    }
}

impl Queues {
    /// The queue that served last, for calls that need not look for the leader.
    pub(crate) fn serving(&self) -> Option<&Queue> {
        self.queues.get(self.serving.load(Ordering::Relaxed))?.get().map(|queue| &**queue)
    }

    fn taken(&self) -> MutexGuard<'_, [bool; MAX_QUEUES]> {
        // It is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// A stream to one peer, over a queue of its own if there is one left.
pub(crate) struct BatchedStream {
    queues: Arc<Queues>,
    /// Taken when it is needed.
    index: OnceLock<Option<usize>>,
    task: Task,
}

impl BatchedStream {
    pub(crate) fn new(queues: Arc<Queues>) -> Self {
        Self { queues, index: OnceLock::new(), task: Task::default() }
    }

    /// Requests timestamps together with other callers, and waits for the answer until `until`. Nothing if there
    /// is no queue.
    pub(crate) async fn call<S: Send + Sync + 'static>(
        &self,
        peer: &Arc<Peer<S>>,
        channel: &Channel,
        count: u32,
        until: Instant,
    ) -> Option<Result<Timestamp, CallError>> {
        let queue = self.queue()?;
        loop {
            let owner: Weak<Peer<S>> = Arc::downgrade(peer);
            if let Some(run) = queue.begin(owner) {
                self.task.start(queue.clone(), run, channel.clone(), peer.state.clone());
            }
            let within = until.saturating_duration_since(Instant::now());
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            match Call::new(queue, count, within_ms).await {
                Ok(first) => return Some(Ok(first)),
                Err(Unanswered::Failed { error, .. }) => return Some(Err(error)),
                Err(Unanswered::Closed) if within == Duration::ZERO => {
                    return Some(Err(CallError::TimedOut { was_sent: false }));
                }
                Err(Unanswered::Closed) => {}
            }
        }
    }

    /// Calls for timestamps need not look for the leader any more.
    pub(crate) fn set_serving(&self) {
        if let Some(Some(index)) = self.index.get() {
            self.queues.serving.store(*index, Ordering::Relaxed);
        }
    }

    /// Calls for timestamps have to look for the leader again, unless another peer has served since.
    pub(crate) fn unset_serving(&self) {
        if let Some(Some(index)) = self.index.get() {
            let (serving, relaxed) = (&self.queues.serving, Ordering::Relaxed);
            let _ = serving.compare_exchange(*index, MAX_QUEUES, relaxed, relaxed);
        }
    }

    fn queue(&self) -> Option<&Arc<Queue>> {
        let index = *self.index.get_or_init(|| {
            let mut taken = self.queues.taken();
            let free = taken.iter().position(|taken| !taken)?;
            taken[free] = true;
            Some(free)
        });
        Some(self.queues.queues[index?].get_or_init(|| Arc::new(Queue::new())))
    }
}

impl Drop for BatchedStream {
    fn drop(&mut self) {
        self.unset_serving();
        if let Some(Some(index)) = self.index.get() {
            if let Some(queue) = self.queues.queues[*index].get() {
                let run = queue.lock().run;
                let status = Status::unavailable("the connection is not used any more");
                queue.end(run, &Lost::broken(status));
            }
            self.queues.taken()[*index] = false;
        }
    }
}
