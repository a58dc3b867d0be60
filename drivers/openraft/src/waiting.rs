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
    pub(crate) fn wait(&self, entry: EntryId, reply: oneshot::Sender<Result<Committed>>) {
        self.callers().insert(entry, Caller { reply, begun: false });
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

    /// Answers that raft has refused the entry: with the reason if it did so before the entry was
    /// begun. Afterwards, that it is gone from this node's log says nothing of the others.
    pub(crate) fn refuse(&self, entry: EntryId, refused: Error) {
        let Some(caller) = self.callers().remove(&entry) else { return };
        let error = if caller.begun { uncertain(&refused.to_string()) } else { refused };
        let _ = caller.reply.send(Err(error));
    }

    /// Answers that nobody will say what became of the entry.
    pub(crate) fn give_up(&self, entry: EntryId, reason: &str) {
        if let Some(caller) = self.callers().remove(&entry) {
            let _ = caller.reply.send(Err(uncertain(reason)));
        }
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

fn uncertain(reason: &str) -> Error {
    let context = format!("the commit was begun, and may or may not take effect: {reason}");
    Error::new(ErrorKind::Uncertain, context)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ENTRY: EntryId = EntryId { node: 1, claim: 2, counter: 3 };

    fn waits() -> (Waiting, oneshot::Receiver<Result<Committed>>) {
        let (waiting, (reply, answer)) = (Waiting::default(), oneshot::channel());
        waiting.wait(ENTRY, reply);
        (waiting, answer)
    }

    fn refused() -> Error {
        Error::new(ErrorKind::NotLeader(None), "another leads")
    }

    fn kind(mut answer: oneshot::Receiver<Result<Committed>>) -> ErrorKind {
        answer.try_recv().unwrap().unwrap_err().kind().clone()
    }

    #[test]
    fn only_what_was_refused_before_it_was_begun_is_certainly_not_committed() {
        let (waiting, answer) = waits();
        waiting.refuse(ENTRY, refused());
        assert_eq!(kind(answer), ErrorKind::NotLeader(None));

        let (waiting, answer) = waits();
        waiting.begun(ENTRY);
        waiting.refuse(ENTRY, refused());
        assert_eq!(kind(answer), ErrorKind::Uncertain);

        let (waiting, answer) = waits();
        waiting.give_up(ENTRY, "nobody knows");
        assert_eq!(kind(answer), ErrorKind::Uncertain);
        assert!(waiting.is_empty());
    }
}
