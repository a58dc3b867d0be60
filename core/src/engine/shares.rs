//! What each caller holds of what the state caps. The state itself knows no owners, so that this is known
//! of what was made under this reign; what was there before is nobody's.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU32, AtomicU64, Ordering},
};

use foldhash::{HashMap, fast::RandomState};
use indexmap::IndexMap;
use metrics::Gauge;

use super::{meters::RefusalMeters, space::SpaceLeft};

use crate::{
    CallerId, CallerLimits, Reject,
    caller::scarce_from,
    state::{CAPS, Capped, Change, Limits, Rules},
};

/// The most callers that are told apart. Beyond that, those that hold the least are forgotten.
const MOST_CALLERS: usize = 4_096;

/// The caps while there is little space: what exists goes on.
const NOTHING_NEW: Limits = Limits { keys: 0, sessions: 0, open_requests: 0, leases: 0, named: 0 };

/// How much there is of what is capped, for whoever looks from outside. Nothing unless this node leads.
#[derive(Default, Debug)]
pub(crate) struct Used {
    counts: [AtomicU64; CAPS],
    rules: AtomicU32,
    is_closed: AtomicBool,
}

impl Used {
    pub(crate) fn get(&self, what: Capped) -> u64 {
        self.counts[what as usize].load(Ordering::Relaxed)
    }

    /// The version of the rules that the state is under.
    pub(crate) fn rules(&self) -> Option<Rules> {
        let rules = self.rules.load(Ordering::Relaxed);
        (rules > 0).then(|| Rules::new(rules))
    }

    /// Whether sequences are closed, since the state was restored.
    pub(crate) fn is_closed(&self) -> bool {
        self.is_closed.load(Ordering::Relaxed)
    }

    pub(crate) fn clear(&self) {
        self.counts.iter().for_each(|used| used.store(0, Ordering::Relaxed));
        self.rules.store(0, Ordering::Relaxed);
        self.is_closed.store(false, Ordering::Relaxed);
    }

    fn set(&self, what: Capped, used: u64) {
        self.counts[what as usize].store(used, Ordering::Relaxed);
    }
}

/// Who holds what. Shares are those of [`scarce_from`].
#[derive(Debug)]
pub(super) struct Shares {
    limits: Limits,
    space: Arc<SpaceLeft>,
    gauges: [Gauge; CAPS],
    refusals: Arc<RefusalMeters>,
    shown: Arc<Used>,
    /// How much there is of each, as of the last commit that has changed it.
    used: [u64; CAPS],
    held: IndexMap<CallerId, [u64; CAPS], RandomState>,
    /// Who made what may end again, by a hash of its key.
    owners: HashMap<u64, CallerId>,
    hashes: RandomState,
}

impl Shares {
    pub(super) fn new(
        limits: Limits,
        space: Arc<SpaceLeft>,
        gauges: [Gauge; CAPS],
        refusals: Arc<RefusalMeters>,
        shown: Arc<Used>,
    ) -> Self {
        Self {
            limits,
            space,
            gauges,
            refusals,
            shown,
            used: [0; CAPS],
            held: IndexMap::default(),
            owners: HashMap::default(),
            hashes: RandomState::default(),
        }
    }

    /// Forgets everything: what was noted may not have been stored.
    pub(super) fn forget(&mut self) {
        let (space, gauges) = (self.space.clone(), self.gauges.clone());
        *self = Self::new(self.limits, space, gauges, self.refusals.clone(), self.shown.clone());
    }

    /// Notes how much there is of each, the rules that the state is under, and whether sequences are closed.
    pub(super) fn count(&mut self, used: [u64; CAPS], rules: Rules, is_closed: bool) {
        self.shown.is_closed.store(is_closed, Ordering::Relaxed);
        self.shown.rules.store(rules.version(), Ordering::Relaxed);
        self.used = used;
        for (what, used) in Capped::ALL.into_iter().zip(used) {
            self.show(what, used);
        }
    }

    fn show(&self, what: Capped, used: u64) {
        self.gauges[what as usize].set(used as f64);
        self.shown.set(what, used);
    }

    /// Notes what a command changes, which this caller has sent.
    pub(super) fn note(&mut self, caller: Option<CallerId>, change: &Change) {
        match change {
            Change::Count(what, used) => {
                self.used[*what as usize] = *used;
                self.show(*what, *used);
            }
            Change::Rules(rules) => self.shown.rules.store(rules.version(), Ordering::Relaxed),
            Change::Opened => self.shown.is_closed.store(false, Ordering::Relaxed),
            Change::Made(what, key) => {
                let Some(caller) = caller else { return };
                self.add(caller, *what);
                // Sequences are too many for that, and end by an operator's hand alone.
                if *what != Capped::Sequences {
                    self.owners.insert(self.hash(key), caller);
                }
            }
            Change::Ended(what, key) => {
                let hash = self.hash(key);
                if let Some(owner) = self.owners.remove(&hash) {
                    self.remove(owner, *what);
                }
            }
        }
    }

