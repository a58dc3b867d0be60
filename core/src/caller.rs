//! Whom requests come from.

mod room;

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak, atomic::AtomicUsize},
};

use siphasher::sip128::SipHasher13;

pub use self::room::{Places, Room};
use crate::{
    Identity,
    state::{Capped, Requester},
};

/// Whom requests come from, as far as shares are concerned: what one caller holds counts together.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub struct CallerId(u128);

impl CallerId {
    /// All clients at an address. With IPv6 all those in its network of 64 bits, since a single host has
    /// all addresses of that.
    pub fn of_address(address: IpAddr) -> Self {
        Self(match address.to_canonical() {
            IpAddr::V4(address) => address.to_ipv6_mapped().to_bits(),
            IpAddr::V6(address) => address.to_bits() >> 64 << 64,
        })
    }

    /// All programs of a user of this machine.
    pub fn of_user(user: u32) -> Self {
        // No address has these bits: one of IPv6 has none below its network.
        Self(1 << 32 | u128::from(user))
    }

    /// All clients of an identity, wherever they are.
    pub fn of_identity(identity: &Identity) -> Self {
        Self(SipHasher13::new().hash(identity.as_str().as_bytes()).into())
    }
}

/// What a caller may have at once, whatever others have. What is stored counts from when the leader has
/// taken over: of what was there before it is not known whose it is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CallerLimits {
    /// Requests that wait.
    pub waiting: usize,
    /// Sequences that it was the first to use or to seed.
    pub keys: u64,
    /// Sessions of exactly-once requests.
    pub sessions: u64,
    /// Stamping leases.
    pub leases: u64,
    /// Named requests.
    pub named: u64,
}

impl CallerLimits {
    /// No limits.
    pub const NONE: Self = Self {
        waiting: usize::MAX,
        keys: u64::MAX,
        sessions: u64::MAX,
        leases: u64::MAX,
        named: u64::MAX,
    };

    pub(crate) fn of(&self, what: Capped) -> u64 {
        match what {
            Capped::Sequences => self.keys,
            Capped::Sessions => self.sessions,
            Capped::Leases => self.leases,
            Capped::Named => self.named,
        }
    }
}

/// From how much of a cap on shares count: three quarters. Below that any caller may have all there is, since
/// behind a NAT or a proxy an address stands for everybody.
///
/// From there on a caller gets more only while it holds less than is left for all. So of callers that take all
/// they can get, each has the same, and one that comes next finds as much again; and of those that hold more already,
/// a newcomer can take half of what they have left, and never all of it.
pub(crate) fn scarce_from(limit: u64) -> u64 {
    limit - limit / 4
}

/// A caller that is known to an oracle, with what it holds there: [`Oracle::caller`](crate::Oracle::caller).
///
/// Cloning it is cheap. All that were made for the same id count together.
#[derive(Clone, Debug)]
pub struct Caller {
    entry: Arc<Entry>,
    /// Nothing for one that is known by its address alone.
    about: Option<Arc<About>>,
}

#[derive(Debug)]
struct About {
    identity: Option<Identity>,
    limits: CallerLimits,
}

/// How many rooms there are, each for places of its own.
const ROOMS: usize = 6;

#[derive(Debug)]
struct Entry {
    id: CallerId,
    held: [AtomicUsize; ROOMS],
    callers: Arc<Callers>,
}

impl Caller {
    /// Who it is.
    pub fn id(&self) -> CallerId {
        self.entry.id
    }

    /// The same caller, which may have no more than this at once.
    #[must_use]
    pub fn with_limits(self, limits: CallerLimits) -> Self {
        let identity = self.about.and_then(|about| about.identity.clone());
        Self { entry: self.entry, about: Some(Arc::new(About { identity, limits })) }
    }

    /// The same caller, which has proven to be this: the stamping leases that it acquires are its own.
    #[must_use]
    pub fn with_identity(self, identity: Identity) -> Self {
        let limits = self.limits();
        Self {
            entry: self.entry,
            about: Some(Arc::new(About { identity: Some(identity), limits })),
        }
    }

    /// For whom it asks.
    pub(crate) fn requester(&self) -> Requester {
        match self.about.as_ref().and_then(|about| about.identity.clone()) {
            Some(identity) => Requester::Identified(identity),
            None => Requester::Anonymous,
        }
    }

    pub(crate) fn limits(&self) -> CallerLimits {
        self.about.as_ref().map_or(CallerLimits::NONE, |about| about.limits)
    }
}

impl Drop for Entry {
    fn drop(&mut self) {
        let mut known = self.callers.known();
        // Another may have been made for the same id meanwhile.
        if known.get(&self.id).is_some_and(|entry| entry.strong_count() == 0) {
            known.remove(&self.id);
        }
    }
}

/// The callers that have a connection, or a request under way.
#[derive(Default, Debug)]
pub(crate) struct Callers(Mutex<HashMap<CallerId, Weak<Entry>>>);

impl Callers {
    pub(crate) fn get(self: &Arc<Self>, id: CallerId) -> Caller {
        let mut known = self.known();
        if let Some(entry) = known.get(&id).and_then(Weak::upgrade) {
            return Caller { entry, about: None };
        }
        let entry = Arc::new(Entry { id, held: Default::default(), callers: self.clone() });
        known.insert(id, Arc::downgrade(&entry));
        Caller { entry, about: None }
    }

    fn known(&self) -> MutexGuard<'_, HashMap<CallerId, Weak<Entry>>> {
        // Every change is a single one, so a panic elsewhere leaves nothing half done.
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(text: &str) -> CallerId {
        CallerId::of_address(text.parse().unwrap())
    }

    #[test]
    fn a_host_is_one_caller() {
        assert_eq!(id("10.0.0.1"), id("::ffff:10.0.0.1"));
        assert_ne!(id("10.0.0.1"), id("10.0.0.2"));
        assert_eq!(id("2001:db8::1"), id("2001:db8::ffff:ffff:ffff:ffff"));
        assert_ne!(id("2001:db8::1"), id("2001:db8:0:1::1"));
        assert_ne!(id("::10.0.0.1"), id("10.0.0.1"));
    }

    #[test]
    fn callers_are_forgotten() {
        let callers = Arc::new(Callers::default());
        let one = callers.get(id("10.0.0.1"));
        let same = callers.get(id("10.0.0.1"));
        assert!(Arc::ptr_eq(&one.entry, &same.entry));
        drop((one, same));
        assert!(callers.known().is_empty());
    }
}
