//! That the simulation would notice: a run is sabotaged, and a promise is seen broken.

use crate::{flaw::Flaw, run::run};

/// How many seeds a flaw may hide from.
const PATIENCE: u64 = 200;

/// Some run with this flaw breaks this promise.
fn is_caught(flaw: Flaw, promise: &str) {
    let mut others = vec![];
    for seed in 0..PATIENCE {
        let broken = run(seed, Some(flaw)).broken;
        if let Some(caught) = broken.iter().find(|what| what.contains(promise)) {
            let shown: String = caught.chars().take(500).collect();
            println!("{flaw:?} is caught by seed {seed}: {shown}");
            return;
        }
        others.extend(broken);
    }
    panic!("{flaw:?} did not break {promise:?} in {PATIENCE} runs, but: {others:#?}");
}

#[test]
fn not_waiting_for_the_replaced_lease_breaks_the_order() {
    is_caught(Flaw::NoWaitForTheLease, "G1 order");
}

#[test]
fn evidence_about_another_write_breaks_the_order() {
    is_caught(Flaw::EvidenceOfAnotherWrite, "G1 order");
}

#[test]
fn a_commit_without_a_majority_is_lost() {
    is_caught(Flaw::CommitsWithoutAMajority, "G3 ");
}

#[test]
fn a_clock_that_stands_still_during_a_pause_breaks_the_order() {
    is_caught(Flaw::ClockStandsStill, "G1 order");
}

#[test]
fn a_driver_that_ignores_the_epoch_is_not_fenced() {
    is_caught(Flaw::IgnoresTheEpoch, "G5 fenced");
}

#[test]
fn calling_what_is_uncertain_refused_breaks_gaplessness() {
    is_caught(Flaw::UncertainIsRefused, "G3 ");
}

#[test]
fn votes_that_are_not_synced_lose_what_was_committed() {
    is_caught(Flaw::VotesAreNotSynced, "two entries were committed");
}

#[test]
fn what_a_leader_answers_ahead_of_its_disk_is_lost() {
    is_caught(Flaw::AppliesAheadOfItsDisk, "G3 ");
}

#[test]
fn what_a_leader_tells_ahead_of_its_disk_is_undone() {
    is_caught(Flaw::TellsAheadOfItsDisk, "lost committed entries");
}

#[test]
fn a_leader_that_leads_on_after_a_restart_uses_places_twice() {
    is_caught(Flaw::LeadsOnAfterARestart, "two entries were committed");
}
