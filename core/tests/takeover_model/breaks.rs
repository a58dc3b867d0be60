//! Each clause taken out, one at a time: the model finds the promise that breaks.
//!
//! Run with `--nocapture` to read the interleavings, the shortest in each scenario.

use std::collections::BTreeSet;

use stateright::{Checker, HasDiscoveries, Model};

use crate::clauses::{Clause, Rules};
use crate::holds::assert_sound;
use crate::model::{Action, FENCED, ORDER, Takeover, UNIQUENESS};
use crate::scenario::{LONG_LEASE, SHORT_LEASE, Scenario};

/// Asserts that the scenario is sound as it stands, and breaks `promise` without the clauses.
fn breaks(clauses: &[Clause], promise: &'static str, scenario: Scenario) {
    assert_sound(Rules::default(), scenario.clone());
    let model = Takeover { rules: Rules::without(clauses), scenario };
    // A search by breadth finds the shortest there is, with one thread.
    let found = model
        .checker()
        .finish_when(HasDiscoveries::AllOf(BTreeSet::from([promise])))
        .spawn_bfs()
        .join();
    let path = found.discovery(promise);
    let Some(path) = path else { panic!("{promise} holds without {clauses:?}") };
    println!("{promise} breaks without {clauses:?}:");
    path.into_actions().iter().for_each(|action: &Action| println!("    {action:?}"));
}

fn two_nodes() -> Scenario {
    Scenario::two_nodes()
}

#[test]
fn without_fence_compared() {
    breaks(&[Clause::FenceCompared], UNIQUENESS, two_nodes());
}

#[test]
fn without_open_compared() {
    breaks(&[Clause::OpenCompared], ORDER, two_nodes());
}

#[test]
fn without_extend_compared() {
    breaks(&[Clause::ExtendCompared], ORDER, two_nodes().extensions(1));
}

#[test]
fn without_release_compared() {
    breaks(&[Clause::ReleaseCompared], UNIQUENESS, two_nodes().claims(3).releases(1));
}

#[test]
fn without_each_copy_compared() {
    breaks(&[Clause::EachCopyCompared], UNIQUENESS, two_nodes().claims(3));
}

#[test]
fn without_an_older_epoch_refused() {
    breaks(&[Clause::FenceCompared], FENCED, two_nodes());
    breaks(&[Clause::EachCopyCompared], FENCED, two_nodes());
    breaks(&[Clause::FenceRaisesEpoch], FENCED, two_nodes());
}

#[test]
fn without_floor_above_high_water() {
    breaks(&[Clause::FloorAboveHighWater], UNIQUENESS, two_nodes().headroom(0));
}

#[test]
fn without_fence_raises_high_water() {
    breaks(&[Clause::FenceRaisesHighWater], UNIQUENESS, two_nodes());
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
fn without_open_sets_opened_by() {
    breaks(&[Clause::OpenSetsOpenedBy], ORDER, two_nodes().claims(3));
}

#[test]
fn without_open_clears_released() {
    breaks(&[Clause::OpenClearsReleased], ORDER, two_nodes());
}

#[test]
fn without_renewal_is_a_write() {
    let renewals = two_nodes().evidence().bare_renewals().extensions(1);
    breaks(&[Clause::RenewalIsAWrite], ORDER, renewals);
}

#[test]
fn without_renewal_notes_version() {
    let renewals = two_nodes().evidence().bare_renewals().extensions(1);
    breaks(&[Clause::RenewalNotesVersion], ORDER, renewals);
}

#[test]
fn without_release_only_opened() {
    breaks(&[Clause::ReleaseOnlyOpened], ORDER, two_nodes().claims(3).releases(1));
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
fn without_deadline_of_landed() {
    breaks(&[Clause::DeadlineOfLanded], ORDER, two_nodes().evidence().retries(1));
}

#[test]
fn without_settled_by_name() {
    breaks(&[Clause::SettledByName], ORDER, two_nodes());
}

#[test]
fn without_settle_renews_nothing() {
    let scenario = two_nodes().evidence().extensions(1).retries(1);
    breaks(&[Clause::SettleRenewsNothing], ORDER, scenario);
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
fn without_closed_for_good() {
    breaks(&[Clause::ClosedForGood], ORDER, two_nodes().extensions(1).releases(1));
}

#[test]
fn without_stopped_open_ignored() {
    breaks(&[Clause::StoppedOpenIgnored], ORDER, two_nodes().releases(1));
}

#[test]
fn without_word_not_copied() {
    breaks(&[Clause::WordNotCopied], UNIQUENESS, two_nodes());
}

#[test]
fn without_late_open_ignored() {
    breaks(&[Clause::LateOpenIgnored], ORDER, two_nodes());
}

#[test]
fn without_release_closes_first() {
    breaks(&[Clause::ReleaseClosesFirst], ORDER, two_nodes().releases(1));
}

fn adopted() -> Scenario {
    let leases = [LONG_LEASE, SHORT_LEASE];
    two_nodes().leases(&leases).ticks(3).claims(3).adoptions(1).evidence()
}

#[test]
fn without_adoption_raises_high_water() {
    breaks(&[Clause::AdoptionRaisesHighWater], UNIQUENESS, adopted());
}

#[test]
fn without_adoption_takes_longest_lease() {
    breaks(&[Clause::AdoptionTakesLongestLease], ORDER, adopted());
}

#[test]
fn without_adoption_clears_opened_by() {
    breaks(&[Clause::AdoptionClearsOpenedBy], ORDER, adopted());
}

#[test]
fn without_adoption_clears_released() {
    breaks(&[Clause::AdoptionClearsReleased], ORDER, adopted());
}

#[test]
fn without_evidence_of_same_era() {
    breaks(&[Clause::EvidenceOfSameEra], ORDER, adopted());
}

/// Of these, one stands behind the other. Take both, and the order breaks.
#[test]
fn without_a_clause_and_the_one_behind_it() {
    let evidence = two_nodes().evidence().retries(1);
    for (clauses, scenario) in [
        ([Clause::FenceRecordsOwnLease, Clause::OpenRecordsLease], two_nodes().claims(3)),
        ([Clause::EvidenceOfDecided, Clause::EvidenceByName], evidence),
    ] {
        for clause in clauses {
            assert_sound(Rules::without(&[clause]), scenario.clone());
        }
        breaks(&clauses, ORDER, scenario);
    }
}

/// What costs no promise, not even all of it at once.
#[test]
fn without_what_the_other_clauses_make_up_for() {
    let clauses = [Clause::WaitCountsFromStored, Clause::ReignsApart, Clause::ClosedBeforeFence];
    let scenario = two_nodes().claims(3).extensions(1).releases(1);
    assert_sound(Rules::without(&clauses), scenario);
}
