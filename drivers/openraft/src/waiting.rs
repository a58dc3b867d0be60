use std::{
    collections::HashMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tokio::sync::{oneshot, watch};
use tsoracle_cluster::{EntryId, LogEntry};
use tsoracle_core::{Committed, Epoch, Error, ErrorKind, Result, state::Reply};

/// Who waits for which entry, and whether it was begun.
#[derive(Debug)]
pub(crate) struct Waiting {
    callers: Mutex<HashMap<EntryId, Caller>>,
    released: watch::Sender<Epoch>,
}

#[derive(Debug)]
struct Caller {
    reply: oneshot::Sender<Result<Committed>>,
    /// Whether this node has put the entry into its log: from there on it may be committed, by a
    /// later leader and even if this node has removed it again.
    begun: bool,
}

impl Default for Waiting {
    fn default() -> Self {
        Self { callers: Mutex::default(), released: watch::Sender::new(Epoch::default()) }
    }
}

impl Waiting {
    pub(crate) fn wait(&self, entry: EntryId) -> oneshot::Receiver<Result<Committed>> {
        let (reply, answer) = oneshot::channel();
        self.callers().insert(entry, Caller { reply, begun: false });
        answer
    }

    /// Notes that the entry is about to be in this node's log.
    pub(crate) fn begun(&self, entry: EntryId) {
        if let Some(caller) = self.callers().get_mut(&entry) {
            caller.begun = true;
        }
    }

    /// Answers with what applying the entry came to.
    pub(crate) fn applied(&self, entry: &LogEntry, committed: Committed) {
        if committed.results.iter().any(|result| matches!(result, Ok(Reply::Released))) {
            self.released.send_replace(entry.epoch);
        }
        if let Some(caller) = self.callers().remove(&entry.id) {
            // A caller that has gone does not undo what was done for it.
            let _ = caller.reply.send(Ok(committed));
        }
    }

    /// Answers that raft will not say what became of the entry: with `refused` if it was not begun,
    /// and as uncertain if it was.
    pub(crate) fn give_up(&self, entry: EntryId, refused: Error) {
        let Some(caller) = self.callers().remove(&entry) else { return };
        let error = match caller.begun {
            false => refused,
            true => {
                let context = "the commit was begun, and may or may not take effect";
                Error::new(ErrorKind::Uncertain, context).with_source(refused)
            }
        };
        let _ = caller.reply.send(Err(error));
    }

    /// The epoch that was released last.
    pub(crate) fn released(&self) -> watch::Receiver<Epoch> {
        self.released.subscribe()
    }

    /// Whether nobody waits.
    pub(crate) fn is_empty(&self) -> bool {
        self.callers().is_empty()
    }

    fn callers(&self) -> MutexGuard<'_, HashMap<EntryId, Caller>> {
        self.callers.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
