use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering::Relaxed},
};

use tsoracle_types::{Clock, SystemClock};

use tsoracle_history::{Call, Operation};

/// What one caller saw.
pub(super) struct Log {
    pub(super) operations: Vec<Operation>,
    /// How many operations all callers may record still.
    left: Arc<AtomicUsize>,
}

impl Log {
    pub(super) fn new(left: Arc<AtomicUsize>) -> Self {
        Self { operations: Vec::new(), left }
    }

    /// Whether another operation may begin: one that began must be recorded.
    pub(super) fn begin(&self) -> Option<u64> {
        self.left.fetch_update(Relaxed, Relaxed, |left| left.checked_sub(1)).ok()?;
        Some(now_ns())
    }

    /// Whether nothing more may begin.
    pub(super) fn is_full(&self) -> bool {
        self.left.load(Relaxed) == 0
    }

    pub(super) fn end(&mut self, caller: &Arc<str>, start_ns: u64, call: Call) {
        let (caller, end_ns) = (caller.clone(), now_ns());
        self.operations.push(Operation { caller, start_ns, end_ns, call });
    }
}

/// One clock for all callers, which runs on and never steps.
pub(super) fn now_ns() -> u64 {
    SystemClock.now().boot.as_nanos()
}
