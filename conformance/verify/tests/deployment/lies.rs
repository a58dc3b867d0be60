//! Each lie is caught by the line that names it.

use crate::{broken, found, liar::Lie};

/// Lies that single answers show.
async fn in_answers(lie: Lie, named: &[&str]) {
    let (verdict, _) = found(Some(lie), 0).await;
    assert_eq!(broken(&verdict), named, "{lie:?}");
}

/// Lies that a server tells now and then, so that only the load shows them; other lines may notice
/// as well, but not many.
async fn under_load(lie: Lie, named: &[&str]) {
    let (verdict, _) = found(Some(lie), 1_000).await;
    let broken = broken(&verdict);
    assert!(named.iter().all(|name| broken.contains(name)), "{lie:?}: {broken:?}");
    assert!(broken.len() <= named.len() + 1, "{lie:?}: {broken:?}");
    // What shows it are the operations that contradict each other.
    let check = verdict.checks.iter().find(|check| check.name == named[0]).expect("it is there");
    assert!(check.violations.iter().all(|violation| !violation.operations.is_empty()));
}

macro_rules! caught {
    ($how:ident: $($test:ident, $lie:ident => $names:expr;)*) => {$(
        #[tokio::test(flavor = "multi_thread")]
        async fn $test() {
            $how(Lie::$lie, &$names).await;
        }
    )*};
}

caught! { in_answers:
    a_count_of_0_is_granted, AnyCount => ["GetTs limits", "StreamTs"];
    a_count_of_0_is_out_of_range, ZeroIsOutOfRange => ["GetTs limits", "StreamTs"];
    fewer_timestamps_than_asked_for, FewerTimestamps => ["GetTs", "StreamTs"];
    timestamps_leave_their_millisecond, LeavesTheMillisecond => ["GetTs"];
    nothing_is_safe, NothingIsSafe => ["GetCurrentMaxSafe"];
    the_key_is_not_echoed, NoKey => ["GetSeq", "StreamSeq"];
    the_epoch_is_missing, NoEpoch => ["GetSeq", "StreamSeq"];
    an_empty_key_is_granted, AnyKey => ["GetSeq limits", "StreamSeq"];
    sequences_start_at_1, StartsAt1 => [
        "GetSeq", "GetSeq limits", "GetSeqBatch", "GetSeqBatch limits", "request ids",
        "request ids limits", "named requests", "StreamSeq", "ReadSeq", "ListSeqs", "SeedSeq",
        "DeleteSeq",
    ];
    batches_are_answered_in_another_order, BatchOutOfOrder => ["GetSeqBatch"];
    a_refused_batch_spends, RefusedBatchesSpend => ["GetSeqBatch limits"];
    ids_are_forgotten, ForgetsIds => [
        "request ids", "request ids limits", "named requests", "DeleteSeq",
    ];
    names_are_forgotten, ForgetsNames => ["named requests", "DeleteSeq"];
    ids_are_reused, ReusesIds => ["request ids limits", "named requests"];
    a_session_of_any_length, AnySession => ["request ids limits"];
    a_retry_opens_a_session, NewSessionOnRetry => ["request ids limits"];
    a_stream_answers_out_of_order, StreamOutOfOrder => ["StreamTs"];
    the_entries_of_a_message_fail_together, StreamFailsTogether => ["StreamSeq"];
    an_unused_key_is_read_as_0, UnusedKeysAreZero => ["ReadSeq", "DeleteSeq"];
    a_deleted_key_goes_on, DeletesNothing => ["DeleteSeq"];
    keys_are_listed_out_of_order, ListsOutOfOrder => ["ListSeqs"];
    the_second_page_is_hidden, ListsOnePage => ["ListSeqs"];
    a_used_key_is_seeded, SeedsAgain => ["SeedSeq"];
    overflow_is_an_internal_error, OverflowIsInternal => ["SeedSeq"];
    a_lease_is_granted_twice, LeasesTwice => ["leases"];
    a_superseded_lease_is_renewed, RenewsSuperseded => ["leases"];
    an_unknown_lease_is_renewed, RenewsUnknown => ["leases limits"];
    the_frontier_runs_ahead, FrontierRunsAhead => ["leases frontier"];
    leases_push_time_ahead, LeasesPushTime => ["leases and time"];
    a_follower_hints_at_itself, HintsAtItself => ["a node without lead"];
    a_hint_has_a_scheme, HintsWithAScheme => ["a node without lead"];
}

caught! { under_load:
    timestamps_go_back, GoesBack => ["G1 order"];
    timestamps_are_issued_again, ReissuesTimestamps => ["G2 unique", "G1 order"];
    values_are_skipped, SkipsValues => ["G3 gapless"];
    blocks_are_granted_again, RepeatsBlocks => ["G3 disjoint", "G3 order"];
    refusals_spend, RefusalsSpend => ["G3 refusals", "G3 gapless"];
    what_is_said_to_be_uncommitted_was_spent, UncommittedSpends => ["G3 refusals", "G3 gapless"];
    half_a_batch_is_carried_out, HalfABatch => ["G3 all or nothing"];
    a_named_request_is_executed_again, ForgetsNamesUnderLoad => [
        "G3 exactly once", "G3 gapless",
    ];
    a_key_is_not_deleted_though_it_is_said, DeletesNothingUnderLoad => ["G3 gapless"];
    a_request_sent_again_gets_another_block, AnswersOtherwise => ["G3 exactly once", "G3 gapless"];
    reads_are_out_of_date, ReadsOldValues => ["G3 order"];
    epochs_go_back, EpochGoesBack => ["epochs in time", "epochs in order"];
    valid_requests_fail_with_an_internal_error, InternalError => ["load failures"];
}
