use std::collections::HashMap;

use tokio::sync::oneshot;
use tsoracle_core::{Committed, Error, Result};

use crate::EntryId;

/// Who waits for which entry to be applied.
///
/// Dropped with callers in it, it answers them: the channel closes, which they take for uncertain.
#[derive(Debug, Default)]
pub struct Callers(HashMap<EntryId, oneshot::Sender<Result<Committed>>>);

impl Callers {
    /// Notes who waits for `entry`.
    pub fn wait(&mut self, entry: EntryId, reply: oneshot::Sender<Result<Committed>>) {
        self.0.insert(entry, reply);
    }

    /// Answers whoever waits for `entry`, if anyone does.
    pub fn answer(&mut self, entry: EntryId, result: Result<Committed>) {
        if let Some(reply) = self.0.remove(&entry) {
            // A caller that has gone does not undo what was done for it.
            let _ = reply.send(result);
        }
    }

    /// Answers all.
    pub fn fail(&mut self, error: &Error) {
        for (_, reply) in self.0.drain() {
            let _ = reply.send(Err(error.duplicate()));
        }
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether nobody waits.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}
