//! Each clause taken out, one at a time: the model finds the promise that breaks.
//!
//! Run with `--nocapture` to read the interleavings, the shortest in each scenario.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use crate::clauses::{Clause, Rules};
use crate::holds::assert_holds;
use crate::model::{Action, FENCED, ORDER, Takeover, UNIQUENESS};
use crate::record::{Author, Command, Record};
use crate::scenario::{LONG_LEASE, SHORT_LEASE, Scenario};

/// Asserts that the scenario is sound as it stands, and breaks `promise` without the clauses.
fn breaks(clauses: &[Clause], promise: &'static str, scenario: Scenario) {
    assert_holds(Rules::default(), scenario.clone(), &[]);
    let model = Takeover { rules: Rules::without(clauses), scenario, witnesses: false };
    let mut shortest = counterexample(&model, promise, MAX_STEPS);
    assert!(shortest.is_some(), "{promise} holds without {clauses:?}");
    let mut shorter = shortest.clone();
    while let Some(actions) = shorter {
        shorter = counterexample(&model, promise, actions.len() - 1);
        shortest = Some(actions);
    }
    println!("{promise} breaks without {clauses:?}:");
    shortest.iter().flatten().for_each(|action| println!("    {action:?}"));
}

/// More steps than any budget here allows.
const MAX_STEPS: usize = 100;

/// A way to break the promise in at most `steps` steps, if the model finds one.
fn counterexample(model: &Takeover, promise: &'static str, steps: usize) -> Option<Vec<Action>> {
    // The checker counts states, and leaves out those at the depth given.
    let found = model
        .clone()
        .checker()
        .target_max_depth(steps + 2)
        .finish_when(HasDiscoveries::AllOf(BTreeSet::from([promise])))
        .spawn_bfs()
        .join();
    found.discovery(promise).map(|path| path.into_actions())
}

fn two_nodes() -> Scenario {
    Scenario::two_nodes()
}

#[test]
fn without_floor_from_replaced() {
    breaks(&[Clause::FloorFromReplaced], UNIQUENESS, two_nodes());
}

#[test]
fn without_floor_above_high_water() {
    breaks(&[Clause::FloorAboveHighWater], UNIQUENESS, two_nodes().headroom(0));
}

#[test]
fn without_old_lease_kept() {
    let scenario = two_nodes().leases(&[LONG_LEASE, SHORT_LEASE]).claims(3);
    breaks(&[Clause::OldLeaseKept], ORDER, scenario);
}

#[test]
fn without_opened_by_kept() {
    breaks(&[Clause::OpenedByKept], ORDER, two_nodes().claims(3));
}

#[test]
fn without_released_kept() {
    breaks(&[Clause::ReleasedKept], ORDER, two_nodes().claims(3));
}

#[test]
fn without_older_fence_refused() {
    breaks(&[Clause::OlderFenceRefused], FENCED, two_nodes());
}

#[test]
fn without_older_open_refused() {
    breaks(&[Clause::OlderOpenRefused], ORDER, two_nodes());
}

#[test]
fn without_older_extend_refused() {
    breaks(&[Clause::OlderExtendRefused], ORDER, two_nodes().extensions(1));
}

#[test]
fn without_older_release_refused() {
    breaks(&[Clause::OlderReleaseRefused], ORDER, two_nodes().claims(3).releases(1));
}

#[test]
fn without_open_sets_opened_by() {
    breaks(&[Clause::OpenSetsOpenedBy], ORDER, two_nodes().claims(3));
}

#[test]
fn without_open_clears_released() {
    breaks(&[Clause::OpenClearsReleased], ORDER, two_nodes());
}

/// The opened lease must be on record. Fence and Open both put it there; either is enough.
#[test]
fn without_own_lease_on_record() {
    let both = [Clause::FenceRecordsOwnLease, Clause::OpenRecordsLease];
    breaks(&both, ORDER, two_nodes());
}

#[test]
fn without_renewal_is_a_write() {
    let renewals = two_nodes().evidence().bare_renewals().extensions(1);
    breaks(&[Clause::RenewalIsAWrite], ORDER, renewals);
    let opens_again = two_nodes().evidence().claims(3).retries(1);
    breaks(&[Clause::RenewalIsAWrite], ORDER, opens_again);
}

#[test]
fn without_release_only_opened() {
    breaks(&[Clause::ReleaseOnlyOpened], ORDER, two_nodes().claims(3).releases(1));
}

#[test]
fn without_nothing_after_release() {
    breaks(&[Clause::NothingAfterRelease], ORDER, two_nodes().releases(1).retries(1));
}

#[test]
fn without_waits() {
    breaks(&[Clause::Waits], ORDER, two_nodes());
}

