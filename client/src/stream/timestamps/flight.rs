use std::any::Any;
use std::collections::VecDeque;
use std::sync::{Arc, Weak};
use std::task::Waker;

use tokio::time::Instant;
use tonic::Status;

use super::shard::{MAX_SHARDS, Part, Slots};
use crate::stream::batches::Lost;

/// The most batches in flight.
pub(super) const MAX_IN_FLIGHT: usize = 4;

/// The most losses whose reasons are kept.
const MAX_LOSSES: usize = 64;

/// The most slots that are kept to be used again, and how large they may be.
const MAX_SPARE: usize = MAX_IN_FLIGHT * MAX_SHARDS;
const LARGEST_SPARE: usize = 1_024;

/// The peer that a stream is to. A queue keeps it for its callers, and needs to know nothing of it.
pub(crate) type Owner = dyn Any + Send + Sync;

/// What a batch takes a lock for once.
pub(super) struct Flight {
    pub(super) run: u64,
    pub(super) is_running: bool,
    pub(super) owner: Weak<Owner>,
    /// The same, while callers wait: it may have been evicted already.
    pub(super) held: Option<Arc<Owner>>,
    /// In the order in which they are answered.
    pub(super) sealed: VecDeque<Sealed>,
    /// The shard that the next batch begins with, so that none is always the last one.
    pub(super) first_shard: usize,
    /// The transport's side, while it waits.
    pub(super) outbound: Option<Waker>,
    /// The stream's task, which watches the time.
    pub(super) task: Option<Waker>,
    pub(super) next_tick: Option<Instant>,
    /// When the last answer came, or the first caller began to wait.
    pub(super) silent_since: Instant,
    /// How many callers the batch had that was answered last.
    pub(super) last_size: usize,
    /// How many callers waited when sealing was put off last.
    pub(super) put_off_at: usize,
    losses: VecDeque<(u64, Lost)>,
    last_loss: u64,
    pub(super) spare: Vec<Slots>,
}

/// A batch that was sent.
pub(super) struct Sealed {
    pub(super) parts: Vec<(usize, Part)>,
    pub(super) width: u32,
}

impl Sealed {
    pub(super) fn callers(&self) -> usize {
        self.parts.iter().map(|(_, part)| part.live()).sum()
    }
}

impl Flight {
    pub(super) fn new(now: Instant) -> Self {
        Self {
            run: 0,
            is_running: false,
            owner: Weak::<()>::new(),
            held: None,
            sealed: VecDeque::new(),
            first_shard: 0,
            outbound: None,
            task: None,
            next_tick: None,
            silent_since: now,
            last_size: 0,
            put_off_at: 0,
            losses: VecDeque::new(),
            last_loss: 0,
            spare: Vec::new(),
        }
    }

    /// Keeps the reason of a loss, and returns its number.
    pub(super) fn lose(&mut self, lost: Lost) -> u64 {
        self.last_loss += 1;
        if self.losses.len() == MAX_LOSSES {
            self.losses.pop_front();
        }
        self.losses.push_back((self.last_loss, lost));
        self.last_loss
    }

    pub(super) fn loss(&self, number: u64) -> Lost {
        let found = self.losses.iter().find(|(known, _)| *known == number);
        found.map_or_else(
            || Lost::broken(Status::unavailable("the stream broke some time ago")),
            |(_, lost)| lost.clone(),
        )
    }

    /// Keeps slots to be used again.
    pub(super) fn keep(&mut self, slots: Vec<Slots>) {
        let room = MAX_SPARE.saturating_sub(self.spare.len());
        let slots = slots.into_iter().filter(|slots| slots.capacity() <= LARGEST_SPARE);
        self.spare.extend(slots.take(room));
    }
}
