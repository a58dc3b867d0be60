//! Whom requests come from, and how many of the bounded places each caller holds.

use std::{
    collections::HashMap,
    net::IpAddr,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
};

use metrics::{Counter, Gauge};

use siphasher::sip128::SipHasher13;

use crate::{
    Error, ErrorKind, Identity, Result, series,
    series::Series,
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

/// How many rooms there are, each for places of its own.
const ROOMS: usize = 6;

/// What they are for, as the label of their refusals says it.
const ROOM_NAMES: [&str; ROOMS] =
    ["waiting", "waiting", "connections", "unread_answers", "administrators", "calls"];

/// A bounded number of places, of which a caller has no more than its share once they are scarce.
#[derive(Debug)]
pub struct Room {
    what: &'static str,
    /// Which of a caller's counts belongs to it.
    number: usize,
    /// Callers may have limits of their own here.
    own_limits: bool,
    limit: usize,
    used: AtomicUsize,
    gauge: Option<Gauge>,
    refused: Refused,
}

/// Counts what was refused.
#[derive(Debug)]
struct Refused {
    limit: Counter,
    share: Counter,
    own_limit: Counter,
}

impl Refused {
    fn new(of: &str) -> Self {
        let counter = |reason| series::REFUSALS.counter_of(&[of, reason]);
        Self { limit: counter("limit"), share: counter("share"), own_limit: counter("own_limit") }
    }
}

/// Places in a room, given back when dropped.
#[derive(Debug)]
pub struct Places {
    room: Arc<Room>,
    caller: Option<Caller>,
    count: usize,
}

impl Room {
    /// For requests that wait for anything.
    pub(crate) fn waiting(limit: usize) -> Self {
        Self::new(0, "waiting requests", limit, Some((series::WAITING, series::WAITING_LIMIT)))
    }

    /// For requests that are queued for a commit. What its callers have given up stays there until the commit
    /// in flight ends, so that the number of those who wait alone does not bound it.
    pub(crate) fn queued(limit: usize) -> Self {
        Self::new(1, "waiting requests", limit, None)
    }

    /// For connections, of which a server makes one room. A `metrics` recorder must be installed before.
    pub fn connections(limit: usize) -> Self {
        Self::new(2, "connections", limit, Some((series::CONNECTIONS, series::CONNECTIONS_LIMIT)))
    }

    /// For requests of streams whose answers were not taken yet, of which a server makes one room.
    pub fn unread_answers(limit: usize) -> Self {
        let shown = (series::UNREAD_ANSWERS, series::UNREAD_ANSWERS_LIMIT);
        Self::new(3, "unread answers", limit, Some(shown))
    }

    /// For calls under way, of which a server makes one room.
    pub fn calls(limit: usize) -> Self {
        Self::new(5, "calls under way", limit, Some((series::CALLS, series::CALLS_LIMIT)))
    }

    /// For something at the address of administrators, which counts apart and has no gauge.
    pub fn administrators(limit: usize, what: &'static str) -> Self {
        Self::new(4, what, limit, None)
    }

    fn new(
        number: usize,
        what: &'static str,
        limit: usize,
        shown: Option<(Series, Series)>,
    ) -> Self {
        let gauge = shown.map(|(used, most)| {
            most.gauge().set(limit as f64);
            used.gauge()
        });
        let refused = Refused::new(ROOM_NAMES[number]);
        // Places to wait and to be queued are the same to a caller.
        let own_limits = number < 2;
        Self { what, number, own_limits, limit, used: AtomicUsize::new(0), gauge, refused }
    }

    /// How many places are taken.
    pub fn used(&self) -> usize {
        self.used.load(Ordering::Relaxed)
    }

    /// Whether shares count.
    pub fn is_scarce(&self) -> bool {
        self.used() as u64 > scarce_from(self.limit as u64)
    }

    /// Takes places for a caller, if there are as many and it has not had its share of them.
    ///
    /// # Errors
    /// `Overloaded`, naming the limit.
    pub fn enter(self: &Arc<Self>, caller: Option<&Caller>, count: usize) -> Result<Places> {
        // Counted for the caller first, and for all only if it enters: what is refused takes no place from
        // others, not even for a moment.
        let mut places = Places { room: self.clone(), caller: caller.cloned(), count: 0 };
        if let Some(caller) = caller {
            let held = self.count_for(caller, count);
            if held > self.own_limit(caller) {
                self.count_off(caller, count);
                return Err(self.over_own_limit(held - count, self.own_limit(caller)));
            }
            let used = self.used();
            if (used + count) as u64 > scarce_from(self.limit as u64)
                && held + count > self.limit.saturating_sub(used) + 1
            {
                self.count_off(caller, count);
                return Err(self.over_share(held - count, used));
            }
        }
        let fits = |used: usize| used.checked_add(count).filter(|used| *used <= self.limit);
        match self.used.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits) {
            Ok(before) => {
                places.count = count;
                self.show(before + count);
                Ok(places)
            }
            Err(used) => {
                if let Some(caller) = caller {
                    self.count_off(caller, count);
                }
                Err(self.overloaded(used))
            }
        }
    }

    /// How many places the caller has with these.
    fn count_for(&self, caller: &Caller, count: usize) -> usize {
        caller.entry.held[self.number].fetch_add(count, Ordering::Relaxed) + count
    }

    fn count_off(&self, caller: &Caller, count: usize) {
        caller.entry.held[self.number].fetch_sub(count, Ordering::Relaxed);
    }

    /// How many places the caller may have, whatever others have.
    fn own_limit(&self, caller: &Caller) -> usize {
        match self.own_limits {
            true => caller.limits().waiting,
            false => usize::MAX,
        }
    }

    fn over_own_limit(&self, held: usize, limit: usize) -> Error {
        self.refused.own_limit.increment(1);
        let what = self.what;
        let context = format!(
            "this identity has {held} {what} and may have {limit} by the policy; try again later"
        );
        Error::new(ErrorKind::Overloaded, context)
    }

    fn overloaded(&self, used: usize) -> Error {
        self.refused.limit.increment(1);
        let Self { what, limit, .. } = self;
        let context = format!("{used} of {limit} {what} are there already; try again later");
        Error::new(ErrorKind::Overloaded, context)
    }

    fn over_share(&self, held: usize, used: usize) -> Error {
        self.refused.share.increment(1);
        let Self { what, limit, .. } = self;
        let left = limit.saturating_sub(used);
        let context = format!(
            "this client's share of {what} is used up: it has {held} of the {limit} that there may \
             be, and {left} are left for all; try again later"
        );
        Error::new(ErrorKind::Overloaded, context)
    }

    fn show(&self, used: usize) {
        if let Some(gauge) = &self.gauge {
            gauge.set(used as f64);
        }
    }
}

