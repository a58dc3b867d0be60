//! The key-value store. It is as good as one process that never fails: what goes wrong is on the way to
//! it, that it sees leases as it likes, and that some reads are answered by a copy that is behind.

use std::{
    collections::{BTreeMap, VecDeque},
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;
use tsoracle_core::{Epoch, MemoryStore, Outcome, SeqStore as _, Version};

use crate::{disk::Commit, evidence::reign_of, flaw::Flaw, reached::Reached, world::World};

/// How long a lease lasts that is not kept alive.
pub(super) const TTL: Duration = Duration::from_secs(2);

/// How many commits a copy may be behind.
const BEHIND: usize = 16;

/// What the store is asked. A request that comes twice is done twice.
#[derive(Clone, Debug)]
pub(super) enum Request {
    Look,
    /// As `Look`, from any copy of the state.
    Read,
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
    Commit {
        commit: Arc<Commit>,
        /// The election key must be the one that was created then.
        created: Option<u64>,
    },
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

/// The state at one version.
#[derive(Clone, Default, Debug)]
pub(super) struct Versioned {
    pub(super) entries: MemoryStore,
    pub(super) version: Version,
    /// Whose reign record the last commit wrote, if it wrote any.
    pub(super) reign: Option<Epoch>,
}

#[derive(Default)]
pub(crate) struct Store(Mutex<Inner>);

#[derive(Default)]
struct Inner {
    revision: u64,
    holder: Option<Holder>,
    state: Arc<Versioned>,
    /// The states before, the newest one last.
    past: VecDeque<Arc<Versioned>>,
    leases: BTreeMap<u64, Instant>,
    granted: u64,
    stored: u64,
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
        let mut reads_any = matches!(request, Request::Read)
            && (world.reads_a_stale_copy() || world.has(Flaw::ReadsGoBack) && world.chance(50));
        let is_commit = matches!(request, Request::Commit { .. });
        let done = inner.act(world, request);
        reads_any |= is_commit && !done && world.has(Flaw::ConflictFromBehind);
        let stale = match reads_any && !inner.past.is_empty() {
            true => {
                let last = inner.past.len() as u64 - 1;
                inner.past.get(world.draw(|rng| rng.between(0..=last)) as usize)
            }
            false => None,
        };
        if stale.is_some() {
            world.reached(Reached::StaleRead);
        }
        let state = stale.unwrap_or(&inner.state).clone();
        Answer { done, holder: inner.holder, state, lease: inner.granted }
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
            Request::Look | Request::Read => true,
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
            Request::Commit { commit, created } => {
                created.is_none_or(|created| self.is_held(created)) && self.commit(world, &commit)
            }
        }
    }

    fn is_held(&self, created: u64) -> bool {
        self.holder.is_some_and(|holder| holder.created == created)
    }

    fn commit(&mut self, world: &World, commit: &Commit) -> bool {
        let current = self.state.version;
        let admitted = commit.base.admits(commit.next, current);
        if world.has(Flaw::IgnoresTheVersion) && current != commit.next {
            self.store(world, commit);
            return true;
        }
        match admitted {
            Some(Outcome::Stored) if current != commit.next => {
                self.store(world, commit);
                true
            }
            Some(Outcome::Stored) => {
                world.reached(Reached::StoredBefore);
                true
            }
            Some(Outcome::Conflict { .. }) => {
                world.reached(Reached::Conflict);
                false
            }
            None => {
                world.found(format!("the store is behind the base of {:?}", commit.next));
                false
            }
        }
    }

    fn store(&mut self, world: &World, commit: &Commit) {
        self.past.push_back(self.state.clone());
        if self.past.len() > BEHIND {
            self.past.pop_front();
        }
        let state = Arc::make_mut(&mut self.state);
        state.entries.commit(commit.effect.clone()).expect("memory does not fail");
        state.version = commit.next;
        state.reign = reign_of(&commit.effect);
        self.stored += 1;
        world.stored(self.stored, commit, state.reign);
    }
}
