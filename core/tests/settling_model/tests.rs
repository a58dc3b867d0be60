//! All promises hold with the rules in force, and one breaks without each of them, at the same bounds.

use std::{collections::BTreeSet, sync::OnceLock};

use stateright::{Checker, HasDiscoveries, Model};

use crate::clauses::{Clause, Rules};
use crate::model::{
    ASKED_AGAIN, BOTH_SERVE, Budget, CONFLICT, EXACTLY_ONCE, FENCE_TELLS, FINAL, GAPLESS, READS,
    SETTLED, STALE, Settling,
};

const BUDGET: Budget = Budget { claims: 2, asks: 2, doubts: 1, copies: 1, fetches: 2, crashes: 0 };

fn model(removed: Option<Clause>, watched: Option<&'static str>) -> Settling {
    Settling { rules: Rules { removed }, budget: BUDGET, watched }
}

/// Looks through the whole space once, and returns how many states it has.
fn states() -> usize {
    static STATES: OnceLock<usize> = OnceLock::new();
    *STATES.get_or_init(|| {
        let checked = model(None, None).checker().spawn_bfs().join();
        assert!(checked.is_done());
        for promise in [EXACTLY_ONCE, GAPLESS, FINAL, READS] {
            checked.assert_no_discovery(promise);
        }
        checked.unique_state_count()
    })
}

/// The shortest way to what is looked for.
fn find(model: Settling, wanted: &'static str) {
    let story = format!("{wanted}, without {:?}:", model.rules.removed);
    let found = model
        .checker()
        .finish_when(HasDiscoveries::AllOf(BTreeSet::from([wanted])))
        .spawn_bfs()
        .join();
    let Some(path) = found.discovery(wanted) else { panic!("not found: {story}") };
    println!("{story}");
    path.into_actions().iter().for_each(|action| println!("    {action:?}"));
}

#[test]
fn the_promises_hold() {
    assert_eq!(states(), 0);
}

#[test]
fn the_bounds_are_wide_enough() {
    for wanted in [BOTH_SERVE, CONFLICT, ASKED_AGAIN, SETTLED, FENCE_TELLS, STALE] {
        find(model(None, Some(wanted)), wanted);
    }
}

fn breaks(clause: Clause, promise: &'static str) {
    states();
    find(model(Some(clause), None), promise);
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
fn without_settled_by_name() {
    breaks(Clause::SettledByName, FINAL);
}

#[test]
fn without_base_does_not_tell() {
    breaks(Clause::BaseDoesNotTell, FINAL);
}

#[test]
fn without_further_on_does_not_tell() {
    breaks(Clause::FurtherOnDoesNotTell, FINAL);
}

#[test]
fn without_own_commit_is_no_conflict() {
    breaks(Clause::OwnCommitIsNoConflict, FINAL);
}
