//! Every way in which a driver is broken here, and the check that must notice.

/// A driver that breaks one sentence of its contract.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Sabotage {
    pub(crate) flaw: Flaw,
    pub(crate) on: On,
    /// What the driver does, as an end of "a driver that …".
    pub(crate) does: &'static str,
    /// The check that must fail.
    pub(crate) caught_by: &'static str,
}

/// Which sound driver has the flaw.
#[derive(Clone, Copy, Debug)]
pub(crate) enum On {
    /// `LocalDriver` over a store of its own.
    Disks,
    /// A driver that contends with others for one state.
    Contenders,
}

/// Declares the flaws: which driver has it, its name, the check that catches it, and what it does.
macro_rules! sabotages {
    ($($on:ident $flaw:ident caught by $area:ident $check:ident $does:literal)+) => {
        /// What a driver does wrong.
        #[derive(Clone, Copy, PartialEq, Eq, Debug)]
        pub(crate) enum Flaw {
            $($flaw,)+
        }

        pub(crate) const SABOTAGES: &[Sabotage] = &[$(Sabotage {
            flaw: Flaw::$flaw,
            on: On::$on,
            does: $does,
            caught_by: concat!(stringify!($area), "::", stringify!($check)),
        },)+];
    };
}

sabotages! {
    Disks IgnoresUnknownOptions
        caught by config an_unknown_option_is_refused_and_the_valid_ones_are_listed
        "takes a config string with a typo as if it were not there"
    Disks SaysOnlyThatAnOptionIsWrong
        caught by config an_unknown_option_is_refused_and_the_valid_ones_are_listed
        "refuses a typo in a config string, but does not list what is valid"
    Disks DrawsANewNodeId
        caught by identity a_node_id_lasts_as_long_as_the_storage_it_locks
        "draws a new node id at every start, though it locks its storage"
    Disks LetsASecondDriverIn
        caught by identity a_second_driver_is_kept_out_while_the_first_lives
        "takes no lock, so that two drivers work on one storage"
    Disks TakesDamageForAnEmptyStore
        caught by identity damaged_state_is_refused_and_not_taken_for_empty
        "reads damaged state as an empty store, and starts again at 0"
    Disks KeepsWhatIsDeleted
        caught by store a_value_is_what_the_last_commit_left
        "forgets to delete"
    Disks FoldsTheCaseOfKeys
        caught by sequences similar_keys_are_different_keys
        "compares keys without regard to case, as some collations do"
    Disks EndsKeysAtZero
        caught by sequences similar_keys_are_different_keys
        "ends keys at the first zero byte, as C does"
    Disks ScansAreOrderedByText
        caught by store a_scan_is_ordered_by_key_byte_by_byte
        "orders keys as text and not as bytes"
    Disks ScansIncludeTheirEnd
        caught by store a_scan_includes_its_start_and_not_its_end
        "includes the end of a range in a scan"
    Disks ScansIgnoreTheirLimit
        caught by store a_scan_ends_at_its_limit
        "returns more from a scan than was asked for"
    Disks ForgetsSessionsAtRestart
        caught by sessions a_request_is_known_after_a_reopen
        "keeps sessions in memory only"
    Disks ForgetsTheCountOfKeysAtRestart
        caught by sequences the_cap_of_keys_is_kept_across_a_reopen
        "keeps the count of keys in memory only"
    Disks LosesTheLastWriteOnReopen
        caught by contract a_commit_survives_a_reopen
        "writes each commit when the next one comes, and loses the last one"
    Disks WritesOnlyWhenClosed
        caught by contract a_commit_survives_a_crash
        "writes when it is closed, which a killed process never does"
    Disks AnswersBeforeTheSync
        caught by contract a_commit_survives_a_power_loss
        "answers after the write and before the sync"
    Disks SyncsHalfOfACommit
        caught by contract a_commit_that_is_cut_by_a_power_loss_is_there_whole_or_not_at_all
        "writes a commit in two parts, with a sync in between"
    Disks TriesAFailedSyncAgain
        caught by leadership a_storage_error_ends_leadership
        "tries a failed sync again, and believes the second answer"
    Disks ForgetsLeasesAtRestart
        caught by stamping a_lease_is_known_after_a_reopen
        "keeps stamping leases in memory only"
    Disks ForgetsTheLastLeaseIdAtRestart
        caught by stamping no_id_is_given_twice
        "keeps the last id of a stamping lease in memory only"
    Disks SavesPartOfALargeCommit
        caught by model the_largest_commits_are_taken_and_there_after_every_restart
        "saves only the first part of a large commit"
    Disks CutsValuesAt64KiB
        caught by model the_largest_commits_are_taken_and_there_after_every_restart
        "cuts values at 64 KiB on disk, though not in memory"
    Disks OrdersKeysDifferentlyOnDisk
        caught by model thousands_of_entries_are_there_after_each_of_twenty_reopens
        "orders keys by length first on disk, though not in memory"
    Disks TakesAnEmptyValueForDeleted
        caught by model an_empty_value_is_a_value_after_a_reopen
        "takes an empty value for a deleted one when it is opened again"
    Disks BreaksOffAtAMissingKey
        caught by model what_was_deleted_stays_deleted_after_a_reopen
        "ends a commit early when it is to delete what does not exist"
    Disks BringsBackWhatWasDeleted
        caught by model what_was_deleted_stays_deleted_after_a_reopen
        "forgets on disk what was deleted"
    Disks SavesTheVersionWithTheNextCommit
        caught by model random_commits_reads_and_restarts_agree_with_a_sorted_map
        "saves the version of a commit with the next one"
    Contenders ReportsLeadershipLate
        caught by leadership the_current_value_is_there_at_once
        "says that nobody leads to whoever asks for the first time"
    Contenders MissesAReElection
        caught by leadership a_node_that_is_to_try_again_has_a_new_claim
        "tells leadership changes apart by role alone, and skips from Leader(1) to Leader(3)"
    Contenders LetsTwoLead
        caught by leadership of_two_contenders_one_leads
        "lets every driver lead that is opened"
    Contenders LeadsAfterItHasStopped
        caught by leadership a_stopped_driver_does_not_lead
        "keeps the leadership channel open, and leading, after it has stopped"
    Contenders LeadsOnAfterAStorageError
        caught by leadership a_storage_error_is_final
        "reports a storage error, and goes on"
    Contenders GivesContendersOneNodeId
        caught by identity contenders_over_one_place_have_different_node_ids
        "gives all contenders one node id, so that none waits for another's lease"
    Contenders ReadsWhatWasThereBefore
        caught by contract a_read_is_never_older_than_what_was_read_or_stored_before
        "reads from a copy that may lag by a commit"
    Contenders ForgetsSessionsWithTheLeader
        caught by sessions a_request_is_known_to_another_leader
        "keeps sessions in the leader's memory"
    Contenders CommitsTwiceWhenBusy
        caught by model random_commits_reads_and_restarts_agree_with_a_sorted_map
        "takes a slow commit for a lost one, and commits again"
    Contenders RefusesManyAtOnce
        caught by contract any_number_of_calls_at_once_are_all_answered
        "fails when more callers wait than its queue holds"
    Contenders OverwritesWithADroppedCommit
        caught by contract a_dropped_commit_is_stored_on_its_base_or_never
        "goes on with a commit whose caller has gone, over the next one: acknowledged numbers \
         are issued twice"
    Contenders CommitsWhatWasDroppedLater
        caught by contract a_dropped_commit_is_stored_on_its_base_or_never
        "makes a commit whose caller has gone behind later ones"
    Contenders CommitsWhatWasDroppedInPart
        caught by contract a_dropped_commit_is_stored_whole_or_not_at_all
        "stops in the middle of a commit when its caller goes"
    Contenders AnswersBeforeTheCommit
        caught by contract a_commit_survives_a_crash
        "answers before the commit is stored"
    Contenders CommitsAloneWhenCutOff
        caught by order a_successor_waits_until_the_leader_before_has_stopped_granting
        "answers a leader's commits though it is cut off, so that its lease never ends"
    Contenders LimitsTheWritesOfACommit
        caught by model the_largest_commits_are_taken_and_there_after_every_restart
        "takes no more than 128 writes in a commit, as etcd does"
    Contenders CannotBeStoppedTwice
        caught by shutdown a_driver_may_be_stopped_twice
        "fails when it is stopped twice"
    Contenders ServesAfterItHasStopped
        caught by shutdown calls_after_the_stop_are_refused
        "serves on after it has stopped"
    Contenders DropsWhatIsInFlightWhenStopped
        caught by shutdown commits_in_flight_end_before_the_stop_does
        "answers what is in flight when it stops, and drops it"
    Contenders DoesNotCompareTheBase
        caught by contract a_commit_on_any_other_version_makes_none
        "stores every commit, whatever the state's version is"
    Contenders ComparesTheNumberAlone
        caught by contract a_commit_on_any_other_version_makes_none
        "compares the number of a base, and not its name"
    Contenders ConflictsThoughItIsBehind
        caught by contract a_state_that_is_behind_a_base_says_no_conflict
        "says that a commit conflicts, though its state is only behind the base"
    Contenders AnswersADuplicateWithAConflict
        caught by contract a_commit_that_is_sent_again_is_made_once
        "takes a commit that was sent twice for one that conflicts with itself"
    Contenders StoresADuplicateAgain
        caught by contract a_commit_that_is_sent_again_is_made_once
        "makes a commit again when it is sent again, over later ones"
    Contenders SaysConflictOfWhatItStored
        caught by contract a_commit_on_the_states_version_makes_all_of_its_writes
        "says that a commit conflicts, and has stored it"
    Contenders ShowsACommitInPart
        caught by contract a_read_is_of_one_version
        "applies the writes of a commit one by one"
    Contenders CommitsLateWhateverTheBase
        caught by contract a_commit_held_up_past_a_take_over_is_never_stored
        "makes a commit of an old leader after the new one has taken over"
    Contenders ReadsOnAfterAStorageError
        caught by leadership a_storage_error_is_final
        "answers reads from memory after its storage has failed"
    Contenders TakesAnyCommitForEvidence
        caught by contract what_was_never_made_is_never_seen
        "takes any commit for evidence of any other"
    Contenders TakesAnyNameForEvidence
        caught by contract a_lost_commit_is_never_seen
        "knows commits by their number alone, so that a lost one counts as seen"
    Contenders SeesUndecidedCommits
        caught by contract an_undecided_commit_is_not_seen
        "counts what is in its log and may be overwritten as evidence"
    Contenders DatesEvidenceFromTheOpening
        caught by contract evidence_is_of_no_moment_before_the_commit_was_sent
        "dates all evidence from its start"
    Contenders ResignsWhateverTheClaim
        caught by contract resigning_a_claim_that_is_over_does_nothing
        "gives up leadership for a claim that is over"
}
