//! That the simulation would notice: a run is sabotaged, and a promise is seen broken.

use tsoracle_omnipaxos::simulation::Sabotage;
use tsoracle_openraft::simulation::Sabotage as RaftSabotage;

use crate::{
    flaw::Flaw,
    run::run,
    world::System::{self, KeyValue, Log, Omnipaxos, Openraft},
};

/// How many seeds a flaw may hide from.
const PATIENCE: u64 = 500;

/// Some run with this flaw breaks this promise.
fn is_caught(system: System, flaw: Flaw, promise: &str) {
    let mut others = vec![];
    for seed in 0..PATIENCE {
        let broken = run(system, seed, Some(flaw)).broken;
        if let Some(caught) = broken.iter().find(|what| what.contains(promise)) {
            let shown: String = caught.chars().take(500).collect();
            println!("{flaw:?} of {system:?} is caught by seed {seed}: {shown}");
            return;
        }
        others.extend(broken);
    }
    others.truncate(20);
    panic!("{flaw:?} of {system:?} did not break {promise:?} in {PATIENCE} runs, but: {others:#?}");
}

#[test]
fn not_waiting_for_the_replaced_lease_breaks_the_order() {
    is_caught(Log, Flaw::NoWaitForTheLease, "G1 order");
}

#[test]
fn evidence_about_another_write_breaks_the_order() {
    is_caught(Log, Flaw::EvidenceOfAnotherWrite, "G1 order");
}

#[test]
fn evidence_of_an_entry_that_was_not_decided_breaks_the_order() {
    is_caught(Log, Flaw::EvidenceOfUndecided, "G1 order");
}

#[test]
fn a_commit_without_a_majority_is_lost() {
    is_caught(Log, Flaw::CommitsWithoutAMajority, "G3 ");
}

#[test]
fn a_name_that_is_forgotten_at_a_take_over_is_carried_out_twice() {
    is_caught(Log, Flaw::ForgetsNames, "G3 exactly once");
}

#[test]
fn a_deleted_sequence_that_comes_back_is_not_where_it_should_be() {
    is_caught(Log, Flaw::ForgetsDeletions, "G3 deletion");
}

#[test]
fn a_name_that_is_forgotten_by_a_store_is_carried_out_twice() {
    is_caught(KeyValue, Flaw::ForgetsNames, "G3 exactly once");
}

#[test]
fn a_deleted_sequence_that_comes_back_from_a_store_is_not_where_it_should_be() {
    is_caught(KeyValue, Flaw::ForgetsDeletions, "G3 deletion");
}

#[test]
fn a_clock_that_stands_still_during_a_pause_breaks_the_order() {
    is_caught(Log, Flaw::ClockStandsStill, "G1 order");
}

#[test]
fn what_was_granted_is_refused_once_a_commit_is_lost() {
    is_caught(Log, Flaw::CommitsWithoutAMajority, "wrongly refused");
}

#[test]
fn clocks_that_run_too_fast_let_the_frontier_pass_a_lease() {
    is_caught(Log, Flaw::ClocksRunFast, "frontier");
}

#[test]
fn a_driver_that_ignores_the_version_is_not_fenced() {
    is_caught(Log, Flaw::IgnoresTheVersion, "G3 ");
}

#[test]
fn calling_what_is_uncertain_refused_breaks_gaplessness() {
    is_caught(Log, Flaw::UncertainIsRefused, "G3 ");
}

#[test]
fn calling_a_conflict_stored_issues_timestamps_twice() {
    is_caught(Log, Flaw::ConflictIsStored, "G2 unique");
}

#[test]
fn calling_what_is_stored_a_conflict_breaks_gaplessness() {
    is_caught(Log, Flaw::StoredIsAConflict, "G3 ");
}

/// The engine takes no conflict from a state that is behind the base.
#[test]
fn a_conflict_that_a_replica_behind_says_ends_its_serving() {
    is_caught(Log, Flaw::ConflictFromBehind, "gave up: Failed");
}

/// The engine notices, and serves no more.
#[test]
fn reads_that_go_back_end_the_serving() {
    is_caught(Log, Flaw::ReadsGoBack, "the state went back");
}

#[test]
fn votes_that_are_not_synced_lose_what_was_committed() {
    is_caught(Log, Flaw::VotesAreNotSynced, "two entries were committed");
}

#[test]
fn what_a_leader_answers_ahead_of_its_disk_is_lost() {
    is_caught(Log, Flaw::AppliesAheadOfItsDisk, "G3 ");
}

#[test]
fn what_a_leader_tells_ahead_of_its_disk_is_undone() {
    is_caught(Log, Flaw::TellsAheadOfItsDisk, "lost committed entries");
}

#[test]
fn a_leader_that_leads_on_after_a_restart_uses_places_twice() {
    is_caught(Log, Flaw::LeadsOnAfterARestart, "two entries were committed");
}

#[test]
fn a_leader_that_cannot_commit_and_never_resigns_stays_for_ever() {
    is_caught(Log, Flaw::NeverResigns, "G6 live");
}

#[test]
fn evidence_about_another_write_to_a_store_breaks_the_order() {
    is_caught(KeyValue, Flaw::EvidenceOfAnotherWrite, "G1 order");
}

