use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, RwLock, watch};
use tsoracle_core::{Error, ErrorKind, Result};

use crate::etcd::Etcd;

/// What the tasks of a driver and its callers share.
pub(crate) struct Shared {
    pub(crate) etcd: Etcd,
    /// The election has to be looked at.
    pub(crate) look: Notify,
    /// Shared by each commit in flight; taken whole to stop.
    pub(crate) commits: Arc<RwLock<()>>,
    /// The newest claim that was resigned.
    resigned: AtomicU64,
    /// The error that every call fails with, once there is one.
    ended: watch::Sender<Option<Error>>,
}

impl Shared {
    pub(crate) fn new(etcd: Etcd) -> Self {
        let (look, commits, resigned, ended) = Default::default();
        Self { etcd, look, commits, resigned, ended }
    }

    /// Has the elector end a claim, and let others lead.
    pub(crate) fn resign(&self, claim: u64) {
        self.resigned.store(claim, Ordering::Release);
        self.look.notify_one();
    }

    pub(crate) fn is_resigned(&self, claim: u64) -> bool {
        self.resigned.load(Ordering::Acquire) == claim
    }

    /// Fails if this driver has failed or stopped.
    pub(crate) fn check(&self) -> Result<()> {
        self.ended.borrow().as_ref().map_or(Ok(()), |error| Err(error.clone()))
    }

    /// Waits until this driver has failed or stopped.
    pub(crate) async fn ended(&self) {
        // The sender is in `self`, so that the channel does not close meanwhile.
        let _ = self.ended.subscribe().wait_for(Option::is_some).await;
    }

    /// Has every call from now on fail with `error`, if none does yet.
    pub(crate) fn end(&self, error: Error) {
        self.ended.send_if_modified(|ended| {
            let is_first = ended.is_none();
            ended.get_or_insert(error);
            is_first
        });
    }

    /// Passes an error on. A damaged or replaced state is final: this driver leads no more.
    pub(crate) fn latch(&self, error: Error) -> Error {
        if is_final(&error) && self.check().is_ok() {
            tracing::error!(error = %format_args!("{error:#}"), "this process serves no more");
            self.end(error.clone());
        }
        error
    }
}

pub(crate) fn is_final(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fatal)
}

pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}
