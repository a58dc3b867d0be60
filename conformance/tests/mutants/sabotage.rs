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
    /// Its number, if it was thought up from the contract alone, before the checks were written.
    pub(crate) foreseen: Option<&'static str>,
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
    ($($on:ident $flaw:ident caught by $area:ident $check:ident
        $(foreseen $number:literal)? $does:literal)+) => {
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
            foreseen: [$($number)?].as_slice().first().copied(),
        },)+];
    };
}

sabotages! {
    Disks SavesHalfOfAThousandWrites
        caught by limits the_largest_commits_are_taken_and_there_after_every_restart
        foreseen "(i)"
        "saves only the first half of a commit of more than 1,000 writes"
    Disks CutsValuesAt64KiB
        caught by limits values_of_every_length_are_there_after_a_reopen
        foreseen "(ii)"
        "cuts values at 64 KiB on disk, though not in memory"
    Disks BringsBackWhatWasDeleted
        caught by commit what_was_deleted_is_gone_after_a_reopen
        foreseen "(iii)"
        "never tells the disk what was deleted"
    Disks DropsATrailingZeroOfKeys
        caught by commit keys_that_are_alike_are_different_keys_after_a_reopen
        foreseen "(iv)"
        "loses a zero byte at the end of keys on disk"
    Disks LosesWhatFollowsTheFirstReopen
        caught by commit what_was_stored_after_a_reopen_is_there_after_the_next
        foreseen "(v)"
        "writes, after it was reopened for the first time, where it does not look the second \
         time"
    Disks ReplaysTheOlderValue
        caught by commit the_last_of_several_values_is_there_after_a_reopen
        foreseen "(vi)"
        "takes the older of two values of one session when it replays its journal"
    Disks ForgetsTheNamesOfRequests
        caught by oracle names_and_deleted_sequences_are_as_a_model_says_over_restarts
        "forgets the names of requests when it is opened again"
    Disks BringsBackDeletedSequences
        caught by oracle names_and_deleted_sequences_are_as_a_model_says_over_restarts
        "never tells the disk which sequences were deleted"
    Contenders SeesWhatConflicted
        caught by seen a_commit_that_conflicted_is_never_seen
        foreseen "(vii)"
        "takes a commit that conflicted for evidence"
    Contenders RepeatsAResignedClaim
        caught by resign a_node_that_leads_after_a_resignation_has_a_new_claim
        foreseen "(viii)"
        "leads again under the claim that it resigned"
    Contenders StoresAConflictLater
        caught by commit a_commit_that_conflicts_is_never_stored
        foreseen "(ix)"
        "stores a commit later, though it said that it conflicts"
    Contenders LeavesOutTheLastOfAFullPage
        caught by read a_range_ends_before_its_end_and_at_its_limit
        foreseen "(x)"
        "leaves out the last entry of a range whose limit falls on it, so that there seems to \
         be no more"
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
        caught by store keys_and_values_may_be_any_bytes
        "compares keys without regard to case, as some collations do"
    Disks EndsKeysAtZero
        caught by store keys_and_values_may_be_any_bytes
        "ends keys at the first zero byte, as C does"
    Disks ScansAreOrderedByText
        caught by store a_scan_is_ordered_by_key_byte_by_byte
        "orders keys as text and not as bytes"
    Disks ScansIncludeTheirEnd
        caught by store a_scan_includes_its_start_and_not_its_end
        "includes the end of a range in a scan"
    Disks ScansIgnoreTheirLimit
        caught by store a_scan_has_the_first_entries_up_to_its_limit
        "returns more from a scan than was asked for"
    Disks LosesTheLastWriteOnReopen
        caught by commit what_was_stored_is_there_after_a_reopen
        "writes each commit when the next one comes, and loses the last one"
    Disks WritesOnlyWhenClosed
        caught by commit what_was_stored_is_there_after_a_crash
        "writes when it is closed, which a killed process never does"
    Disks AnswersBeforeTheSync
        caught by commit what_was_stored_survives_a_power_loss
        "answers after the write and before the sync"
    Disks SyncsAllButEveryTenth
        caught by commit what_was_stored_survives_a_power_loss
        "leaves every tenth commit to the sync of the next one"
    Disks SyncsHalfOfACommit
        caught by commit a_commit_that_is_cut_by_a_power_loss_is_there_whole_or_not_at_all
        "writes a commit in two parts, with a sync in between"
    Disks TriesAFailedSyncAgain
        caught by leadership a_storage_error_closes_the_channel_of_leadership
        "tries a failed sync again, and believes the second answer"
    Disks SavesPartOfALargeCommit
        caught by limits the_largest_commits_are_taken_and_there_after_every_restart
        "saves only the first part of a commit of some 200 kB"
    Disks TrimsZerosOfValues
        caught by commit an_empty_value_is_a_value_and_zeros_are_bytes_after_a_reopen
        "takes zero bytes at the end of short values on disk for padding"
    Disks TakesAnEmptyValueForDeleted
        caught by commit an_empty_value_is_a_value_and_zeros_are_bytes_after_a_reopen
        "takes an empty value for a deleted one when it is opened again"
    Disks OrdersKeysDifferentlyOnDisk
        caught by model thousands_of_entries_are_there_after_each_of_twenty_reopens
        "orders keys by length first on disk, though not in memory"
    Disks OrdersBytesAsSignedOnDisk
        caught by commit keys_that_are_alike_are_different_keys_after_a_reopen
        "orders bytes as signed numbers on disk, though not in memory"
    Disks FoldsTheCaseOfKeysOnDisk
        caught by commit keys_that_are_alike_are_different_keys_after_a_reopen
        "folds the case of keys on disk, though not in memory"
    Disks CutsKeysAt250
        caught by commit keys_that_are_alike_are_different_keys_after_a_reopen
        "cuts keys at 250 bytes on disk, so that two of them collide"
    Disks ForgetsLongKeysAtRestart
        caught by limits the_largest_commits_are_taken_and_there_after_every_restart
        "leaves keys of more than 300 bytes out when it is opened again"
    Disks BreaksOffAtAMissingKey
        caught by commit what_was_deleted_is_gone_after_a_reopen
        "ends a commit early when it is to delete what does not exist"
    Disks DeletesWithTheNextCommit
        caught by model thousands_of_commits_are_all_there_after_a_crash
        "leaves what a commit deletes to the next one, after what that one writes"
    Disks LosesTheFirstRecordOfASegment
        caught by model thousands_of_commits_are_all_there_after_a_crash
        "loses the first commit after each rotation of its journal"
    Disks SavesTheVersionWithTheNextCommit
        caught by model random_commits_reads_and_restarts_agree_with_a_sorted_map
        "saves the version of a commit with the next one"
    Contenders ReportsLeadershipLate
        caught by leadership the_current_value_is_there_at_once
        "has no leader for a receiver that is new"
    Contenders MissesAReElection
        caught by leadership a_node_that_is_to_try_again_has_a_new_claim
        "tells leadership changes apart by role alone, and skips from Leader(1) to Leader(3)"
    Contenders HasOneClaimForAll
        caught by leadership a_node_that_is_to_try_again_has_a_new_claim
        "leads under one claim always"
    Contenders LetsTwoLead
        caught by leadership of_two_nodes_one_leads
        "lets every driver lead that is opened"
    Contenders LeadsAfterItHasStopped
        caught by leadership a_node_that_has_stopped_does_not_lead
        "keeps the leadership channel open, and leading, after it has stopped"
    Contenders LeadsOnAfterAStorageError
        caught by leadership after_a_storage_error_every_call_fails_for_good
        "reports a storage error, and goes on"
    Contenders KeepsTheChannelOpenAfterAStorageError
        caught by leadership a_storage_error_closes_the_channel_of_leadership
        "fails every call after a storage error, and leads on"
    Contenders ReadsOnAfterAStorageError
        caught by leadership after_a_storage_error_every_call_fails_for_good
        "answers reads from memory after its storage has failed"
    Contenders GivesContendersOneNodeId
        caught by identity nodes_over_one_state_have_different_ids
        "gives all contenders one node id, so that none waits for another's lease"
    Contenders IgnoresResignations
        caught by resign another_node_leads_after_a_resignation
        "leads on when it is asked to resign"
    Contenders ResignsWhateverTheClaim
        caught by resign resigning_a_claim_that_is_over_does_nothing
        "gives up leadership for a claim that is over"
    Contenders ReadsWhatWasThereBefore
        caught by read a_read_is_never_older_than_what_was_read_or_stored_before
        "reads from a copy that may lag by a commit"
    Contenders ShowsACommitInPart
        caught by read a_read_is_of_one_version
        "applies the writes of a commit one by one"
    Contenders ReadsRangesOfTheVersionBefore
        caught by read a_read_is_of_one_version
        "reads keys of one version and ranges of another"
    Contenders SortsTheKeysOfARead
        caught by read a_read_has_a_value_for_each_key_in_the_order_asked_for
        "returns values in another order than the keys asked for"
    Contenders RangesIncludeTheirEnd
        caught by read a_range_ends_before_its_end_and_at_its_limit
        "includes the end of a range in a read"
    Contenders RangesAreCutAt16
        caught by read a_range_has_its_first_entries_ordered_by_key_byte_by_byte
        "returns 16 entries of a range at most, whatever its limit"
    Contenders CommitsTwiceWhenBusy
        caught by commit at_most_one_commit_ever_follows_a_base
        "takes a slow commit for a lost one, and commits again"
    Contenders RefusesManyAtOnce
        caught by calls any_number_of_calls_at_once_are_all_answered
        "fails when more callers wait than its queue holds"
    Contenders OverwritesWithADroppedCommit
        caught by calls a_dropped_commit_is_stored_on_its_base_or_never
        "goes on with a commit whose caller has gone, over the next one: acknowledged numbers \
         are issued twice"
    Contenders CommitsWhatWasDroppedLater
        caught by calls a_dropped_commit_is_stored_on_its_base_or_never
        "makes a commit whose caller has gone behind later ones"
    Contenders CommitsWhatWasDroppedInPart
        caught by calls a_dropped_commit_is_stored_whole_or_not_at_all
        "stops in the middle of a commit when its caller goes"
    Contenders CommitsLateWhateverTheBase
        caught by calls a_commit_held_up_past_a_take_over_is_never_stored
        "makes a commit of an old leader after the new one has taken over"
    Contenders AnswersBeforeTheCommit
        caught by commit what_was_stored_is_there_after_a_crash
        "answers before the commit is stored"
    Contenders CommitsAloneWhenCutOff
        caught by oracle a_successor_waits_until_the_leader_before_has_stopped_granting
        "answers a leader's commits though it is cut off, so that its lease never ends"
    Contenders LimitsTheWritesOfACommit
        caught by limits the_largest_commits_are_taken_and_there_after_every_restart
        "takes no more than 128 writes in a commit, as etcd does"
    Contenders DropsTheTailOfALargeCommit
        caught by limits the_largest_commits_are_taken_and_there_after_every_restart
        "drops, in memory and on disk alike, what is beyond the first 500 writes of a commit"
    Contenders CannotBeStoppedTwice
        caught by shutdown it_may_be_called_again
        "fails when it is stopped twice"
    Contenders ServesAfterItHasStopped
        caught by shutdown every_call_fails_afterwards
        "serves on after it has stopped"
    Contenders DropsWhatIsInFlightWhenStopped
        caught by shutdown commits_in_flight_end_first
        "answers what is in flight when it stops, and drops it"
    Contenders StopsBeforeItsCommitsEnd
        caught by shutdown commits_in_flight_end_first
        "has stopped before the commits in flight have ended, which come to be stored later"
    Contenders DoesNotCompareTheBase
        caught by commit a_commit_on_any_other_version_makes_none
        "stores every commit, whatever the state's version is"
    Contenders DeletesThoughItConflicts
        caught by commit a_commit_on_any_other_version_makes_none
        "makes the deletions of a commit that conflicts"
    Contenders ComparesBeforeItWaitsForOthers
        caught by commit two_nodes_that_believe_to_lead_cannot_both_commit_on_one_base
        "compares before it waits for a commit of another node, and not after, as a transaction at READ \
         COMMITTED does"
    Contenders RefusesWhatItGotNoAnswerTo
        caught by commit a_commit_whose_answer_is_lost_is_not_said_to_be_refused
        "takes a commit whose answer is lost for one that is not stored"
    Contenders ComparesTheNumberAlone
        caught by commit the_whole_version_is_compared_and_not_a_part_of_it
        "compares the number of a base, and not its name"
    Contenders ComparesHalfOfTheName
        caught by commit the_whole_version_is_compared_and_not_a_part_of_it
        "compares the last 64 bits of a base's name only"
    Contenders IgnoresTheEra
        caught by commit the_whole_version_is_compared_and_not_a_part_of_it
        "does not compare the era of a base"
    Contenders IgnoresTheNumber
        caught by commit the_whole_version_is_compared_and_not_a_part_of_it
        "compares the era and the name of a base, and not its number"
    Contenders ConflictsThoughItIsBehind
        caught by commit a_state_that_is_behind_a_base_says_no_conflict
        "returns a conflict, though its state is only behind the base"
    Contenders SaysStoredOfAConflict
        caught by commit a_commit_on_any_other_version_makes_none
        "answers a commit that conflicts as stored"
    Contenders AnswersADuplicateWithAConflict
        caught by commit a_commit_that_is_sent_again_is_made_once
        "takes a commit that was sent twice for one that conflicts with itself"
    Contenders StoresADuplicateAgain
        caught by commit a_commit_that_is_sent_again_is_made_once
        "makes a commit again when it is sent again, over later ones"
    Contenders SaysConflictOfWhatItStored
        caught by commit a_commit_on_the_states_version_makes_all_of_its_writes
        "answers a commit with a conflict, and has stored it"
    Contenders TakesAnyCommitForEvidence
        caught by seen what_was_never_made_is_never_seen
        "takes any commit for evidence of any other"
    Contenders TakesAnyNameForEvidence
        caught by seen a_commit_that_conflicted_is_never_seen
        "knows commits by their number alone, so that a lost one counts as seen"
    Contenders TakesALaterEraForEvidence
        caught by seen a_commit_of_another_era_is_no_evidence
        "takes a commit of a later era for evidence of any before"
    Contenders SeesUndecidedCommits
        caught by seen what_may_still_be_overwritten_is_not_seen
        "counts what is in its log and may be overwritten as evidence"
    Contenders DatesEvidenceFromTheOpening
        caught by seen evidence_is_of_no_moment_before_the_commit_was_sent
        "dates all evidence from its start"
    Contenders DatesEvidenceFromTheCommitBefore
        caught by seen evidence_is_of_no_moment_before_the_commit_was_sent
        "dates evidence of a commit from the one before it"
}
