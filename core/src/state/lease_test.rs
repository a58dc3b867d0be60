//! Stamping leases, rule by rule, and the world that their tests live in.

use super::{
    Answer, Capped, Command, LeaseAsk, LeaseGrant, Limits, Moment, Query, Reject, Reply, Requester,
    keys,
    record::{FIRST_RULES, LEASE_RULES, Meta, OWNER_RULES},
    testing::{NODE, State, whole, with},
};
use crate::{Epoch, Identity, LeaseHolder, LeaseId, MAX_HIGH_WATER_MS, MemoryStore, Result};

pub(super) const NOON_MS: u64 = 1_800_000_000_000;
const TTL_MS: u64 = 10_000;
pub(super) const CAP: u64 = 4;

fn holder(name: &str) -> LeaseHolder {
    LeaseHolder::new(name).unwrap()
}

/// A state that is open, its leader's wall clock, and the time that has really passed.
pub(super) struct World {
    pub(super) state: State,
    pub(super) wall_ms: u64,
    pub(super) passed_ms: u64,
}

impl World {
    pub(super) fn new() -> Self {
        let mut state = State::default();
        state.take_over(NOON_MS);
        Self { state, wall_ms: NOON_MS, passed_ms: 0 }
    }

    pub(super) fn pass(&mut self, millis: u64) {
        self.passed_ms += millis;
        self.wall_ms += millis;
        self.state.elapsed_ms += millis;
    }

    fn ask(&mut self, ask: LeaseAsk) -> Result<Reply, Reject> {
        let command = self.command(ask);
        self.state.apply(&[command]).remove(0)
    }

    pub(super) fn command(&self, ask: LeaseAsk) -> Command {
        Command::Lease {
            ask,
            at: Moment { now_ms: self.wall_ms, elapsed_ms: self.state.elapsed_ms },
        }
    }

    fn leased(&mut self, ask: LeaseAsk) -> Result<LeaseGrant, Reject> {
        match self.ask(ask)? {
            Reply::Leased(grant) => Ok(grant),
            other => panic!("a lease was answered with {other:?}"),
        }
    }

    fn acquire(&mut self, name: &str, epoch: u64) -> Result<LeaseGrant, Reject> {
        self.leased(acquire(name, epoch, TTL_MS))
    }

    fn renew(&mut self, id: LeaseId) -> Result<LeaseGrant, Reject> {
        self.leased(LeaseAsk::Renew { by: Requester::Process, id })
    }

    fn release(&mut self, id: LeaseId) {
        assert_eq!(
            self.ask(LeaseAsk::Release { by: Requester::Process, id }),
            Ok(Reply::LeaseReleased)
        );
    }

    /// The frontier, once nothing more can be ended.
    fn frontier(&mut self) -> u64 {
        loop {
            match self.read_frontier() {
                (frontier_ms, false) => return frontier_ms,
                (_, true) => drop(self.ask(LeaseAsk::Expire).unwrap()),
            }
        }
    }

    /// The frontier, and whether something can be ended.
    pub(super) fn read_frontier(&self) -> (u64, bool) {
        let query = Query::Frontier { elapsed_ms: self.state.elapsed_ms };
        match self.state.ask(&query) {
            Answer::Frontier { frontier_ms, expired } => (frontier_ms, expired),
            other => panic!("{other:?}"),
        }
    }

    pub(super) fn high_water(&self) -> u64 {
        self.state.record().high_water_ms
    }
}

pub(super) fn acquire(name: &str, holder_epoch: u64, ttl_ms: u64) -> LeaseAsk {
    let limits = Limits { leases: CAP, ..Limits::default() };
    LeaseAsk::Acquire { by: Requester::Process, holder: holder(name), holder_epoch, ttl_ms, limits }
}

#[test]
fn a_lease_reaches_from_the_clock_as_far_as_it_runs() {
    let mut world = World::new();
    let lease = world.acquire("a", 7).unwrap();
    assert_eq!(lease.bound_ms, NOON_MS + TTL_MS);
    assert_eq!(lease.expires_at_ms, NOON_MS + TTL_MS);
    assert_eq!(lease.remaining_ms, TTL_MS);
    assert_eq!(world.frontier(), lease.bound_ms);
}

