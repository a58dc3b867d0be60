//! The key-value store. It is as good as one process that never fails: what goes wrong is on the way to
//! it, and that it sees leases as it likes.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tsoracle_core::{
    Epoch, MemoryStore, SeqStore as _,
    state::{Effect, REIGN},
};

use crate::{flaw::Flaw, world::World};

/// How long a lease lasts that is not kept alive.
pub(super) const TTL: Duration = Duration::from_secs(2);

/// What the store is asked. A request that comes twice is done twice.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Look,
    Grant,
    KeepAlive(u64),
    Revoke(u64),
    /// Creates the election key if there is none.
    Campaign {
        node: usize,
        lease: u64,
    },
    /// Removes the election key that was created then.
    Depose(u64),
    Commit(Arc<Commit>),
}

/// Writes that are made if the election key is the one created then, and the state is still as
/// `modified` left it.
#[derive(Clone, Debug)]
pub(super) struct Commit {
    pub(super) created: u64,
    pub(super) modified: u64,
    pub(super) name: String,
    pub(super) epoch: Epoch,
    pub(super) effect: Effect,
}

/// What there was after a request.
#[derive(Clone, Debug)]
pub(super) struct Answer {
    /// Whether its conditions held.
    pub(super) done: bool,
    pub(super) holder: Option<Holder>,
    pub(super) state: Arc<Versioned>,
    /// The lease that was granted.
    pub(super) lease: u64,
}

/// The election key.
#[derive(Clone, Copy, Debug)]
pub(super) struct Holder {
    pub(super) created: u64,
    pub(super) lease: u64,
    pub(super) node: usize,
}

/// The state, by whom it was written, and in which revisions.
#[derive(Clone, Default, Debug)]
pub(super) struct Versioned {
    pub(super) entries: MemoryStore,
    pub(super) modified: u64,
    pub(super) name: String,
    /// The last write of the reign record, and under which epoch it was made.
    pub(super) reign: (u64, Epoch),
}

#[derive(Default)]
pub(crate) struct Store(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    revision: u64,
    holder: Option<Holder>,
    state: Arc<Versioned>,
    leases: BTreeMap<u64, Instant>,
    granted: u64,
}

impl Store {
    /// Lets every lease last longer, as a store does whose own leader has changed.
    pub(crate) fn extend_leases(&self) {
        let until = Instant::now() + TTL;
        self.0.lock().unwrap().leases.values_mut().for_each(|end| *end = until);
    }

    pub(super) fn answer(&self, world: &World, request: Request) -> Answer {
        let mut inner = self.0.lock().unwrap();
        inner.expire();
        let done = inner.act(world, request);
        let Inner { holder, ref state, granted, .. } = *inner;
        Answer { done, holder, state: state.clone(), lease: granted }
    }
}

impl Inner {
    fn expire(&mut self) {
        let now = Instant::now();
        self.leases.retain(|_, end| now < *end);
        if self.holder.is_some_and(|holder| !self.leases.contains_key(&holder.lease)) {
            self.remove();
        }
    }

    fn remove(&mut self) {
        self.revision += 1;
        self.holder = None;
    }

    fn act(&mut self, world: &World, request: Request) -> bool {
        let until = Instant::now() + TTL;
        match request {
            Request::Look => true,
            Request::Grant => {
                self.granted += 1;
                self.leases.insert(self.granted, until);
                true
            }
            Request::KeepAlive(lease) => {
                self.leases.get_mut(&lease).map(|end| *end = until).is_some()
            }
            Request::Revoke(lease) => {
                self.leases.remove(&lease);
                self.expire();
                true
            }
            Request::Campaign { node, lease } => {
                let is_free = self.holder.is_none() && self.leases.contains_key(&lease);
                if is_free {
                    self.revision += 1;
                    self.holder = Some(Holder { created: self.revision, lease, node });
                }
                is_free
            }
            Request::Depose(created) => {
                let is_held = self.is_held(created);
                if is_held {
                    self.remove();
                }
                is_held
            }
            Request::Commit(commit) => self.commit(world, &commit),
        }
    }

    fn is_held(&self, created: u64) -> bool {
        self.holder.is_some_and(|holder| holder.created == created)
    }

    fn commit(&mut self, world: &World, commit: &Commit) -> bool {
        let compares_nothing = world.has(Flaw::ComparesNothing);
        let is_held =
            self.is_held(commit.created) || compares_nothing || world.has(Flaw::ComparesNoCreation);
        let is_current = self.state.modified == commit.modified
            || compares_nothing
            || world.has(Flaw::ComparesNoVersion);
        if !is_held || !is_current {
            return false;
        }
        if !commit.effect.is_empty() {
            self.revision += 1;
            let state = Arc::make_mut(&mut self.state);
            state.modified = self.revision;
            state.name.clone_from(&commit.name);
            if commit.effect.touches(REIGN) {
                state.reign = (self.revision, commit.epoch);
            }
            state.entries.commit(commit.effect.clone()).expect("memory does not fail");
            world.took_effect(commit.epoch);
        }
        true
    }
}
