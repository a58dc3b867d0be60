//! That the simulation would notice: a run is sabotaged, and a promise is seen broken.

use crate::{
    flaw::Flaw,
    run::run,
    world::System::{self, KeyValue, Log},
};

/// How many seeds a flaw may hide from.
const PATIENCE: u64 = 200;

/// How many seeds show that something can be left out.
const SAFE: u64 = 20;

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
fn a_commit_without_a_majority_is_lost() {
    is_caught(Log, Flaw::CommitsWithoutAMajority, "G3 ");
}

#[test]
fn a_clock_that_stands_still_during_a_pause_breaks_the_order() {
    is_caught(Log, Flaw::ClockStandsStill, "G1 order");
}

#[test]
fn a_driver_that_ignores_the_epoch_is_not_fenced() {
    is_caught(Log, Flaw::IgnoresTheEpoch, "G5 fenced");
}

#[test]
fn calling_what_is_uncertain_refused_breaks_gaplessness() {
    is_caught(Log, Flaw::UncertainIsRefused, "G3 ");
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
fn evidence_about_another_write_of_a_key_breaks_the_order() {
    is_caught(KeyValue, Flaw::EvidenceOfAnotherWrite, "G1 order");
}

#[test]
fn a_transaction_that_was_not_answered_and_is_called_refused_breaks_gaplessness() {
    is_caught(KeyValue, Flaw::UncertainIsRefused, "G3 ");
}

#[test]
fn a_transaction_that_compares_no_version_breaks_gaplessness() {
    is_caught(KeyValue, Flaw::ComparesNoVersion, "G3 ");
}

#[test]
fn a_transaction_that_compares_nothing_is_not_fenced() {
    is_caught(KeyValue, Flaw::ComparesNothing, "G5 fenced");
}

/// The rules refuse an older epoch once a newer one has fenced, and the version shows that it has. We
/// compare the election key all the same: then nothing rests on that alone, and whoever was deposed
/// learns it at once.
#[test]
fn comparing_the_version_is_enough_without_the_election_key() {
    for seed in 0..SAFE {
        let broken = run(KeyValue, seed, Some(Flaw::ComparesNoCreation)).broken;
        assert!(broken.is_empty(), "seed {seed}: {broken:#?}");
    }
}
