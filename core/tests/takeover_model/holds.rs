//! With every clause in force, the promises hold in every state of each scenario.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, LazyLock, Mutex, OnceLock, PoisonError},
};

use stateright::{Checker, Model};

use crate::clauses::Rules;
use crate::model::{FENCED, ORDER, Takeover, UNIQUENESS};
use crate::reached::{
    ADOPTED, COPIES, EVIDENCE, FAILOVER, HAND_OVER, LATE_LANDING, OWN_RETURN, PAUSED_CALL, RIVALS,
    SERVED_TWICE, SETTLED, UNOPENED,
};
use crate::scenario::{LONG_LEASE, SHORT_LEASE, Scenario};

/// What was found out about a scenario.
#[derive(Clone, Default)]
pub(crate) struct Found {
    states: usize,
    reached: BTreeSet<&'static str>,
}

/// The scenarios that were looked through: many tests need the same.
static LOOKED_THROUGH: LazyLock<Mutex<HashMap<String, Arc<OnceLock<Found>>>>> =
    LazyLock::new(Mutex::default);

/// Looks through the whole space. The promises hold in all of its states.
pub(crate) fn assert_sound(rules: Rules, scenario: Scenario) -> Found {
    let key = format!("{rules:?} {scenario:?}");
    let found = LOOKED_THROUGH
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(key)
        .or_default()
        .clone();
    let look_through = || {
        let checked = Takeover { rules, scenario }.checker().spawn_bfs().join();
        assert!(checked.is_done());
        checked.assert_no_discovery(ORDER);
        checked.assert_no_discovery(UNIQUENESS);
        checked.assert_no_discovery(FENCED);
        let reached = checked.discoveries().into_keys().collect();
        Found { states: checked.unique_state_count(), reached }
    };
    found.get_or_init(look_through).clone()
}

/// Asserts that the scenario is sound, has this number of states, and comes across each of `reaches`.
fn assert_holds(scenario: Scenario, states: usize, reaches: &[&'static str]) {
    let found = assert_sound(Rules::default(), scenario);
    for reached in reaches {
        assert!(found.reached.contains(reached), "not reached: {reached}");
    }
    assert_eq!(found.states, states);
}

/// Everything at once: crash, release, retries, late landings.
#[test]
fn two_nodes() {
    let scenario = Scenario::two_nodes().claims(3).extensions(1).releases(1).crashes(1).retries(1);
    let reaches = [
        SERVED_TWICE,
        FAILOVER,
        HAND_OVER,
        OWN_RETURN,
        LATE_LANDING,
        RIVALS,
        COPIES,
        SETTLED,
        UNOPENED,
        PAUSED_CALL,
    ];
    assert_holds(scenario, 1_638_307, &reaches);
}

/// As much, with nodes that observe each other's commits, and one take-over less.
#[test]
fn two_nodes_with_evidence() {
    let scenario = Scenario::two_nodes().extensions(1).releases(1).crashes(1).retries(1).evidence();
    let reaches = [FAILOVER, HAND_OVER, LATE_LANDING, RIVALS, COPIES, SETTLED, EVIDENCE];
    assert_holds(scenario, 154_236, &reaches);
}

/// The node with the long lease leads first, then the one with the short lease; either may have
/// the slow clock.
#[test]
fn two_nodes_with_unequal_leases() {
    for (leases, rates, states) in [
        ([LONG_LEASE, SHORT_LEASE], [10, 11], 248_787),
        ([LONG_LEASE, SHORT_LEASE], [11, 10], 236_943),
        ([SHORT_LEASE, LONG_LEASE], [10, 11], 263_612),
        ([SHORT_LEASE, LONG_LEASE], [11, 10], 247_966),
    ] {
        let scenario = Scenario::two_nodes().leases(&leases).rates(&rates);
        let scenario = scenario.ticks(4).claims(3).crashes(1).extensions(1);
        let reaches = [FAILOVER, OWN_RETURN, LATE_LANDING, UNOPENED, PAUSED_CALL];
        assert_holds(scenario, states, &reaches);
    }
}

/// The wall clock is far ahead at some fences and at zero at others.
#[test]
fn two_nodes_with_wrong_wall_clocks() {
    let scenario = Scenario::two_nodes().wall_clocks(&[0, 9]).claims(3).releases(1).retries(1);
    let reaches = [SERVED_TWICE, FAILOVER, HAND_OVER, OWN_RETURN, LATE_LANDING, PAUSED_CALL];
    assert_holds(scenario, 402_857, &reaches);
}

/// Windows run out and are extended, and leaders take turns.
#[test]
fn two_nodes_with_many_calls() {
    let scenario = Scenario::two_nodes().headroom(0).calls(4).claims(3).extensions(2).retries(1);
    let reaches = [SERVED_TWICE, FAILOVER, OWN_RETURN, LATE_LANDING, SETTLED, PAUSED_CALL];
    assert_holds(scenario, 502_748, &reaches);
}

/// Extensions that renew the lease and raise nothing, under the eyes of the other node.
#[test]
fn two_nodes_with_bare_renewals() {
    let scenario = Scenario::two_nodes().bare_renewals().evidence().ticks(4).extensions(2);
    let reaches = [FAILOVER, PAUSED_CALL, EVIDENCE];
    assert_holds(scenario.claims(3), 424_089, &reaches);
}

#[test]
fn two_nodes_with_four_claims() {
    let scenario = Scenario::two_nodes().claims(4).extensions(1);
    assert_holds(scenario, 280_325, &[FAILOVER, OWN_RETURN, RIVALS, PAUSED_CALL]);
}

/// A backup takes the place of the state while its leaders go on.
#[test]
fn two_nodes_with_an_adopted_state() {
    let leases = [LONG_LEASE, SHORT_LEASE];
    let scenario = Scenario::two_nodes().leases(&leases).ticks(3).claims(3).adoptions(1);
    assert_holds(scenario.evidence(), 179_007, &[FAILOVER, ADOPTED, EVIDENCE]);
}

#[test]
fn three_nodes() {
    let scenario = Scenario::three_nodes().extensions(1).releases(1).crashes(1);
    let reaches = [FAILOVER, HAND_OVER, OWN_RETURN, LATE_LANDING, UNOPENED, PAUSED_CALL];
    assert_holds(scenario, 542_558, &reaches);
}

#[test]
fn three_nodes_with_unequal_leases() {
    let leases = [LONG_LEASE, SHORT_LEASE, SHORT_LEASE];
    let scenario = Scenario::three_nodes().leases(&leases).ticks(4).extensions(1).evidence();
    assert_holds(scenario, 542_426, &[FAILOVER, OWN_RETURN, PAUSED_CALL, EVIDENCE]);
}