#[test]
fn without_wait_covers_drift() {
    breaks(&[Clause::WaitCoversDrift], ORDER, two_nodes());
}

#[test]
fn without_wait_counts_from_reply() {
    breaks(&[Clause::WaitCountsFromReply], ORDER, two_nodes());
}

#[test]
fn without_wait_reads_replaced() {
    breaks(&[Clause::WaitReadsReplaced], ORDER, two_nodes());
}

#[test]
fn without_evidence_of_replaced() {
    breaks(&[Clause::EvidenceOfReplaced], ORDER, two_nodes().evidence().extensions(1));
}

#[test]
fn without_directory_lock() {
    breaks(&[Clause::DirectoryLock], ORDER, two_nodes());
}

#[test]
fn without_grants_after_open() {
    breaks(&[Clause::GrantsAfterOpen], ORDER, two_nodes());
}

#[test]
fn without_deadline_from_start() {
    breaks(&[Clause::DeadlineFromStart], ORDER, two_nodes());
}

#[test]
fn without_lease_checked() {
    breaks(&[Clause::LeaseChecked], ORDER, two_nodes());
}

#[test]
fn without_lease_checked_after_arrival() {
    breaks(&[Clause::LeaseCheckedAfterArrival], ORDER, two_nodes());
}

#[test]
fn without_ceiling_after_commit() {
    let scenario = two_nodes().headroom(0).calls(3).extensions(1);
    breaks(&[Clause::CeilingAfterCommit], UNIQUENESS, scenario);
}

#[test]
fn without_reigns_apart() {
    let scenario = two_nodes().claims(3).extensions(1).releases(1);
    breaks(&[Clause::ReignsApart], ORDER, scenario);
}

#[test]
fn without_word_not_copied() {
    breaks(&[Clause::WordNotCopied], UNIQUENESS, two_nodes());
    breaks(&[Clause::WordNotCopied], ORDER, two_nodes().ticks(4).claims(3).calls(3));
}

#[test]
fn without_late_open_ignored() {
    breaks(&[Clause::LateOpenIgnored], ORDER, two_nodes());
}

#[test]
fn without_release_closes_first() {
    breaks(&[Clause::ReleaseClosesFirst], ORDER, two_nodes().releases(1));
}

#[test]
fn without_release_waits_for_commits() {
    let scenario = two_nodes().extensions(1).releases(1);
    breaks(&[Clause::ReleaseWaitsForCommits], ORDER, scenario);
}

#[test]
fn without_fresh_epoch_per_claim() {
    breaks(&[Clause::FreshEpochPerClaim], ORDER, two_nodes());
}

#[test]
fn without_order_of_commits() {
    breaks(&[Clause::OrderOfCommits], ORDER, two_nodes().releases(1).retries(1));
}

/// These clauses alone keep G1 and G2 whole when they are missing, because another one stands
/// behind each. Take both, and the order breaks.
#[test]
fn without_a_clause_and_the_one_behind_it() {
    let retries = two_nodes().retries(1);
    breaks(&[Clause::OlderFenceRefused, Clause::OrderOfCommits], ORDER, retries);
    let reuse = two_nodes().claims(3);
    breaks(&[Clause::OlderFenceRefused, Clause::OwnEpochNotReused], ORDER, reuse);
    let reuse = two_nodes().claims(3).releases(1).retries(1);
    breaks(&[Clause::OpenedFenceRefused, Clause::OwnEpochNotReused], ORDER, reuse);
}

#[test]
fn with_one_line_of_defence_left_order_and_uniqueness_hold() {
    let scenario = two_nodes().claims(3).releases(1).retries(1);
    for clause in [
        Clause::OlderFenceRefused,
        Clause::OpenedFenceRefused,
        Clause::OwnEpochNotReused,
        Clause::FenceRecordsOwnLease,
        Clause::OpenRecordsLease,
    ] {
        assert_holds(Rules::without(&[clause]), scenario.clone(), &[]);
    }
}

/// What an epoch used again costs where it does not break a promise: the node never leads again.
#[test]
fn an_epoch_that_was_opened_never_fences_again() {
    let author = Author { id: 0, epoch: 1, lease: SHORT_LEASE };
    let fence = Command::Fence { now: 0, headroom: 1, read: None };
    let rules = Rules::default();
    let mut record = Record::fresh();
    assert!(record.apply(rules, author, fence).is_some());
    assert!(record.apply(rules, author, Command::Open { floor: 1, ceiling: 2 }).is_some());
    assert!(record.apply(rules, author, fence).is_none());
    assert!(record.apply(rules, author, Command::Release).is_some());
    assert!(record.apply(rules, author, fence).is_none());
}
