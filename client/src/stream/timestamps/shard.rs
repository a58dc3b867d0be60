use std::collections::VecDeque;
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::task::Waker;

use tsoracle_proto::MAX_TS_COUNT;

use super::answers::Answers;

/// The most shards, whatever the number of processors.
pub(super) const MAX_SHARDS: usize = 16;

/// How many answers a shard keeps for callers that are not polled at once.
const KEPT: usize = 1 << 8;

/// The callers of some threads: a part of each batch. In cache lines of its own, so that threads do not
/// disturb each other.
#[repr(align(128))]
pub(super) struct Shard {
    queued: Mutex<Queued>,
    pub(super) answers: Answers,
}

impl Shard {
    pub(super) fn new() -> Self {
        let queued = Queued { is_open: false, joined: Part::new(1), full: VecDeque::new() };
        Self { queued: Mutex::new(queued), answers: Answers::keeping(KEPT) }
    }

    pub(super) fn lock(&self) -> MutexGuard<'_, Queued> {
        // It is whole between any two statements, so a panic elsewhere cannot spoil it.
        self.queued.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The callers that wait to be sent.
pub(super) struct Queued {
    /// A stream takes callers.
    pub(super) is_open: bool,
    /// The part that callers join.
    joined: Part,
    /// Parts that are as wide as one answer may be. They are sent first.
    full: VecDeque<Part>,
}

/// The place of a caller.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) number: u64,
    pub(super) index: u32,
    /// The offset of its timestamps among those of the part.
    pub(super) first: u32,
}

pub(super) type Slots = Vec<Slot>;

/// Callers of one shard that are sent together.
pub(super) struct Part {
    pub(super) number: u64,
    slots: Slots,
    /// Slots of callers that left before it was sent, to be used again.
    free: Vec<u32>,
    /// How many timestamps all slots are for.
    pub(super) width: u32,
    /// How many slots have a time, counted from the first.
    dated: usize,
}

/// One caller.
pub(super) struct Slot {
    waker: Option<Waker>,
    due: Due,
    first: u32,
    count: u32,
}

/// When a caller's time is over, in milliseconds of its queue's clock.
#[derive(Clone, Copy)]
enum Due {
    /// This long after it is dated.
    Within(u64),
    At(u64),
    Over,
}

impl Queued {
    /// Adds a caller.
    pub(super) fn join(&mut self, count: u32, within_ms: u64, waker: &Waker) -> Place {
        if let Some(place) = self.joined.join_free(count, within_ms, waker) {
            return place;
        }
        if self.joined.width + count > MAX_TS_COUNT {
            let next = Part::new(self.joined.number + 1);
            self.full.push_back(std::mem::replace(&mut self.joined, next));
        }
        self.joined.join(count, within_ms, waker)
    }

    /// Whether at least `most` callers wait.
    pub(super) fn is_full(&self, most: usize) -> bool {
        // The first condition decides nearly always.
        (self.joined.slots.len() >= most || !self.full.is_empty()) && self.len() >= most
    }

    /// How many callers wait.
    pub(super) fn len(&self) -> usize {
        let full = self.full.iter().map(Part::live).sum::<usize>();
        full + self.joined.live()
    }

    /// Takes the next part out, if it is no wider than `width`. `spare` has slots for the part after it.
    pub(super) fn take(&mut self, width: u32, spare: &mut Vec<Slots>) -> Option<Part> {
        while let Some(first) = self.full.front() {
            if first.live() > 0 {
                return if first.width <= width { self.full.pop_front() } else { None };
            }
            self.full.pop_front();
        }
        if self.joined.live() == 0 {
            self.joined.clear();
            return None;
        }
        if self.joined.width > width {
            return None;
        }
        let next =
            Part { slots: spare.pop().unwrap_or_default(), ..Part::new(self.joined.number + 1) };
        Some(std::mem::replace(&mut self.joined, next))
    }

    /// The part with this number, unless it was taken out.
    pub(super) fn find(&mut self, number: u64) -> Option<&mut Part> {
        self.parts().find(|part| part.number == number)
    }

    /// All parts, in no order.
    pub(super) fn parts(&mut self) -> impl Iterator<Item = &mut Part> {
        self.full.iter_mut().chain([&mut self.joined])
    }
}

impl Part {
    fn new(number: u64) -> Self {
        Self { number, slots: Slots::new(), free: Vec::new(), width: 0, dated: 0 }
    }

    fn clear(&mut self) {
        self.slots.clear();
        self.free.clear();
        (self.width, self.dated) = (0, 0);
    }

    fn join(&mut self, count: u32, within_ms: u64, waker: &Waker) -> Place {
        let (index, first) = (self.slots.len() as u32, self.width);
        self.width += count;
        let (waker, due) = (Some(waker.clone()), Due::Within(within_ms));
        self.slots.push(Slot { waker, due, first, count });
        Place { number: self.number, index, first }
    }

    /// Adds a caller in the slot that became free last, if that is for the same count.
    fn join_free(&mut self, count: u32, within_ms: u64, waker: &Waker) -> Option<Place> {
        let index = *self.free.last()?;
        let slot = &mut self.slots[index as usize];
        if slot.count != count {
            return None;
        }
        (slot.waker, slot.due) = (Some(waker.clone()), Due::Within(within_ms));
        let place = Place { number: self.number, index, first: slot.first };
        self.free.pop();
        self.dated = self.dated.min(index as usize);
        Some(place)
    }

    /// Removes a caller. `is_sent`: its slot cannot be used by others.
    pub(super) fn leave(&mut self, index: u32, is_sent: bool) {
        self.slots[index as usize].waker = None;
        if !is_sent {
            self.free.push(index);
        }
    }

    /// Replaces the waker of a caller. False if its time is over.
    pub(super) fn renew(&mut self, index: u32, waker: &Waker) -> bool {
        let slot = &mut self.slots[index as usize];
        match &mut slot.waker {
            Some(current) => current.clone_from(waker),
            none => *none = Some(waker.clone()),
        }
        !matches!(slot.due, Due::Over)
    }

    /// How many callers wait, including those that left after it was sent.
    pub(super) fn live(&self) -> usize {
        self.slots.len() - self.free.len()
    }

    /// Collects the callers whose time is over at `now_ms`, and dates those that came since the last time.
    pub(super) fn expire(&mut self, now_ms: u64, late: &mut Vec<Waker>) {
        for slot in &mut self.slots[self.dated..] {
            if let Due::Within(time) = slot.due {
                slot.due = Due::At(now_ms.saturating_add(time));
            }
        }
        self.dated = self.slots.len();
        for slot in &mut self.slots {
            if matches!(slot.due, Due::At(at) if at <= now_ms) {
                slot.due = Due::Over;
                late.extend(slot.waker.take());
            }
        }
    }

    /// Wakes all callers, and returns the slots, to be used again.
    pub(super) fn wake(mut self) -> Slots {
        for slot in self.slots.drain(..) {
            if let Some(waker) = slot.waker {
                waker.wake();
            }
        }
        self.slots
    }
}
