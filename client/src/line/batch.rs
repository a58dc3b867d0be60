use std::sync::{Arc, OnceLock};
use std::task::Waker;

use tokio::time::Instant;
use tonic::Status;

use super::Kind;

/// Why a batch has no answer.
#[derive(Clone, Debug)]
pub(crate) enum Lost {
    /// The stream ended with this status. `is_certain`: the batch was not carried out.
    Broken { status: Arc<Status>, is_certain: bool },
    /// The answer breaks the protocol, in this way.
    Malformed(Arc<str>),
    /// The peer does not serve streams, and so has not carried the batch out.
    Unserved,
}

/// Callers whose requests go together, and what became of them.
pub(super) struct Batch<K: Kind> {
    /// Set once, under the lock of the queue; read without.
    pub(super) outcome: Arc<OnceLock<Result<K::Answer, Lost>>>,
    /// Names it within its line.
    pub(super) number: u64,
    slots: Vec<Slot<K::Entry>>,
    /// Slots of callers who have left before the batch was sealed, to be used again.
    free: Vec<u32>,
    /// How wide all slots are together.
    width: u32,
    pub(super) live: usize,
    /// What reading the answer takes, once it is sealed.
    sent: Option<K::Sent>,
}

/// One caller.
struct Slot<E> {
    /// Where its part of the answer begins, and how wide it is.
    part: (u32, u32),
    waker: Option<Waker>,
    until: Instant,
    entry: Option<E>,
}

impl<K: Kind> Batch<K> {
    pub(super) fn new(number: u64) -> Self {
        let (slots, free) = (Vec::new(), Vec::new());
        Self { outcome: Arc::default(), number, slots, free, width: 0, live: 0, sent: None }
    }

    pub(super) fn takes(&self, entry: &K::Entry) -> bool {
        let width = K::width(entry);
        self.sent.is_none() && (self.width + width <= K::MOST || self.free_slot(width).is_some())
    }

    /// Takes a caller in: its index, and where its part of the answer begins.
    pub(super) fn join(&mut self, entry: K::Entry, until: Instant, waker: &Waker) -> (u32, u32) {
        self.live += 1;
        let width = K::width(&entry);
        let (waker, entry) = (Some(waker.clone()), Some(entry));
        if let Some(index) = self.free_slot(width) {
            self.free.pop();
            let part = self.slots[index as usize].part;
            self.slots[index as usize] = Slot { part, waker, until, entry };
            return (index, part.0);
        }
        let first = self.width;
        self.width += width;
        self.slots.push(Slot { part: (first, width), waker, until, entry });
        (self.slots.len() as u32 - 1, first)
    }

    /// The last slot that became free, if it is just as wide.
    fn free_slot(&self, width: u32) -> Option<u32> {
        self.free.last().copied().filter(|&index| self.slots[index as usize].part.1 == width)
    }

    /// A caller has gone. Before the batch is sealed, it is as if it had never come. Whether it was
    /// sealed.
    pub(super) fn leave(&mut self, index: u32) -> bool {
        let slot = &mut self.slots[index as usize];
        (slot.waker, slot.entry) = (None, None);
        self.live -= 1;
        if self.sent.is_none() {
            self.free.push(index);
        }
        self.sent.is_some()
    }

    /// Who to wake for this caller from now on, and when at the latest.
    pub(super) fn renew(&mut self, index: u32, until: Instant, waker: &Waker) {
        let slot = &mut self.slots[index as usize];
        slot.until = until;
        match &mut slot.waker {
            Some(current) => current.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
    }

    /// Makes the request of all who have joined; nobody joins any more.
    pub(super) fn seal(&mut self) -> K::Request {
        self.free = Vec::new();
        let (request, sent) =
            K::gather(self.width, self.slots.iter_mut().map(|slot| slot.entry.take()));
        self.sent = Some(sent);
        request
    }

    /// Takes the answer. Why it is none, if so.
    pub(super) fn answered(&mut self, answer: K::Response) -> Result<(), Arc<str>> {
        let read = self.sent.take().map_or_else(
            || Err("an answer to nothing that was asked".into()),
            |sent| K::read(sent, answer),
        );
        let (outcome, why) = match read {
            Ok(answer) => (Ok(answer), Ok(())),
            Err(why) => {
                let why: Arc<str> = why.into();
                (Err(Lost::Malformed(why.clone())), Err(why))
            }
        };
        // A batch is answered once: it is out of the queue by then.
        let _ = self.outcome.set(outcome);
        why
    }

    pub(super) fn lost(&mut self, lost: Lost) {
        let _ = self.outcome.set(Err(lost));
    }

    /// Everyone who waits, once there is an outcome.
    pub(super) fn into_wakers(self) -> impl Iterator<Item = Waker> {
        self.slots.into_iter().filter_map(|slot| slot.waker)
    }

    /// Collects those whose time is over at `now`, and returns when the next one's is.
    pub(super) fn expire(&mut self, now: Instant, late: &mut Vec<Waker>) -> Option<Instant> {
        let mut next = None;
        for slot in &mut self.slots {
            if slot.waker.is_none() {
                continue;
            }
            if slot.until <= now {
                late.extend(slot.waker.take());
            } else if next.is_none_or(|next| slot.until < next) {
                next = Some(slot.until);
            }
        }
        next
    }
}