#[test]
fn asking_again_gives_the_live_lease_unchanged() {
    let mut world = World::new();
    let first = world.acquire("a", 7).unwrap();
    world.pass(4_000);
    let again = world.leased(acquire("a", 7, 2 * TTL_MS)).unwrap();
    assert_eq!(again, LeaseGrant { remaining_ms: TTL_MS - 4_000, ..first });
    world.state.take_over(NOON_MS + 4_000);
    assert_eq!(world.acquire("a", 7).unwrap().id, first.id, "and under the next leader");
}

#[test]
fn a_higher_epoch_supersedes_and_a_lower_one_is_refused() {
    let mut world = World::new();
    let old = world.acquire("a", 7).unwrap();
    assert_eq!(world.acquire("a", 6), Err(Reject::StaleHolder { current: 7 }));
    world.pass(5_000);
    let new = world.acquire("a", 8).unwrap();
    assert_ne!(new.id, old.id);
    assert_eq!(world.acquire("a", 7), Err(Reject::StaleHolder { current: 8 }));
    assert_eq!(world.renew(old.id), Err(Reject::LeaseSuperseded { id: old.id }));
    assert_eq!(world.frontier(), old.bound_ms, "the holder may not know yet");
    world.pass(TTL_MS / 10 + 5_001);
    assert_eq!(world.frontier(), new.bound_ms);
    assert_eq!(world.renew(new.id).unwrap().remaining_ms, TTL_MS);
}

#[test]
fn a_superseded_lease_leaves_its_holders_new_one_alone_when_it_ends() {
    let mut world = World::new();
    let old = world.acquire("a", 1).unwrap();
    let new = world.acquire("a", 2).unwrap();
    world.release(old.id);
    assert_eq!(world.acquire("a", 2).unwrap().id, new.id);
    assert_eq!(world.acquire("a", 1), Err(Reject::StaleHolder { current: 2 }));
}

#[test]
fn releasing_is_idempotent_and_lets_the_frontier_go() {
    let mut world = World::new();
    let lease = world.acquire("a", 7).unwrap();
    let command = Command::Extend { high_water_ms: lease.bound_ms + 500, elapsed_ms: 0 };
    world.state.apply(&[command])[0].as_ref().unwrap();
    assert_eq!(world.frontier(), lease.bound_ms);
    for _ in 0..2 {
        world.release(lease.id);
        assert_eq!(world.frontier(), lease.bound_ms + 500);
    }
    world.release(LeaseId(99));
    assert_eq!(world.renew(lease.id), Err(Reject::LeaseOver { id: lease.id }));
    assert_eq!(world.renew(LeaseId(99)), Err(Reject::LeaseUnknown { id: LeaseId(99) }));
    assert_eq!(world.renew(LeaseId(0)), Err(Reject::LeaseUnknown { id: LeaseId(0) }));
    assert_ne!(world.acquire("a", 1).unwrap().id, lease.id, "and any epoch may begin again");
}

#[test]
fn a_lease_that_has_run_out_still_counts_for_a_holder_whose_clock_is_slow() {
    let mut world = World::new();
    let lease = world.acquire("a", 7).unwrap();
    world.pass(TTL_MS);
    let command = Command::Extend { high_water_ms: lease.bound_ms + 500, elapsed_ms: 0 };
    world.state.apply(&[command])[0].as_ref().unwrap();
    assert_eq!(world.renew(lease.id), Err(Reject::LeaseOver { id: lease.id }));
    world.pass(TTL_MS / 10);
    assert_eq!(world.frontier(), lease.bound_ms);
    world.pass(1);
    assert_eq!(world.frontier(), lease.bound_ms + 500);
}

#[test]
fn a_thousand_leases_leave_the_high_water_where_the_clock_and_the_ttl_put_it() {
    let mut world = World::new();
    let lease = world.acquire("renewed", 1).unwrap();
    for epoch in 1..=1_000 {
        let other = world.acquire("acquired", epoch).unwrap();
        world.renew(lease.id).unwrap();
        world.release(other.id);
        assert_eq!(world.high_water(), NOON_MS + TTL_MS);
    }
    world.pass(3);
    world.renew(lease.id).unwrap();
    assert_eq!(world.high_water(), NOON_MS + 3 + TTL_MS);
}

#[test]
fn leaders_in_a_row_do_not_push_the_bounds_on() {
    let mut world = World::new();
    let lease = world.acquire("a", 1).unwrap();
    for leaders in 1..=100 {
        world.state.take_over(NOON_MS);
        let renewed = world.renew(lease.id).unwrap();
        // Each fence reserves a window of 10 ms, and no lease adds to it.
        assert_eq!(renewed.bound_ms, NOON_MS + TTL_MS + leaders * 11);
        assert_eq!(renewed.expires_at_ms, NOON_MS + TTL_MS);
    }
}