#[test]
fn a_transaction_that_was_not_answered_and_is_called_refused_breaks_gaplessness() {
    is_caught(KeyValue, Flaw::UncertainIsRefused, "G3 ");
}

#[test]
fn a_transaction_that_compares_no_version_breaks_gaplessness() {
    is_caught(KeyValue, Flaw::IgnoresTheVersion, "G3 ");
}

/// The engine takes no conflict from a state that is behind the base.
#[test]
fn a_conflict_that_a_copy_behind_says_ends_the_serving() {
    is_caught(KeyValue, Flaw::ConflictFromBehind, "gave up: Failed");
}

#[test]
fn reads_of_a_copy_that_is_behind_end_the_serving() {
    is_caught(KeyValue, Flaw::ReadsGoBack, "the state went back");
}

#[test]
fn a_holder_of_the_key_that_cannot_commit_and_never_resigns_stays_for_ever() {
    is_caught(KeyValue, Flaw::NeverResigns, "G6 live");
}

#[test]
fn not_waiting_for_the_replaced_lease_breaks_the_order_over_omnipaxos_as_well() {
    is_caught(Omnipaxos, Flaw::NoWaitForTheLease, "G1 order");
}

#[test]
fn what_omnipaxos_does_not_know_and_is_called_refused_breaks_gaplessness() {
    is_caught(Omnipaxos, Flaw::UncertainIsRefused, "G3 ");
}

#[test]
fn a_leader_of_omnipaxos_that_cannot_commit_and_never_resigns_stays_for_ever() {
    is_caught(Omnipaxos, Flaw::NeverResigns, "G6 live");
}

#[test]
fn promises_and_entries_of_omnipaxos_that_are_not_synced_lose_what_was_committed() {
    is_caught(Omnipaxos, Flaw::SyncsLie, "two entries were committed");
}

#[test]
fn a_caller_that_is_answered_by_the_index_of_its_commit_is_told_of_another_one() {
    is_caught(Omnipaxos, Flaw::AnswersByIndex, "G3 ");
}

#[test]
fn entries_that_are_applied_before_they_are_decided_may_be_others() {
    is_caught(Omnipaxos, Flaw::Within(Sabotage::AppliesTheUndecided), "two entries were committed");
}

#[test]
fn a_nodes_own_entries_are_not_those_that_a_new_leader_says_are_decided() {
    is_caught(
        Omnipaxos,
        Flaw::Within(Sabotage::AppliesItsOwnEntries),
        "two entries were committed",
    );
}

#[test]
fn a_log_that_is_shortened_before_its_state_is_written_leaves_a_gap() {
    is_caught(Omnipaxos, Flaw::Within(Sabotage::ShortensBeforeTheState), "does not start");
}

#[test]
fn a_state_that_is_installed_in_two_writes_leaves_a_gap() {
    is_caught(Omnipaxos, Flaw::Within(Sabotage::InstallsInTwoWrites), "does not start");
}

/// The first fence of such a reign may conflict, and is tried again: it costs time.
#[test]
fn a_leader_that_announces_itself_at_once_breaks_nothing() {
    for seed in 0..20 {
        let flaw = Flaw::Within(Sabotage::AnnouncesAtOnce);
        assert_eq!(run(Omnipaxos, seed, Some(flaw)).broken, [""; 0]);
    }
}

#[test]
fn not_waiting_for_the_replaced_lease_breaks_the_order_over_openraft_as_well() {
    is_caught(Openraft, Flaw::NoWaitForTheLease, "G1 order");
}

#[test]
fn what_openraft_does_not_know_and_is_called_refused_breaks_gaplessness() {
    is_caught(Openraft, Flaw::UncertainIsRefused, "G3 ");
}

#[test]
fn a_leader_of_openraft_that_cannot_commit_and_never_resigns_stays_for_ever() {
    is_caught(Openraft, Flaw::NeverResigns, "G6 live");
}

#[test]
fn votes_and_entries_of_openraft_that_are_not_synced_lose_what_was_committed() {
    is_caught(Openraft, Flaw::SyncsLie, "two entries were committed");
}

fn openraft_is_caught(sabotage: RaftSabotage, promise: &str) {
    is_caught(Openraft, Flaw::WithinOpenraft(sabotage), promise);
}

#[test]
fn what_a_leader_of_openraft_tells_ahead_of_its_disk_is_undone() {
    openraft_is_caught(RaftSabotage::TellsAheadOfItsDisk, "two entries were committed");
}

#[test]
fn a_leader_of_openraft_that_leads_on_after_a_restart_uses_places_twice() {
    openraft_is_caught(RaftSabotage::LeadsOnAfterARestart, "two entries were committed");
}

#[test]
fn what_a_follower_acknowledges_ahead_of_its_disk_is_lost() {
    openraft_is_caught(RaftSabotage::AcknowledgesAheadOfItsDisk, "two entries were committed");
}

#[test]
fn a_log_of_openraft_that_is_shortened_before_its_state_is_written_leaves_a_gap() {
    openraft_is_caught(RaftSabotage::ShortensBeforeTheState, "does not start");
}

#[test]
fn a_log_of_openraft_that_is_shortened_before_a_state_has_come_leaves_a_gap() {
    openraft_is_caught(RaftSabotage::ShortensBeforeAStateComes, "does not start");
}
