//! Callers who wait for an entry to be applied.

use std::collections::BTreeMap;

use tokio::sync::oneshot;
use tsoracle_cluster::EntryId;
use tsoracle_core::{
    BootTime, Committed, Error, ErrorKind, Result,
    state::{Answer, Query},
};

/// A question, and who asks it.
pub(crate) type Asked = (Query, oneshot::Sender<Result<Answer>>);

/// Who waits for one entry.
#[derive(Default)]
pub(crate) struct Waiter {
    /// For what its commands come to.
    pub(crate) commit: Option<oneshot::Sender<Result<Committed>>>,
    /// For the state with everything before it.
    pub(crate) reads: Vec<Asked>,
}

/// Who waits for which entry. Those of one claim have rising numbers, so the first waits longest.
#[derive(Default)]
pub(crate) struct Waiting(BTreeMap<EntryId, (BootTime, Waiter)>);

impl Waiting {
    pub(crate) fn add(&mut self, entry: EntryId, now: BootTime, waiter: Waiter) {
        self.0.insert(entry, (now, waiter));
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who waits for `entry`.
    pub(crate) fn take(&mut self, entry: EntryId) -> Option<Waiter> {
        self.0.remove(&entry).map(|(_, waiter)| waiter)
    }

    /// Gives up those who have waited since before `then`.
    pub(crate) fn expire(&mut self, then: BootTime, why: &str) {
        while let Some(first) = self.0.first_entry().filter(|first| first.get().0 < then) {
            first.remove().1.give_up(why);
        }
    }

    /// Gives up all.
    pub(crate) fn give_up(&mut self, why: &str) {
        while let Some((_, (_, waiter))) = self.0.pop_first() {
            waiter.give_up(why);
        }
    }
}

impl Waiter {
    /// The entry may still be decided, or may not; reading has changed nothing.
    ///
    /// Whoever has gone does not need to be told.
    fn give_up(self, why: &str) {
        if let Some(reply) = self.commit {
            let _ = reply.send(Err(Error::new(ErrorKind::Uncertain, why)));
        }
        for (_, reply) in self.reads {
            let _ = reply.send(Err(Error::new(ErrorKind::Unavailable, why)));
        }
    }
}