impl Places {
    pub(crate) fn caller(&self) -> Option<&Caller> {
        self.caller.as_ref()
    }

    /// Takes some of them out.
    pub(crate) fn split(&mut self, count: usize) -> Self {
        let count = count.min(self.count);
        self.count -= count;
        Self { room: self.room.clone(), caller: self.caller.clone(), count }
    }
}

impl Drop for Places {
    fn drop(&mut self) {
        if self.count == 0 {
            return;
        }
        let before = self.room.used.fetch_sub(self.count, Ordering::Relaxed);
        self.room.show(before - self.count);
        if let Some(caller) = &self.caller {
            self.room.count_off(caller, self.count);
        }
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

    #[test]
    fn a_newcomer_finds_a_share_whatever_others_have_taken() {
        let callers = Arc::new(Callers::default());
        let room = Arc::new(Room::queued(1_000));
        let mut held = vec![];
        for (caller, expected) in [(1, 750), (2, 125), (3, 63), (4, 31), (5, 16), (6, 8)] {
            let caller = callers.get(id(&format!("10.0.0.{caller}")));
            let before = held.len();
            while let Ok(places) = room.enter(Some(&caller), 1) {
                held.push(places);
            }
            assert_eq!(held.len() - before, expected);
        }
        drop(held);
        assert_eq!(room.used(), 0);
    }

    #[test]
    fn what_is_refused_takes_no_place() {
        let callers = Arc::new(Callers::default());
        let room = Arc::new(Room::queued(100));
        let greedy = callers.get(id("10.0.0.1"));
        let held = room.enter(Some(&greedy), 75).unwrap();
        for _ in 0..3 {
            assert!(room.enter(Some(&greedy), 1).is_err());
            assert!(room.enter(None, 26).is_err());
        }
        assert_eq!(room.used(), 75);
        // Without an address there are no shares.
        let rest = room.enter(None, 25).unwrap();
        drop((held, rest));
        assert_eq!(room.used(), 0);
        assert!(room.enter(Some(&greedy), 75).is_ok());
    }

    #[test]
    fn a_caller_with_a_limit_of_its_own_has_no_more_places_to_wait() {
        let callers = Arc::new(Callers::default());
        let limits = CallerLimits { waiting: 3, ..CallerLimits::NONE };
        let limited = || callers.get(id("10.0.0.1")).with_limits(limits);
        let room = Arc::new(Room::queued(100));
        let held = room.enter(Some(&limited()), 3).unwrap();
        assert!(room.enter(Some(&limited()), 1).is_err(), "whichever connection asks");
        assert!(room.enter(Some(&callers.get(id("10.0.0.2"))), 4).is_ok());
        drop(held);
        assert!(room.enter(Some(&limited()), 3).is_ok());
        let connections = Arc::new(Room::connections(100));
        assert!(connections.enter(Some(&limited()), 50).is_ok(), "connections are not requests");
    }

    #[test]
    fn parts_of_places_are_given_back_alone() {
        let callers = Arc::new(Callers::default());
        let room = Arc::new(Room::queued(100));
        let mut held = room.enter(Some(&callers.get(id("10.0.0.1"))), 10).unwrap();
        drop(held.split(4));
        assert_eq!(room.used(), 6);
        let part = held.split(100);
        drop(held);
        assert_eq!(room.used(), 6);
        drop(part);
        assert_eq!(room.used(), 0);
    }
}
