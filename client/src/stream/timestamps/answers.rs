use super::sync::{AtomicU64, Ordering, fence};

/// The last answers of a shard by the numbers of its batches, for callers to read without a lock.
///
/// Nothing counts the callers that still have to read one: a caller that reads when a later batch has taken
/// the cell finds nothing, and asks again. One thread at a time writes.
pub(super) struct Answers {
    cells: Box<[Cell]>,
}

struct Cell {
    /// The number of the batch, from 1; 0 while the rest is written.
    number: AtomicU64,
    first: AtomicU64,
    /// 0, or the number of the reason why there is no timestamp.
    lost: AtomicU64,
}

/// The outcome of a batch.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Answer {
    /// Its first timestamp.
    First(u64),
    /// No timestamp, for the reason of this number, which is not 0.
    Lost(u64),
}

impl Answers {
    pub(super) fn keeping(answers: usize) -> Self {
        let cell = |_| Cell {
            number: AtomicU64::new(0),
            first: AtomicU64::new(0),
            lost: AtomicU64::new(0),
        };
        Self { cells: (0..answers).map(cell).collect() }
    }

    /// The answer to a batch, if there is one that was not replaced.
    pub(super) fn read(&self, number: u64) -> Option<Answer> {
        let cell = self.cell(number);
        if cell.number.load(Ordering::Acquire) != number {
            return None;
        }
        let (first, lost) = (cell.first.load(Ordering::Relaxed), cell.lost.load(Ordering::Relaxed));
        // A reader that has read a value of a later writer reads that writer's 0 as well, or its number.
        fence(Ordering::Acquire);
        (cell.number.load(Ordering::Relaxed) == number).then_some(match lost {
            0 => Answer::First(first),
            lost => Answer::Lost(lost),
        })
    }

    /// Answers a batch. Not called by two threads at a time.
    pub(super) fn write(&self, number: u64, answer: Answer) {
        let (first, lost) = match answer {
            Answer::First(first) => (first, 0),
            Answer::Lost(lost) => (0, lost),
        };
        let cell = self.cell(number);
        cell.number.store(0, Ordering::Relaxed);
        fence(Ordering::Release);
        cell.first.store(first, Ordering::Relaxed);
        cell.lost.store(lost, Ordering::Relaxed);
        cell.number.store(number, Ordering::Release);
    }

    /// Whether the answer to a batch was replaced by that of a later one. Not called during a write.
    pub(super) fn is_replaced(&self, number: u64) -> bool {
        self.cell(number).number.load(Ordering::Relaxed) > number
    }

    fn cell(&self, number: u64) -> &Cell {
        &self.cells[number as usize % self.cells.len()]
    }
}
