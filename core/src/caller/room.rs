//! How many of the bounded places each caller holds.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use metrics::{Counter, Gauge};

use super::{Caller, ROOMS, scarce_from};
use crate::{Error, ErrorKind, Result, series, series::Series};

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
    use crate::{CallerId, CallerLimits, caller::Callers};

    fn id(text: &str) -> CallerId {
        CallerId::of_address(text.parse().unwrap())
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
