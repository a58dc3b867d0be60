//! Stamping leases for any sequence of commands, clocks and leaders, against what holders believe.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::{
    Capped, LeaseAsk, LeaseGrant, Reject, Reply, Requester,
    lease_test::{CAP, NOON_MS, World, acquire},
};
use crate::{LeaseId, Result};

/// What can happen.
#[derive(Clone, Debug)]
enum Step {
    Batch(Vec<Ask>),
    /// Time passes.
    Pass {
        millis: u64,
        reported: bool,
    },
    /// A new leader, whose wall clock may show anything.
    TakeOver {
        wall_ms: u64,
    },
    /// The leader's wall clock is set.
    SetClock {
        wall_ms: u64,
    },
}

#[derive(Clone, Debug)]
enum Ask {
    Acquire { name: usize, epoch: u64, ttl_ms: u64 },
    Renew { id: u64 },
    Release { id: u64 },
    Expire,
}

const NAMES: [&str; 3] = ["a", "b", "c"];
const LONGEST_MS: u64 = 30_000;

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let wall = || prop_oneof![Just(0), NOON_MS - 100_000..NOON_MS + 100_000];
    let ask = prop_oneof![
        4 => (0..3usize, 1..4u64, 1_000..=LONGEST_MS)
            .prop_map(|(name, epoch, ttl_ms)| Ask::Acquire { name, epoch, ttl_ms }),
        3 => (0..12u64).prop_map(|id| Ask::Renew { id }),
        1 => (0..12u64).prop_map(|id| Ask::Release { id }),
        1 => Just(Ask::Expire),
    ];
    let step = prop_oneof![
        6 => prop::collection::vec(ask, 1..4).prop_map(Step::Batch),
        3 => (0..20_000u64, any::<bool>())
            .prop_map(|(millis, reported)| Step::Pass { millis, reported }),
        1 => wall().prop_map(|wall_ms| Step::TakeOver { wall_ms }),
        1 => wall().prop_map(|wall_ms| Step::SetClock { wall_ms }),
    ];
    prop::collection::vec(step, 1..60)
}

/// What a holder believes: up to where it may stamp, and until when in real time at the latest,
/// should its clock be the slowest there is.
struct Belief {
    bound_ms: u64,
    until_ms: u64,
}

/// What all holders believe, from nothing but the answers.
#[derive(Default)]
struct Beliefs {
    held: BTreeMap<LeaseId, Belief>,
    newest: LeaseId,
    /// The furthest that a clock and a TTL have reached, or a fence.
    reach_ms: u64,
    frontier_ms: u64,
}

impl Beliefs {
    fn learn(&mut self, world: &World, ask: &Ask, result: &Result<Reply, Reject>) {
        match (ask, result) {
            (Ask::Acquire { ttl_ms, .. }, Ok(Reply::Leased(lease))) => {
                if lease.id > self.newest {
                    assert_eq!(lease.remaining_ms, *ttl_ms);
                    self.newest = lease.id;
                    self.reach_ms = self.reach_ms.max(world.wall_ms + ttl_ms);
                } else {
                    assert_eq!(lease.bound_ms, self.held[&lease.id].bound_ms, "unchanged");
                }
                self.hold(world, lease);
            }
            (Ask::Renew { id }, Ok(Reply::Leased(lease))) => {
                assert_eq!(lease.id, LeaseId(*id));
                assert!(lease.bound_ms >= self.held[&lease.id].bound_ms);
                self.reach_ms = self.reach_ms.max(world.wall_ms + lease.remaining_ms);
                self.hold(world, lease);
            }
            (Ask::Renew { id }, Err(Reject::LeaseUnknown { .. })) => {
                assert!(LeaseId(*id) > self.newest || *id == 0);
            }
            (Ask::Expire, Ok(Reply::LeasesExpired(_))) => {}
            (Ask::Release { id }, Ok(Reply::LeaseReleased)) => {
                self.held.remove(&LeaseId(*id));
            }
            (
                Ask::Acquire { .. },
                Err(
                    Reject::StaleHolder { .. }
                    | Reject::TooMany { what: Capped::Leases, limit: CAP },
                ),
            )
            | (Ask::Renew { .. }, Err(Reject::LeaseOver { .. } | Reject::LeaseSuperseded { .. })) =>
                {}
            other => panic!("{other:?}"),
        }
    }

    fn hold(&mut self, world: &World, lease: &LeaseGrant) {
        let until_ms = world.passed_ms + lease.remaining_ms + lease.remaining_ms / 10;
        self.held.insert(lease.id, Belief { bound_ms: lease.bound_ms, until_ms });
    }

    fn check(&mut self, world: &World) {
        let (frontier_ms, _) = world.read_frontier();
        assert!(frontier_ms >= self.frontier_ms, "the frontier fell");
        self.frontier_ms = frontier_ms;
        let believed = self.held.iter().filter(|(_, held)| world.passed_ms < held.until_ms);
        for (id, held) in believed {
            assert!(frontier_ms <= held.bound_ms, "the frontier passed lease {id}");
        }
        assert!(world.high_water() <= self.reach_ms, "the high-water was pushed on");
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(512))]

    #[test]
    fn no_clock_and_no_leader_lets_the_frontier_fall_or_pass_a_lease(steps in steps()) {
        let mut world = World::new();
        let mut beliefs = Beliefs { reach_ms: world.high_water(), ..Beliefs::default() };
        for step in steps {
            match step {
                Step::Batch(asks) => {
                    let commands = asks.iter().map(|ask| world.command(match *ask {
                        Ask::Acquire { name, epoch, ttl_ms } => acquire(NAMES[name], epoch, ttl_ms),
                        Ask::Renew { id } => LeaseAsk::Renew { by: Requester::Process, id: LeaseId(id) },
                        Ask::Release { id } => LeaseAsk::Release { by: Requester::Process, id: LeaseId(id) },
                        Ask::Expire => LeaseAsk::Expire,
                    }));
                    let commands: Vec<_> = commands.collect();
                    let results = world.state.apply(&commands);
                    for (ask, result) in asks.iter().zip(&results) {
                        beliefs.learn(&world, ask, result);
                    }
                }
                Step::Pass { millis, reported } => {
                    world.pass(millis);
                    if reported {
                        world.state.pass(0);
                    }
                }
                Step::TakeOver { wall_ms } => {
                    world.state.take_over(wall_ms);
                    world.wall_ms = wall_ms;
                    beliefs.reach_ms = beliefs.reach_ms.max(wall_ms).max(world.high_water());
                }
                Step::SetClock { wall_ms } => world.wall_ms = wall_ms,
            }
            beliefs.check(&world);
        }
    }
}
