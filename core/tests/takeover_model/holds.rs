//! With every clause in force, the promises hold in every state of each scenario.

use stateright::{Checker, HasDiscoveries, Model};

use crate::clauses::{Clause, Rules};
use crate::model::{FENCED, ORDER, Takeover, UNIQUENESS};
use crate::reached::{
    EVIDENCE, FAILOVER, HAND_OVER, LATE_LANDING, OWN_RETURN, PAUSED_CALL, UNOPENED,
};
use crate::scenario::{LONG_LEASE, SHORT_LEASE, Scenario};

/// Looks through the whole space, and returns how many states it has. The promises hold in all of
/// them, and the scenario comes across each of `reaches`.
pub(crate) fn assert_holds(rules: Rules, scenario: Scenario, reaches: &[&'static str]) -> usize {
    let model = Takeover { rules, scenario, witnesses: false };
    let checked = model.clone().checker().threads(2).spawn_bfs().join();
    assert!(checked.is_done());
    checked.assert_no_discovery(ORDER);
    checked.assert_no_discovery(UNIQUENESS);
    if rules.keep(Clause::OlderFenceRefused) {
        checked.assert_no_discovery(FENCED);
    }
    assert_reaches(model, reaches);
    println!("{} states, all sound", checked.unique_state_count());
    checked.unique_state_count()
}

fn assert_reaches(model: Takeover, reaches: &[&'static str]) {
    let all = HasDiscoveries::AllOf(reaches.iter().copied().collect());
    let model = Takeover { witnesses: true, ..model };
    let checked = model.checker().finish_when(all).spawn_bfs().join();
    for reached in reaches {
        checked.assert_any_discovery(reached);
    }
}

/// Everything at once: crash, release, retries, late landings, evidence.
#[test]
fn two_nodes() {
    let scenario =
        Scenario::two_nodes().claims(3).extensions(1).releases(1).crashes(1).retries(1).evidence();
    let reaches = [FAILOVER, HAND_OVER, OWN_RETURN, LATE_LANDING, UNOPENED, PAUSED_CALL, EVIDENCE];
    assert!(assert_holds(Rules::default(), scenario, &reaches) > 2_000_000);
}

/// The node with the long lease leads first, then the one with the short lease; either may have
/// the slow clock.
#[test]
fn two_nodes_with_unequal_leases() {
    for leases in [[LONG_LEASE, SHORT_LEASE], [SHORT_LEASE, LONG_LEASE]] {
        for rates in [[10, 11], [11, 10]] {
            let scenario = Scenario::two_nodes().leases(&leases).rates(&rates);
            let scenario = scenario.ticks(4).claims(3).crashes(1).extensions(1);
            let reaches = [FAILOVER, OWN_RETURN, LATE_LANDING, UNOPENED, PAUSED_CALL];
            assert!(assert_holds(Rules::default(), scenario, &reaches) > 150_000);
        }
    }
}

/// The wall clock is far ahead at some fences and at zero at others.
#[test]
fn two_nodes_with_wrong_wall_clocks() {
    let scenario = Scenario::two_nodes().wall_clocks(&[0, 9]).claims(3).releases(1).retries(1);
    let reaches = [FAILOVER, HAND_OVER, OWN_RETURN, LATE_LANDING, PAUSED_CALL];
    assert!(assert_holds(Rules::default(), scenario, &reaches) > 200_000);
}

/// Windows run out and are extended, and leaders take turns.
#[test]
fn two_nodes_with_many_calls() {
    let scenario = Scenario::two_nodes().headroom(0).calls(4).claims(3).extensions(2).retries(1);
    let reaches = [FAILOVER, OWN_RETURN, LATE_LANDING, PAUSED_CALL];
    assert!(assert_holds(Rules::default(), scenario, &reaches) > 200_000);
}

/// Extensions that renew the lease and raise nothing, under the eyes of the other node.
#[test]
fn two_nodes_with_bare_renewals() {
    let scenario = Scenario::two_nodes().bare_renewals().evidence().ticks(4).extensions(2);
    let reaches = [FAILOVER, PAUSED_CALL, EVIDENCE];
    assert!(assert_holds(Rules::default(), scenario.claims(3), &reaches) > 200_000);
}

#[test]
fn two_nodes_with_four_claims() {
    let scenario = Scenario::two_nodes().claims(4).extensions(1);
    let reaches = [FAILOVER, OWN_RETURN, PAUSED_CALL];
    assert!(assert_holds(Rules::default(), scenario, &reaches) > 200_000);
}

#[test]
fn three_nodes() {
    let scenario = Scenario::three_nodes().extensions(1).releases(1).crashes(1);
    let reaches = [FAILOVER, HAND_OVER, OWN_RETURN, LATE_LANDING, UNOPENED, PAUSED_CALL];
    assert!(assert_holds(Rules::default(), scenario, &reaches) > 200_000);
}

#[test]
fn three_nodes_with_unequal_leases() {
    let leases = [LONG_LEASE, SHORT_LEASE, SHORT_LEASE];
    let scenario = Scenario::three_nodes().leases(&leases).ticks(4).extensions(1).evidence();
    let reaches = [FAILOVER, OWN_RETURN, PAUSED_CALL, EVIDENCE];
    assert!(assert_holds(Rules::default(), scenario, &reaches) > 200_000);
}
