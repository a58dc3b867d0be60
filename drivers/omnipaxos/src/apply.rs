//! What was decided, applied in order; and the log, kept short.

use omnipaxos::messages::sequence_paxos::PaxosMsg;
use tsoracle_core::{BootTime, Error, ErrorKind, Result};
use tsoracle_replica::{Cluster, transfer::Received};

use crate::{
    entry::{Commit, Entry},
    node::{Node, read_applied},
};

/// Entries that are taken from the log at once, at most.
const BATCH: usize = 256;

/// How many bytes of entries are kept, whatever their number.
const KEPT_BYTES: usize = 16 << 20;

/// How many entries are dropped at once, at most, so that no round takes long.
const CUT: usize = 256;

/// How much of the log is kept for peers that were away for a moment. One that lacks more gets the
/// whole state.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Keep {
    /// Entries.
    count: usize,
    /// How many more there are before some are dropped.
    slack: usize,
}

impl Keep {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        let size = |count| usize::try_from(count).unwrap_or(usize::MAX);
        Self { count: size(cluster.log_keep), slack: size(cluster.snapshot_every).min(CUT) }
    }
}

impl Node {
    /// Applies everything that was decided, and answers those who wait for it. Entries are taken from
    /// this node's log by their index, whatever brought them there.
    ///
    /// # Errors
    /// `Corrupt` if something decided is missing or cannot be read, and those of the store.
    pub(crate) fn apply_decided(&mut self, now: BootTime) -> Result<()> {
        let decided = self.log.borrow().decided;
        while self.applied < decided {
            let from = self.applied;
            let commits = self.log.borrow().range(from, decided.min(from + BATCH));
            if commits.is_empty() {
                let context =
                    format!("entry {from} was decided, and is missing; restore this node");
                return Err(Error::new(ErrorKind::Corrupt, context));
            }
            commits.iter().try_for_each(|commit| self.apply(commit, now))?;
            self.applied += commits.len();
            self.replica.set_applied((self.applied as u64).to_be_bytes().into());
        }
        self.trim();
        Ok(())
    }

    pub(crate) fn apply(&mut self, commit: &Commit, now: BootTime) -> Result<()> {
        let entry = commit.decode()?;
        let outcome = self.replica.apply(entry.base(), entry.into_effect(), now)?;
        self.waiters.answer(&commit.next(), outcome);
        Ok(())
    }

    /// Notes which commits a message brings into the log. They count as evidence once they are applied.
    pub(crate) fn note_logged(&self, message: &PaxosMsg<Entry>, now: BootTime) {
        let entries = match message {
            PaxosMsg::AcceptDecide(accept) => &accept.entries[..],
            PaxosMsg::AcceptSync(sync) => &sync.log_sync.suffix[..],
            _ => return,
        };
        let evidence = self.replica.evidence();
        for entry in entries {
            if let Entry::Commit(commit) = entry {
                evidence.logged(commit.next(), now);
            }
        }
    }

    /// Installs another node's state, whose log begins after it, with what is staged of that log; unless
    /// this node's own state is as new.
    pub(crate) fn install(&mut self, state: Received, now: BootTime) -> Result<()> {
        let applied = read_applied(&state.applied()?)?;
        if applied <= self.applied {
            return Ok(());
        }
        tracing::info!(from = self.applied, to = applied, "installing the state of another node");
        let writes = self.log.borrow_mut().take_writes();
        self.replica.restore(state.into_chunks()?, writes, now)?;
        self.applied = applied;
        Ok(())
    }

    /// Drops the oldest entries once there are too many. Each node does so for itself.
    fn trim(&mut self) {
        let mut log = self.log.borrow_mut();
        let count = log.decided.min(self.applied).min(log.end()).saturating_sub(log.first);
        let dropped = if count >= self.keep.count.saturating_add(self.keep.slack) {
            self.keep.slack
        } else if log.bytes > KEPT_BYTES {
            count.div_ceil(4)
        } else {
            0
        };
        if dropped > 0 {
            let first = log.first + dropped;
            log.trim(first);
        }
    }
}
