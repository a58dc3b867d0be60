//! What was decided, applied in order; and the log, kept short.

use tsoracle_cluster::{Cluster, LogEntry, Machine, snapshot};
use tsoracle_core::{BootTime, Error, ErrorKind, Result, state::Effect};
use tsoracle_store::Table;

use crate::{
    entry::{Entry, Image},
    node::{Node, read_applied},
};

/// Entries that are applied in one commit of the store, at most.
const MOST_APPLIED: usize = 256;

/// How many bytes of entries are kept, whatever their number.
const KEPT_BYTES: usize = 16 << 20;

/// How many entries are let go of at once, at most, so that no round takes long.
const CUT: usize = 256;

/// How much of the log is kept for peers that were away for a moment. One that lacks more gets the
/// whole state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Entries.
    count: usize,
    /// How many more there are before some are let go of.
    slack: usize,
}

impl Keep {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let size = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Self { count: size(cluster.log_keep), slack: size(cluster.snapshot_every).min(CUT) }
    }
}

impl Node {
    /// Applies everything that was decided, and answers those who waited for it.
    ///
    /// # Errors
    /// `Corrupt` if something decided is missing or cannot be read, and those of the store.
    pub(crate) fn settle(&mut self, now: BootTime) -> Result<()> {
        let arrived = self.log.borrow_mut().take_arrived();
        for arrived in arrived {
            if let Some(image) = arrived.image {
                self.install(image, now)?;
            }
            let lacking = arrived.end.saturating_sub(self.applied);
            let begin = arrived.entries.len().checked_sub(lacking);
            let begin = begin.ok_or_else(|| missing(self.applied))?;
            for entries in arrived.entries[begin..].chunks(MOST_APPLIED) {
                self.apply(entries, now)?;
            }
        }
        let decided = self.log.borrow().decided();
        while self.applied < decided {
            let from = self.applied;
            let entries = self.log.borrow().range(from, decided.min(from + MOST_APPLIED));
            if entries.is_empty() {
                return Err(missing(from));
            }
            self.apply(&entries, now)?;
        }
        self.cut();
        Ok(())
    }

    /// Applies entries, which follow on those that are applied.
    fn apply(&mut self, entries: &[Entry], now: BootTime) -> Result<()> {
        let entries = entries.iter().map(Entry::decode).collect::<Result<Vec<LogEntry>>>()?;
        let answers = self.machine.apply(&self.store, &entries, now)?;
        self.applied += entries.len();
        for (LogEntry { id, epoch, .. }, committed) in entries.into_iter().zip(answers) {
            self.was_applied(id, epoch);
            let Some(waiter) = self.waiting.take(id) else { continue };
            // A caller that has gone does not undo what was done for it.
            if let Some(reply) = waiter.commit {
                let _ = reply.send(Ok(committed));
            }
            for (query, reply) in waiter.reads {
                let _ = reply.send(Ok(self.machine.answer(&self.store, &query)?));
            }
        }
        Ok(())
    }

    /// The writes that bring the store up to what was applied.
    pub(crate) fn settled(&mut self) -> Vec<(Table, Effect)> {
        self.machine.settle(&(self.applied as u64).to_be_bytes())
    }

    /// Brings the store up to what was applied, without a sync, for whoever is to be sent the state.
    pub(crate) fn write_state(&mut self) -> Result<()> {
        match self.settled() {
            writes if writes.is_empty() => Ok(()),
            writes => self.store.write_unsynced(writes),
        }
    }

    /// Takes in another node's state, unless this node is further already.
    fn install(&mut self, image: Image, now: BootTime) -> Result<()> {
        let Some(first) = image.chunks.first() else { return Ok(()) };
        let mark = snapshot::header(first)?;
        let applied = read_applied(&mark)?;
        if applied <= self.applied {
            return Ok(());
        }
        tracing::info!(from = self.applied, to = applied, "taking in the state of another node");
        let chunks = image.chunks.into_iter().map(Ok);
        snapshot::install(&self.store, chunks, [Machine::mark(&mark)])?;
        self.machine.reload(&self.store, now)?;
        self.applied = applied;
        Ok(())
    }

    /// Lets go of the oldest entries once there are too many. Each node does so for itself.
    fn cut(&mut self) {
        let (first, end, bytes) = {
            let log = self.log.borrow();
            (log.first(), log.end().min(log.decided()).min(self.applied), log.bytes())
        };
        let count = end.saturating_sub(first);
        let cut = match (count, bytes) {
            (count, _) if count >= self.keep.count.saturating_add(self.keep.slack) => {
                self.keep.slack
            }
            (count, bytes) if bytes > KEPT_BYTES => count.div_ceil(4),
            _ => return,
        };
        // What cannot be cut now is cut later.
        if cut > 0
            && let Err(error) = self.paxos.snapshot(Some(first + cut), true)
        {
            tracing::warn!(%error, first, cut, "the log was not cut");
        }
    }
}

fn missing(index: usize) -> Error {
    let context = format!("entry {index} was decided, and is missing; restore this node");
    Error::new(ErrorKind::Corrupt, context)
}