#[test]
fn a_successor_begins_above_every_bound() {
    let mut world = World::new();
    let lease = world.acquire("a", 1).unwrap();
    let fence = world.state.fence_command(5, 10, 1_000);
    let fenced = world.state.apply(&[fence]).remove(0).unwrap();
    assert!(matches!(fenced, Reply::Fenced { floor_ms, .. } if floor_ms > lease.bound_ms));
}

#[test]
fn no_id_is_given_twice_by_any_leader() {
    let (mut world, mut last) = (World::new(), LeaseId(0));
    for epoch in 1..=3 {
        for name in ["a", "b"] {
            let lease = world.acquire(name, epoch).unwrap();
            assert!(lease.id > last, "{lease:?} came after {last}");
            last = lease.id;
            world.release(last);
        }
        world.state.take_over(NOON_MS);
    }
}

#[test]
fn no_wall_clock_ends_a_lease() {
    let mut world = World::new();
    let lease = world.acquire("a", 1).unwrap();
    for wall_ms in [0, NOON_MS + 10 * TTL_MS, 5] {
        world.state.take_over(wall_ms);
        world.wall_ms = wall_ms;
        assert!(world.frontier() <= lease.bound_ms, "{wall_ms}");
        assert_eq!(world.acquire("a", 1).unwrap().id, lease.id);
    }
}

#[test]
fn the_cap_holds_until_leases_are_over() {
    let mut world = World::new();
    let names = ["a", "b", "c", "d"];
    let leases: Vec<_> = names.iter().map(|name| world.acquire(name, 1).unwrap()).collect();
    let full = Err(Reject::TooMany { what: Capped::Leases, limit: CAP });
    assert_eq!(world.acquire("e", 1), full);
    assert_eq!(world.acquire("a", 2), full, "a superseded one takes its place as well");
    assert_eq!(world.acquire("a", 1).unwrap().id, leases[0].id, "nothing of it was done");
    assert!(world.renew(leases[1].id).is_ok());
    world.release(leases[0].id);
    assert!(world.acquire("e", 1).is_ok());
    world.pass(2 * TTL_MS);
    assert!(world.acquire("f", 1).is_ok(), "those that have expired make room");
    world.pass(2 * TTL_MS);
    assert!(world.acquire("f", 1).is_ok(), "and so does the holder's own");
    assert_eq!(world.state.count(b'l'), 1);
}

#[test]
fn many_expired_leases_end_in_pieces() {
    let mut world = World::new();
    let limits = Limits::default();
    let ask = |n: u32| {
        let holder = LeaseHolder::new(n.to_be_bytes()).unwrap();
        LeaseAsk::Acquire {
            by: Requester::Process,
            holder,
            holder_epoch: 1,
            ttl_ms: TTL_MS,
            limits,
        }
    };
    for n in 0..200 {
        world.leased(ask(n)).unwrap();
    }
    world.pass(2 * TTL_MS);
    // The last one's has expired, and is not among those that are ended along.
    world.leased(ask(199)).unwrap();
    assert_eq!(world.state.count(b'l'), 200 - 64 + 1);
    assert_eq!(world.frontier(), NOON_MS + TTL_MS * 3);
    assert_eq!(world.state.count(b'l'), 1);
    assert_eq!(world.state.count(b'h'), 1);
    assert!(world.leased(ask(199)).unwrap().remaining_ms > 0, "it is still known by its holder");
}

#[test]
fn a_lease_beyond_the_end_of_time_is_refused() {
    let mut world = World::new();
    world.wall_ms = MAX_HIGH_WATER_MS;
    let refused = Err(Reject::OutOfRange { high_water_ms: MAX_HIGH_WATER_MS + TTL_MS });
    assert_eq!(world.acquire("a", 1), refused);
}

#[test]
fn only_an_open_reign_touches_leases() {
    let mut world = World::new();
    let lease = world.acquire("a", 1).unwrap();
    let before = world.state.store.clone();
    for ask in [
        acquire("b", 1, TTL_MS),
        LeaseAsk::Renew { by: Requester::Process, id: lease.id },
        LeaseAsk::Release { by: Requester::Process, id: lease.id },
        LeaseAsk::Expire,
    ] {
        let late = world.command(ask);
        let results = world.state.apply_as(Epoch(0), &[late]);
        assert_eq!(results, [Err(Reject::Fenced { current: world.state.epoch })]);
        assert_eq!(world.state.store, before);
    }
}