    /// The caps for a caller: what it holds already and what is left of its share, where that is less.
    #[inline]
    pub(super) fn limits(&self, caller: Option<(CallerId, CallerLimits)>) -> Limits {
        match caller {
            _ if self.space.is_low() => {
                Limits { open_requests: self.limits.open_requests, ..NOTHING_NEW }
            }
            Some((caller, own)) if own != CallerLimits::NONE || self.is_scarce() => {
                self.limits_of(caller, own)
            }
            _ => self.limits,
        }
    }

    /// What to tell a caller that was refused because of these limits, which counts.
    pub(super) fn explain(
        &self,
        caller: Option<(CallerId, CallerLimits)>,
        reject: Reject,
    ) -> Reject {
        let reject = self.reason(caller, reject);
        self.refusals.note(&reject);
        reject
    }

    fn reason(&self, caller: Option<(CallerId, CallerLimits)>, reject: Reject) -> Reject {
        let (what, refused_at) = match reject {
            Reject::TooMany { what, limit } => (what, limit),
            other => return other,
        };
        let limit = what.of(&self.limits);
        match caller {
            _ if refused_at == 0 && limit > 0 => {
                let (free, reserve) = self.space.bytes();
                Reject::SpaceLow { what, free, reserve }
            }
            Some((caller, own)) if self.held_by(caller)[what as usize] >= own.of(what) => {
                Reject::OverOwnLimit { what, limit: own.of(what) }
            }
            Some((caller, _)) if refused_at < limit => Reject::OverShare {
                what,
                held: self.held_by(caller)[what as usize],
                left: limit.saturating_sub(self.used[what as usize]),
                limit,
            },
            _ => reject,
        }
    }

    fn is_scarce(&self) -> bool {
        Capped::ALL.iter().any(|what| self.is_scarce_of(*what))
    }

    fn is_scarce_of(&self, what: Capped) -> bool {
        self.used[what as usize] >= scarce_from(what.of(&self.limits))
    }

    #[cold]
    fn limits_of(&self, caller: CallerId, own: CallerLimits) -> Limits {
        let held = self.held_by(caller);
        let mut limits = self.limits;
        for what in Capped::ALL {
            let (used, limit) = (self.used[what as usize], what.of_mut(&mut limits));
            let own_left = own.of(what).saturating_sub(held[what as usize]);
            *limit = (*limit).min(used.saturating_add(own_left));
            if self.is_scarce_of(what) {
                // As many as it can take until it holds as many as are left.
                let more =
                    limit.saturating_sub(used).saturating_sub(held[what as usize]).div_ceil(2);
                *limit = (*limit).min(used.saturating_add(more));
            }
        }
        limits
    }

    fn held_by(&self, caller: CallerId) -> [u64; CAPS] {
        self.held.get(&caller).copied().unwrap_or_default()
    }

    fn add(&mut self, caller: CallerId, what: Capped) {
        if self.held.len() >= MOST_CALLERS && !self.held.contains_key(&caller) {
            self.forget_least();
        }
        self.held.entry(caller).or_default()[what as usize] += 1;
    }

    fn remove(&mut self, caller: CallerId, what: Capped) {
        let Some(all) = self.held.get_mut(&caller) else { return };
        all[what as usize] = all[what as usize].saturating_sub(1);
        if *all == [0; CAPS] {
            self.held.swap_remove(&caller);
        }
    }

    fn forget_least(&mut self) {
        let least = self.held.iter().min_by_key(|(_, held)| held.iter().sum::<u64>());
        if let Some(least) = least.map(|(caller, _)| *caller) {
            self.held.swap_remove(&least);
        }
    }

    fn hash(&self, key: &[u8]) -> u64 {
        std::hash::BuildHasher::hash_one(&self.hashes, key)
    }
}

#[cfg(test)]
mod tests {
    use std::net::Ipv4Addr;

    use super::*;

    const GREEDY: Option<u32> = Some(1);

    fn id(number: u32) -> CallerId {
        CallerId::of_address(Ipv4Addr::from_bits(number).into())
    }

    fn caller(number: Option<u32>) -> Option<(CallerId, CallerLimits)> {
        number.map(|number| (id(number), CallerLimits::NONE))
    }

