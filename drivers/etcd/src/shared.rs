use std::sync::{Mutex, MutexGuard, PoisonError};

use tokio::sync::{Notify, watch};
use tsoracle_core::{Epoch, Error, ErrorKind, Leadership, Result};

use crate::etcd::Etcd;

/// What the tasks of a driver and its callers share.
pub(crate) struct Shared {
    pub(crate) etcd: Etcd,
    /// Until this driver has stopped, or is done for.
    lead: Mutex<Option<watch::Sender<Leadership>>>,
    /// Why it is done for.
    latched: Mutex<Option<Error>>,
    /// The election has to be looked at.
    pub(crate) look: Notify,
}

impl Shared {
    pub(crate) fn new(etcd: Etcd, lead: watch::Sender<Leadership>) -> Self {
        Self { etcd, lead: Mutex::new(Some(lead)), latched: Mutex::default(), look: Notify::new() }
    }

    /// Says who leads, if that is news.
    pub(crate) fn lead(&self, now: Leadership) {
        if let Some(lead) = &*lock(&self.lead) {
            lead.send_if_modified(|before| {
                let news = *before != now;
                *before = now;
                news
            });
        }
    }

    /// Ends a claim, unless it has ended already, and has the election looked at.
    pub(crate) fn end_claim(&self, epoch: Epoch) {
        if let Some(lead) = &*lock(&self.lead) {
            lead.send_if_modified(|now| {
                let ends = *now == Leadership::Leader { epoch };
                if ends {
                    *now = Leadership::Unknown;
                }
                ends
            });
        }
        self.look.notify_one();
    }

    pub(crate) fn leads(&self, epoch: Epoch) -> Result<()> {
        let hint = match lock(&self.lead).as_ref().map(|lead| lead.borrow().clone()) {
            Some(Leadership::Leader { epoch: now }) if now == epoch => return Ok(()),
            Some(Leadership::Follower { leader }) => leader,
            _ => None,
        };
        let context = format!("this node does not lead under epoch {epoch}");
        Err(Error::new(ErrorKind::NotLeader(hint), context))
    }

    /// Closes the channel of leadership: this driver leads no more.
    pub(crate) fn close(&self) {
        lock(&self.lead).take();
    }

    pub(crate) fn is_closed(&self) -> bool {
        lock(&self.lead).is_none()
    }

    /// Fails with what this driver is done for by, or with its having stopped.
    pub(crate) fn check(&self) -> Result<()> {
        if let Some(error) = &*lock(&self.latched) {
            return Err(error.duplicate());
        }
        match self.is_closed() {
            true => Err(Error::new(ErrorKind::Unavailable, "the driver has stopped")),
            false => Ok(()),
        }
    }

    /// Passes an error on. One that nothing mends is final: this driver leads no more, and every
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

/// What is behind these locks is whole at any time.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