/// The bytes that the release before stamping leases has written.
fn older_state() -> MemoryStore {
    let reign = [1, 1, 1, 128, 228, 227, 163, 177, 52, 232, 7, 1, 1, 0, 0, 0];
    let store = with(MemoryStore::default(), keys::REIGN.into(), reign.into());
    let store = with(store, keys::META.into(), [1, 1, 1, 0].into());
    with(store, b"sorders".into(), [1, 64].into())
}

#[test]
fn a_state_of_the_release_before_opens_and_the_first_lease_marks_it() {
    let mut world = World::new();
    world.state = State { store: older_state(), epoch: Epoch(1), ..State::default() };
    assert_eq!(world.state.record().opened_by, Some(NODE));
    world.state.take_over(NOON_MS);
    assert_eq!(world.state.epoch, Epoch(2), "epochs go on");
    assert_eq!(world.state.advance(&[("orders", 1)], None).unwrap()[0].start, 64);
    assert_eq!(rules(&world), FIRST_RULES, "the release before may still open it");
    world.acquire("a", 1).unwrap();
    assert_eq!(rules(&world), LEASE_RULES, "now it must not");
    world.state.take_over(NOON_MS);
}

fn rules(world: &World) -> u32 {
    Meta::load(&whole(&world.state.store)).unwrap().rules
}

fn identified(name: &str) -> Requester {
    Requester::Identified(Identity::new(name).unwrap())
}

fn acquire_by(by: Requester, name: &str, holder_epoch: u64) -> LeaseAsk {
    let limits = Limits { leases: CAP, ..Limits::default() };
    LeaseAsk::Acquire { by, holder: holder(name), holder_epoch, ttl_ms: TTL_MS, limits }
}

#[test]
fn a_lease_belongs_to_the_identity_that_acquired_it() {
    let mut world = World::new();
    let lease = world.leased(acquire_by(identified("owner"), "a", 7)).unwrap();
    world.state.take_over(NOON_MS);
    let id = lease.id;
    let refused = Err(Reject::LeaseOfAnother { id });
    for by in [identified("other"), Requester::Anonymous] {
        for epoch in [6, 7, 8] {
            assert_eq!(world.ask(acquire_by(by.clone(), "a", epoch)), refused);
        }
        assert_eq!(world.ask(LeaseAsk::Renew { by: by.clone(), id }), refused);
        assert_eq!(world.ask(LeaseAsk::Release { by, id }), refused);
    }
    for by in [identified("owner"), Requester::Process] {
        assert_eq!(world.leased(LeaseAsk::Renew { by, id }).unwrap().id, id);
    }
    let next = world.leased(acquire_by(identified("owner"), "a", 8)).unwrap();
    assert_eq!(
        world.ask(LeaseAsk::Release { by: Requester::Anonymous, id }),
        refused,
        "a superseded one is still its owner's"
    );
    let by = Requester::Process;
    assert_eq!(world.ask(LeaseAsk::Release { by, id: next.id }), Ok(Reply::LeaseReleased));
    assert!(world.leased(acquire_by(Requester::Anonymous, "a", 1)).is_ok(), "it is free now");
}

#[test]
fn a_lease_without_an_owner_is_anybodys() {
    let mut world = World::new();
    let lease = world.leased(acquire_by(Requester::Anonymous, "a", 7)).unwrap();
    let again = world.leased(acquire_by(identified("somebody"), "a", 7)).unwrap();
    assert_eq!(again.id, lease.id);
    assert_ne!(rules(&world), OWNER_RULES);
    let next = world.leased(acquire_by(identified("somebody"), "a", 8)).unwrap();
    assert_eq!(rules(&world), OWNER_RULES, "a release that knows no owners must not lead now");
    assert_eq!(
        world.ask(LeaseAsk::Release { by: Requester::Anonymous, id: next.id }),
        Err(Reject::LeaseOfAnother { id: next.id })
    );
}

#[test]
fn a_lease_that_has_run_out_keeps_nobody_away() {
    let mut world = World::new();
    world.leased(acquire_by(identified("owner"), "a", 7)).unwrap();
    world.pass(TTL_MS);
    assert!(world.leased(acquire_by(identified("other"), "a", 1)).is_ok());
}