    struct State {
        shares: Shares,
        used: u64,
        next: u64,
    }

    impl State {
        fn new(sessions: u64) -> Self {
            let limits = Limits { sessions, ..Limits::default() };
            let gauges = std::array::from_fn(|_| Gauge::noop());
            let (space, refusals) =
                (Arc::new(SpaceLeft::new(None)), Arc::new(RefusalMeters::new()));
            let shares = Shares::new(limits, space, gauges, refusals, Arc::default());
            Self { shares, used: 0, next: 0 }
        }

        /// Makes sessions as long as the rule of the state lets it: how many.
        fn take(&mut self, number: Option<u32>, most: u64) -> u64 {
            self.take_within(caller(number), most)
        }

        fn take_within(&mut self, caller: Option<(CallerId, CallerLimits)>, most: u64) -> u64 {
            let id = caller.map(|(id, _)| id);
            for taken in 0..most {
                if self.used >= self.shares.limits(caller).sessions {
                    return taken;
                }
                self.used += 1;
                let key = self.next.to_be_bytes()[..].into();
                self.next += 1;
                self.shares.note(id, &Change::Made(Capped::Sessions, key));
                self.shares.note(id, &Change::Count(Capped::Sessions, self.used));
            }
            most
        }

        /// Ends the session that was made as number `number`.
        fn end(&mut self, number: u64) {
            self.used -= 1;
            let key = number.to_be_bytes()[..].into();
            self.shares.note(None, &Change::Ended(Capped::Sessions, key));
            self.shares.note(None, &Change::Count(Capped::Sessions, self.used));
        }
    }

    #[test]
    fn shares_bite_at_three_quarters() {
        let mut state = State::new(1_000);
        assert_eq!(state.take(GREEDY, 2_000), 750);
        assert_eq!(state.take(Some(2), 100), 100);
        // In this process there are none.
        assert_eq!(state.take(None, 200), 150);
    }

    #[test]
    fn a_newcomer_finds_a_share_whatever_others_have_taken() {
        let mut state = State::new(1_000);
        for (number, expected) in [(1, 750), (2, 125), (3, 63), (4, 31), (5, 16), (6, 8)] {
            assert_eq!(state.take(Some(number), 1_000), expected);
        }
    }

    #[test]
    fn what_ends_is_nobodys_any_more() {
        let mut state = State::new(1_000);
        state.take(GREEDY, 2_000);
        for number in 0..500 {
            state.end(number);
        }
        assert_eq!(state.take(GREEDY, 2_000), 500);
        let refused = Reject::TooMany {
            what: Capped::Sessions,
            limit: state.shares.limits(caller(GREEDY)).sessions,
        };
        let explained = state.shares.explain(caller(GREEDY), refused);
        let expected =
            Reject::OverShare { what: Capped::Sessions, held: 750, left: 250, limit: 1_000 };
        assert_eq!(explained, expected);
        for number in 500..1_250 {
            state.end(number);
        }
        assert_eq!((state.shares.held.len(), state.shares.owners.len()), (0, 0));
    }

    #[test]
    fn what_was_there_before_leaves_less_to_share() {
        let mut state = State::new(1_000);
        state.take(None, 800);
        assert_eq!(state.take(GREEDY, 1_000), 100);
        assert_eq!(state.take(Some(2), 1_000), 50);
    }

    #[test]
    fn a_caller_with_limits_of_its_own_has_no_more_than_those() {
        let mut state = State::new(1_000);
        let limits = CallerLimits { sessions: 10, ..CallerLimits::NONE };
        let limited = Some((id(1), limits));
        assert_eq!(state.take_within(limited, 100), 10);
        assert_eq!(state.take(Some(2), 100), 100);
        let refused = Reject::TooMany {
            what: Capped::Sessions,
            limit: state.shares.limits(limited).sessions,
        };
        let explained = state.shares.explain(limited, refused);
        assert_eq!(explained, Reject::OverOwnLimit { what: Capped::Sessions, limit: 10 });
        state.end(3);
        assert_eq!(state.take_within(limited, 100), 1);
    }

    #[test]
    fn only_so_many_callers_are_told_apart() {
        let mut state = State::new(100_000);
        state.take(GREEDY, 10);
        for number in 0..10_000 {
            state.take(Some(10 + number), 1);
        }
        assert_eq!(state.shares.held.len(), MOST_CALLERS);
        assert_eq!(state.shares.held_by(id(1))[Capped::Sessions as usize], 10);
        for number in 0..10_010 {
            state.end(number);
        }
        assert_eq!((state.shares.held.len(), state.shares.owners.len()), (0, 0));
    }
}
