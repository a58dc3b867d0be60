use std::array;
use std::fmt;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;

use tokio::time::Instant;
use tonic::Status;
use tonic::transport::Channel;
use tsoracle_types::Timestamp;

use super::{Call, Queue, Unanswered};
use crate::batched::drive::{Task, broken};
use crate::batched::{Batches as _, CallError};
use crate::pool::Peer;

/// The most peers that have a queue at the same time. Further ones are asked by calls.
const MOST: usize = 64;

/// The queues of a client. They live as long as the client, and are used by one peer after the other, so
/// that a call only borrows one.
pub(crate) struct Queues {
    queues: [OnceLock<Arc<Queue>>; MOST],
    taken: Mutex<[bool; MOST]>,
    /// Which one has served last. `MOST` if none.
    serving: AtomicUsize,
}

impl Default for Queues {
    fn default() -> Self {
        Self {
            queues: array::from_fn(|_| OnceLock::new()),
            taken: Mutex::new([false; MOST]),
            serving: AtomicUsize::new(MOST),
        }
    }
}

impl fmt::Debug for Queues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Queues").finish_non_exhaustive()
    }
}

impl Queues {
    /// The queue that has served last, for calls that need not look for the leader.
    pub(crate) fn serving(&self) -> Option<&Queue> {
        self.queues.get(self.serving.load(Ordering::Relaxed))?.get().map(|queue| &**queue)
    }

    fn taken(&self) -> MutexGuard<'_, [bool; MOST]> {
        // It is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.taken.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The way to a peer over a queue of its own, as long as there is one.
pub(crate) struct Lane {
    queues: Arc<Queues>,
    /// Taken when it is needed.
    index: OnceLock<Option<usize>>,
    task: Task,
}

impl Lane {
    pub(crate) fn new(queues: Arc<Queues>) -> Self {
        Self { queues, index: OnceLock::new(), task: Task::default() }
    }

    /// Asks along with others, and waits for the answer until `until`. Nothing if there is no queue.
    pub(crate) async fn call(
        &self,
        peer: &Arc<Peer>,
        channel: &Channel,
        count: u32,
        until: Instant,
    ) -> Option<Result<Timestamp, CallError>> {
        let queue = self.queue()?;
        loop {
            if let Some(run) = queue.begin(&Arc::downgrade(peer)) {
                self.task.start(queue.clone(), run, channel.clone(), peer.learner().clone());
            }
            let within = until.saturating_duration_since(Instant::now());
            let within_ms = u64::try_from(within.as_millis()).unwrap_or(u64::MAX);
            match Call::new(queue, count, within_ms).await {
                Ok(first) => return Some(Ok(first)),
                Err(Unanswered::Failed { error, .. }) => return Some(Err(error)),
                Err(Unanswered::Closed) if within == Duration::ZERO => {
                    return Some(Err(CallError::Silent { was_sent: false }));
                }
                Err(Unanswered::Closed) => {}
            }
        }
    }

    /// Calls need not look for the leader any more.
    pub(crate) fn serves(&self) {
        if let Some(Some(index)) = self.index.get() {
            self.queues.serving.store(*index, Ordering::Relaxed);
        }
    }

    /// Calls have to look for the leader again, unless another one has served since.
    pub(crate) fn serves_no_more(&self) {
        if let Some(Some(index)) = self.index.get() {
            let (serving, relaxed) = (&self.queues.serving, Ordering::Relaxed);
            let _ = serving.compare_exchange(*index, MOST, relaxed, relaxed);
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

impl Drop for Lane {
    fn drop(&mut self) {
        self.serves_no_more();
        if let Some(Some(index)) = self.index.get() {
            if let Some(queue) = self.queues.queues[*index].get() {
                let run = queue.lock().run;
                queue.end(run, &broken(Status::unavailable("the connection is not used any more")));
            }
            self.queues.taken()[*index] = false;
        }
    }
}
