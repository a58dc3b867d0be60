//! Handing leadership over: the reign is released before it moves, so that no node waits for its lease.

use std::sync::Arc;

use tokio::sync::{OwnedMutexGuard, oneshot};

use crate::{Membership, MembershipChange, Result};

/// A transfer of leadership, which waits for the reign to be released. Dropped before that, it tells its
/// caller that there is nothing to release any more.
#[derive(Debug)]
pub(crate) struct Handover {
    membership: Arc<dyn Membership>,
    to: Option<u64>,
    reply: oneshot::Sender<Result<()>>,
    _alone: OwnedMutexGuard<()>,
}

impl Handover {
    /// A transfer made by the holder of `alone`, and its outcome.
    pub(crate) fn new(
        membership: Arc<dyn Membership>,
        to: Option<u64>,
        alone: OwnedMutexGuard<()>,
    ) -> (Self, oneshot::Receiver<Result<()>>) {
        let (reply, outcome) = oneshot::channel();
        (Self { membership, to, reply, _alone: alone }, outcome)
    }

    /// The caller is gone, so it must not be begun.
    pub(crate) fn is_abandoned(&self) -> bool {
        self.reply.is_closed()
    }

    /// Has the driver move leadership, in a task that goes on if the caller does not.
    pub(crate) fn go_on(self) {
        tokio::spawn(async move {
            let moved = self.membership.change(MembershipChange::Transfer { to: self.to }).await;
            let _ = self.reply.send(moved);
        });
    }
}
