//! All promises hold with the rules in force, and one breaks without each of them, at the same bounds.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use crate::clauses::{Clause, Rules};
use crate::model::{
    AHEAD, ASKED_AGAIN, BOTH_SERVE, Budget, CONFLICT, EXACTLY_ONCE, FENCE_TELLS, FINAL, GAPLESS,
    READS, SETTLED, STALE, Settling, UNCERTAIN,
};

/// Both requests, copies, reads that are under way, and a take-over.
const WIDE: Budget = Budget { claims: 2, asks: 2, doubts: 1, copies: 1, fetches: 2, crashes: 1 };
/// One request, which no read but that of the second fence after it can tell about.
const LONG: Budget = Budget { claims: 3, asks: 1, doubts: 1, copies: 0, fetches: 1, crashes: 1 };

/// Looks through the whole space, and returns how many states it has.
fn states(budget: Budget) -> usize {
    let model = Settling { rules: Rules::default(), budget, watched: None };
    let checked = model.checker().spawn_bfs().join();
    assert!(checked.is_done());
    for promise in [EXACTLY_ONCE, GAPLESS, FINAL, READS] {
        checked.assert_no_discovery(promise);
    }
    checked.unique_state_count()
}

#[test]
fn the_promises_hold() {
    assert_eq!([WIDE, LONG].map(states), [565_419, 76_633]);
}

/// The shortest way to what is looked for.
fn find(removed: Option<Clause>, budget: Budget, wanted: &'static str) {
    let model = Settling { rules: Rules { removed }, budget, watched: Some(wanted) };
    let found = model
        .checker()
        .finish_when(HasDiscoveries::AllOf(BTreeSet::from([wanted])))
        .spawn_bfs()
        .join();
    let Some(path) = found.discovery(wanted) else { panic!("{wanted}: never, {removed:?}") };
    println!("{wanted}, without {removed:?}:");
    path.into_actions().iter().for_each(|action| println!("    {action:?}"));
}

#[test]
fn the_bounds_are_wide_enough() {
    for wanted in [BOTH_SERVE, AHEAD, CONFLICT, ASKED_AGAIN, SETTLED, FENCE_TELLS, STALE] {
        find(None, WIDE, wanted);
    }
    find(None, LONG, UNCERTAIN);
}

/// At the bounds at which nothing breaks with all rules in force.
fn breaks(clause: Clause, promise: &'static str) {
    find(Some(clause), WIDE, promise);
}

#[test]
fn without_compared() {
    breaks(Clause::Compared, EXACTLY_ONCE);
}

#[test]
fn without_behind_does_not_tell() {
    breaks(Clause::BehindDoesNotTell, FINAL);
}

#[test]
fn without_copies_told_apart() {
    breaks(Clause::CopiesToldApart, FINAL);
}

#[test]
fn without_replies_after_stored() {
    breaks(Clause::RepliesAfterStored, EXACTLY_ONCE);
}

#[test]
fn without_reads_stored() {
    breaks(Clause::ReadsStored, READS);
}

#[test]
fn without_reads_under_lease() {
    breaks(Clause::ReadsUnderLease, READS);
}

#[test]
fn without_joins_own_chain() {
    breaks(Clause::JoinsOwnChain, EXACTLY_ONCE);
}

#[test]
fn without_own_writes_overlaid() {
    breaks(Clause::OwnWritesOverlaid, EXACTLY_ONCE);
}

#[test]
fn without_lost_plans_dropped() {
    breaks(Clause::LostPlansDropped, GAPLESS);
}

#[test]
fn without_ahead_after_stored() {
    breaks(Clause::AheadAfterStored, GAPLESS);
}

#[test]
fn without_settled_by_name() {
    breaks(Clause::SettledByName, FINAL);
}

#[test]
fn without_base_does_not_tell() {
    breaks(Clause::BaseDoesNotTell, FINAL);
}

#[test]
fn without_further_on_does_not_tell() {
    find(Some(Clause::FurtherOnDoesNotTell), LONG, FINAL);
}

#[test]
fn without_own_commit_is_no_conflict() {
    breaks(Clause::OwnCommitIsNoConflict, FINAL);
}
