use std::sync::{
    Arc, Mutex, MutexGuard, PoisonError,
    atomic::{AtomicU64, Ordering},
};

use tokio::sync::{Notify, RwLock, watch};
use tsoracle_core::{Error, ErrorKind, Result, versioned::Leadership};

use crate::etcd::Etcd;

/// What the tasks of a driver and its callers share.
pub(crate) struct Shared {
    pub(crate) etcd: Etcd,
    /// Until this driver has stopped or failed.
    lead: Mutex<Option<watch::Sender<Leadership>>>,
    /// The error after which it serves no more.
    latched: Mutex<Option<Error>>,
    /// The claim that was resigned last.
    resigned: AtomicU64,
    /// The election has to be looked at.
    pub(crate) look: Notify,
    /// Shared by each commit in flight; taken whole to stop, and not given back.
    pub(crate) commits: Arc<RwLock<()>>,
}

impl Shared {
    pub(crate) fn new(etcd: Etcd, lead: watch::Sender<Leadership>) -> Self {
        Self {
            etcd,
            lead: Mutex::new(Some(lead)),
            latched: Mutex::default(),
            resigned: AtomicU64::new(0),
            look: Notify::new(),
            commits: Arc::default(),
        }
    }

    /// Publishes who should lead, if that is news.
    pub(crate) fn lead(&self, now: Leadership) {
        if let Some(lead) = &*lock(&self.lead) {
            lead.send_if_modified(|before| {
                let is_news = *before != now;
                *before = now;
                is_news
            });
        }
    }

    /// Ends a claim, unless it has ended already.
    pub(crate) fn end_claim(&self, claim: u64) -> bool {
        lock(&self.lead).as_ref().is_some_and(|lead| {
            lead.send_if_modified(|now| {
                let ends = *now == Leadership::Leader { claim };
                if ends {
                    *now = Leadership::Unknown;
                }
                ends
            })
        })
    }

    /// Ends a claim, and has the elector let others lead.
    pub(crate) fn resign(&self, claim: u64) {
        if self.end_claim(claim) {
            self.resigned.store(claim, Ordering::Release);
            self.look.notify_one();
        }
    }

    pub(crate) fn is_resigned(&self, claim: u64) -> bool {
        self.resigned.load(Ordering::Acquire) == claim
    }

    /// Closes the channel of leadership: this driver leads no more.
    pub(crate) fn close(&self) {
        lock(&self.lead).take();
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.lead).is_none()
    }

    /// Fails if this driver has failed or stopped.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(error) = &*lock(&self.latched) {
            return Err(error.duplicate());
        }
        match self.is_closed() {
            true => Err(stopped()),
            false => Ok(()),
        }
    }

    /// Passes an error on. A damaged or replaced state is final: this driver leads no more, and every
    /// later call fails with it.
    pub(crate) fn latch(&self, error: Error) -> Error {
        if matches!(error.kind(), ErrorKind::Corrupt | ErrorKind::Fatal) {
            let mut latched = lock(&self.latched);
            if latched.is_none() {
                tracing::error!(%error, "this process serves no more");
                *latched = Some(error.duplicate());
            }
            drop(latched);
            self.close();
            self.look.notify_one();
        }
        error
    }
}

pub(crate) fn stopped() -> Error {
    Error::new(ErrorKind::Unavailable, "the driver has stopped")
}

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
