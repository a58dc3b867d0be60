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
    Disks CutsLongValues
        caught by store keys_and_values_may_be_any_bytes
        "stores values in a column that is too short"
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
    Disks ForgetsTheClaim
        caught by leadership every_claim_has_a_higher_epoch_than_any_before
        "keeps the last claimed epoch in memory only"
    Disks ForgetsSessionsAtRestart
        caught by sessions a_request_is_known_after_a_reopen
        "keeps sessions in memory only"
    Disks ForgetsTheCountOfKeysAtRestart
        caught by sequences the_cap_of_keys_is_kept_across_a_reopen
        "keeps the count of keys in memory only"
    Disks LosesTheLastWriteOnReopen
        caught by sequences a_gapless_run_goes_on_after_a_reopen
        "writes each commit when the next one comes, and loses the last one"
    Disks WritesOnlyWhenClosed
        caught by crashes an_answered_commit_survives_a_crash
        "writes when it is closed, which a killed process never does"
    Disks AnswersBeforeTheSync
        caught by crashes an_answered_commit_survives_a_power_loss
        "answers after the write and before the sync"
    Disks SyncsHalfOfACommit
        caught by crashes a_power_loss_after_each_commit_loses_none
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
    Contenders IgnoresTheEpoch
        caught by reigns an_older_epoch_is_rejected_for_good
        "commits without a look at the epoch"
    Contenders TruncatesTheEpoch
        caught by leadership every_claim_has_a_higher_epoch_than_any_before
        "packs the term into too few bits"
    Contenders ReportsLeadershipLate
        caught by leadership the_current_value_is_there_at_once
        "says that nobody leads to whoever asks for the first time"
    Contenders MissesAReElection
        caught by leadership a_re_election_of_the_same_node_is_seen
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
    Contenders TakesAnyWriteForEvidence
        caught by order evidence_of_the_replaced_write_is_of_no_earlier_one
        "counts the wait from a write before the one that its fence replaced"
    Contenders FencesFromAnEarlierRead
        caught by order a_fence_reserves_above_what_was_promised_after_its_driver_opened
        "computes the fence from what it read when it was opened"
    Contenders RewritesTheHighWater
        caught by reigns the_high_water_never_falls
        "stores the high-water that it is given, even a lower one"
    Contenders StoresWhatIsOutOfRange
        caught by reigns an_extension_past_the_end_of_time_is_refused_before_it_is_stored
        "stores a high-water before its range is checked"
    Contenders FencesWithItsOwnLease
        caught by reigns a_fence_alone_keeps_who_opened_and_the_longer_lease
        "puts its own lease on record at the fence, though a longer one is in force"
    Contenders ForgetsTheReleaseInAFence
        caught by reigns a_fence_alone_keeps_that_the_reign_before_was_released
        "forgets at the fence that the reign before was released"
    Contenders ReleasesInWordsOnly
        caught by reigns a_release_ends_everything_of_its_epoch
        "answers a release without storing it"
    Contenders AdvancesOneKeyOfAFailedBatch
        caught by sequences many_keys_advance_all_or_none
        "advances the first key of a request that is refused"
    Contenders SpendsBlocksOfRefusedRequests
        caught by sequences a_refused_command_leaves_no_trace
        "advances sequences for a request that it refuses"
    Contenders FailsABatchAsAWhole
        caught by sequences commands_of_a_batch_succeed_or_fail_each_on_its_own
        "refuses all commands of a batch when one is refused"
    Contenders WorksABatchOutFromTheStateBefore
        caught by sequences commands_of_a_batch_see_those_before_them
        "works out every command of a batch from the state before the batch"
    Contenders ReversesResults
        caught by sequences results_come_in_the_order_of_their_commands
        "answers the commands of a batch in another order"
    Contenders ReadsWhatWasThereBefore
        caught by sequences a_read_sees_every_commit_answered_before_it
        "reads from a copy that may lag by a commit"
    Contenders ForgetsSessionsWithTheLeader
        caught by sessions a_request_is_known_to_another_leader
        "keeps sessions in the leader's memory"
    Contenders StartsSessionTimeAnew
        caught by sessions session_time_goes_on_where_the_reign_before_left_it
        "starts session time at 0 with each reign"
    Contenders CommitsTwiceWhenBusy
        caught by concurrency callers_at_once_get_blocks_without_gap_or_overlap
        "takes a slow commit for a lost one, and commits again"
    Contenders ReordersCommits
        caught by concurrency commits_take_effect_in_the_order_in_which_they_were_begun
        "commits what waits in another order than it came"
    Contenders ShowsABatchInPart
        caught by concurrency a_batch_becomes_visible_all_at_once
        "applies the commands of a batch one by one"
    Contenders RefusesManyAtOnce
        caught by concurrency more_calls_than_any_queue_holds_are_all_answered
        "fails when more callers wait than its queue holds"
    Contenders OverwritesWithADroppedCommit
        caught by cancellation a_dropped_commit_is_not_handed_out_again
        "goes on with a commit whose caller has gone, over the next one: acknowledged numbers \
         are issued twice"
    Contenders CommitsWhatWasDroppedLater
        caught by cancellation a_dropped_commit_never_takes_effect_after_a_later_one
        "makes a commit whose caller has gone behind later ones"
    Contenders CommitsWhatWasDroppedInPart
        caught by cancellation a_dropped_commit_takes_effect_whole_or_not_at_all
        "stops in the middle of a commit when its caller goes"
    Contenders LosesTheIdOfADroppedRequest
        caught by cancellation a_dropped_request_with_an_id_is_spent_once
        "makes a commit whose caller has gone without its request id"
    Contenders AnswersBeforeTheCommit
        caught by crashes an_answered_commit_survives_a_crash
        "answers before the commit is stored"
    Contenders CommitsLateWhateverTheEpoch
        caught by order a_commit_held_up_past_a_take_over_never_takes_effect
        "makes a commit of an old leader after the new one has taken over"
    Contenders CommitsAloneWhenCutOff
        caught by order a_successor_waits_until_the_leader_before_has_stopped_granting
        "answers a leader's commits though it is cut off, so that its lease never ends"
    Contenders ReadsAloneWhenCutOff
        caught by order a_leader_that_was_cut_off_answers_no_stale_read
        "answers reads from its own copy though it is cut off"
    Contenders LimitsTheWritesOfACommit
        caught by sizes the_largest_request_fits_into_a_commit
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
    Contenders TakesRetriesForNewRequests
        caught by sessions a_retry_on_an_unknown_session_is_never_executed
        "takes a retry on an unknown session for a new request"
    Contenders KeepsAnswersForEver
        caught by sessions a_number_below_the_first_incomplete_is_refused
        "never looks at the first number that a session waits for"
    Contenders AppliesItsOwnCapOfSessions
        caught by sessions the_cap_of_sessions_is_kept
        "applies a cap on sessions of its own, and not the command's"
    Contenders AppliesItsOwnCapOfOpenRequests
        caught by sessions the_cap_of_open_requests_is_kept
        "applies a cap on open requests of its own, and not the command's"
    Contenders SortsTheKeysOfARequest
        caught by sequences the_blocks_of_a_request_come_in_the_order_asked_for
        "sorts the keys of a request"
    Contenders FencesFromTheClock
        caught by reigns a_fence_by_a_clock_set_back_reserves_above_the_high_water
        "takes the floor from the clock alone, and rewinds when that is set back"
    Contenders FencesWithoutTheRecord
        caught by reigns a_fence_answers_with_the_record_it_replaced
        "does not tell which record its fence replaced, so that no lease is waited for"
    Contenders OpensWithTheFence
        caught by reigns nothing_is_served_between_fence_and_open
        "serves from the fence on"
    Contenders StaysReleasedWhenOpened
        caught by reigns an_open_puts_its_own_node_and_lease_on_record
        "leaves the release of the reign before on record when it opens"
    Contenders ListsByOffset
        caught by listing pages_name_everything_once_while_others_write
        "counts pages by how many entries came before, though others write meanwhile"
    Contenders SeedsWhatIsThere
        caught by listing a_sequence_that_is_there_cannot_be_seeded
        "seeds a sequence that is in use"
    Contenders StartsAgainAfter64Bits
        caught by listing a_sequence_ends_with_64_bits
        "starts a sequence again at 0 when it has used up its 64 bits"
    Contenders LeavesTheHighWaterBelowBounds
        caught by stamping a_bound_is_below_the_high_water_when_it_is_answered
        "grants a stamping lease without raising the high-water to its bound"
    Contenders PushesTheHighWaterOnWithEachLease
        caught by stamping a_thousand_grants_and_renewals_leave_the_high_water_where_clock_and_ttl_put_it
        "pushes the high-water on with each stamping lease"
}
