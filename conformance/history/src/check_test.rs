use super::testing::*;
use super::*;

const NOTHING: [&str; 0] = [];

fn refused(start_ns: u64, end_ns: u64, count: u32) -> Operation {
    asked(start_ns, end_ns, &[("k", count)], Outcome::Refused("RESOURCE_EXHAUSTED".into()))
}

mod violations {
    use super::*;

    #[test]
    fn a_timestamp_below_one_answered_before_it_was_asked_for() {
        let history = [ts(1, 2, 10, 1), ts(3, 4, 9, 1)];
        assert_eq!(broken(&history), ["G1 order"]);
        let report = check(&history);
        let violation = &report.checks[0].violations[0];
        assert_eq!(violation.operations, history);
    }

    #[test]
    fn a_timestamp_far_below_is_found_behind_others_that_are_right() {
        let mut history: Vec<_> = (0..100).map(|n| ts(n, n + 150, n as u32, 1)).collect();
        history.insert(50, ts(300, 400, 200, 1));
        history.push(ts(401, 500, 150, 1));
        assert_eq!(broken(&history), ["G1 order"]);
    }

    #[test]
    fn an_order_that_only_the_last_timestamp_of_a_call_breaks() {
        for count in [1, 100] {
            let history = [ts(1, 2, 10, 5), ts(3, 4, 12, count)];
            assert_eq!(broken(&history), ["G1 order", "G2 unique"]);
        }
    }

    #[test]
    fn a_timestamp_issued_twice_to_calls_that_overlap() {
        assert_eq!(broken(&[ts(1, 9, 10, 3), ts(2, 8, 12, 1)]), ["G2 unique"]);
    }

    #[test]
    fn a_small_range_inside_a_large_one_that_others_follow() {
        let history = [ts(1, 9, 10, 100), ts(2, 8, 20, 1), ts(3, 8, 109, 1)];
        let report = check(&history);
        assert_eq!((report.broken(), report.checks[1].violated), (vec!["G2 unique"], 2));
    }

    #[test]
    fn fewer_timestamps_than_asked_for() {
        let mut short = ts(1, 2, 10, 3);
        let Call::GetTs { count, .. } = &mut short.call else { unreachable!() };
        *count = 4;
        assert_eq!(broken(&[short]), ["G2 contiguous"]);
    }

    #[test]
    fn timestamps_that_leave_their_millisecond() {
        assert_eq!(broken(&[ts(1, 2, (1 << 18) - 2, 3)]), ["G2 contiguous"]);
    }

    #[test]
    fn values_granted_twice() {
        assert_eq!(broken(&[seq(1, 9, 0, 3), seq(2, 8, 2, 2)]), ["G3 disjoint"]);
        assert_eq!(broken(&[seq(1, 9, 0, 3), seq(2, 8, 0, 3)]), ["G3 disjoint"]);
    }

    #[test]
    fn a_small_block_inside_a_large_one_leaves_no_gap_behind_it() {
        let history = [seq(1, 9, 0, 9), seq(1, 9, 2, 1), seq(1, 9, 9, 1)];
        assert_eq!(broken(&history), ["G3 disjoint"]);
    }

    #[test]
    fn values_that_were_skipped() {
        assert_eq!(broken(&[seq(1, 2, 0, 3), seq(3, 4, 5, 1)]), ["G3 gapless"]);
    }

    #[test]
    fn a_key_that_does_not_start_at_0() {
        assert_eq!(broken(&[seq(1, 2, 1, 3)]), ["G3 gapless"]);
    }

    #[test]
    fn a_key_that_does_not_start_where_it_was_read_to_be() {
        assert_eq!(broken(&[read(1, 2, "k", 7), seq(3, 4, 8, 1)]), ["G3 gapless"]);
        assert_eq!(broken(&[read(1, 2, "k", 7), seq(3, 4, 6, 1)]), ["G3 order"]);
    }

    #[test]
    fn a_first_value_that_only_a_refused_call_can_have_spent() {
        let history = [refused(1, 2, 1), read(3, 4, "k", 1), seq(5, 6, 1, 1)];
        assert_eq!(broken(&history), ["G3 gapless", "G3 refusals"]);
    }

    #[test]
    fn values_that_only_a_refused_call_can_have_spent() {
        let history = [seq(1, 2, 0, 1), refused(3, 4, 2), seq(5, 6, 3, 1)];
        assert_eq!(broken(&history), ["G3 gapless", "G3 refusals"]);
    }

    #[test]
    fn a_call_in_doubt_that_does_not_fill_the_gap() {
        assert_eq!(broken(&[uncertain(1, 2, 1), seq(3, 4, 2, 1)]), ["G3 gapless"]);
        assert_eq!(broken(&[uncertain(1, 2, 3), seq(3, 4, 2, 1)]), ["G3 gapless"]);
    }

    #[test]
    fn a_call_in_doubt_that_would_have_to_fill_two_gaps() {
        let history = [uncertain(1, 2, 1), seq(3, 4, 1, 1), seq(5, 6, 3, 1)];
        assert_eq!(broken(&history), ["G3 gapless"]);
    }

    #[test]
    fn a_call_in_doubt_that_began_after_the_gap_was_seen() {
        assert_eq!(broken(&[seq(1, 2, 1, 1), uncertain(3, 4, 1)]), ["G3 gapless"]);
        // A read in the middle of a gap leaves room for neither of both.
        let history = [uncertain(1, 9, 2), read(1, 9, "k", 1), seq(1, 9, 2, 1)];
        assert_eq!(broken(&history), ["G3 gapless"]);
    }

    #[test]
    fn values_of_another_call_in_doubt_with_the_same_id_as_an_answered_one() {
        let history =
            [uncertain(1, 2, 1).with_id("1"), seq(3, 4, 0, 1).with_id("1"), seq(5, 6, 2, 1)];
        assert_eq!(broken(&history), ["G3 gapless"]);
    }

    #[test]
    fn values_of_another_request_under_an_id_that_was_answered() {
        let history =
            [uncertain(1, 2, 2).with_id("1"), seq(3, 4, 0, 1).with_id("1"), seq(5, 6, 3, 1)];
        assert_eq!(broken(&history), ["G3 gapless"]);
    }

    #[test]
    fn a_read_that_has_not_seen_what_a_repeated_request_was_granted_first() {
        let repeated = [seq(8, 9, 0, 1).with_id("1"), seq(1, 2, 0, 1).with_id("1")];
        let history = [&repeated[..], &[read(3, 4, "k", 0)]].concat();
        assert_eq!(broken(&history), ["G3 order"]);
    }

    #[test]
    fn lower_values_for_a_later_call() {
        assert_eq!(broken(&[seq(1, 2, 3, 1), seq(3, 4, 0, 3)]), ["G3 order"]);
    }

    #[test]
    fn a_read_that_goes_back_or_runs_ahead() {
        assert_eq!(broken(&[seq(1, 2, 0, 3), read(3, 4, "k", 0)]), ["G3 order"]);
        assert_eq!(broken(&[read(1, 2, "k", 3), seq(3, 4, 0, 3)]), ["G3 order"]);
        assert_eq!(broken(&[seq(1, 9, 0, 3), read(1, 9, "k", 2)]), ["G3 disjoint"]);
        assert_eq!(broken(&[seq(1, 9, 0, 3), read(1, 9, "k", 4)]), ["G3 gapless"]);
    }

    #[test]
    fn another_block_for_the_same_request() {
        let history = [seq(1, 2, 0, 1).with_id("1"), seq(3, 4, 1, 1).with_id("1")];
        assert_eq!(broken(&history), ["G3 exactly once"]);
    }

    #[test]
    fn a_block_of_another_request_under_an_id_that_was_used() {
        let history = [seq(1, 2, 0, 1).with_id("1"), seq(3, 4, 1, 2).with_id("1")];
        assert_eq!(broken(&history), ["G3 exactly once"]);
    }

    #[test]
    fn an_answer_to_another_question() {
        let rename = |block: &mut Block| block.key = "other".into();
        let shorten = |block: &mut Block| block.count = 2;
        for change in [rename as fn(&mut Block), shorten] {
            let mut answered = seq(1, 2, 0, 3);
            let Call::GetSeq { outcome: Outcome::Answered(answer), .. } = &mut answered.call else {
                unreachable!()
            };
            change(&mut answer.blocks[0]);
            assert_eq!(broken(&[answered]), ["G3 as asked"]);
        }
    }

    #[test]
    fn a_batch_answered_in_part() {
        let mut history = [batch(1, 2, &[("k", 0, 1), ("l", 0, 1)]), seq(3, 4, 1, 1)];
        let Call::GetSeq { outcome: Outcome::Answered(answer), .. } = &mut history[0].call else {
            unreachable!()
        };
        answer.blocks.truncate(1);
        assert_eq!(broken(&history), ["G3 as asked"]);
    }

    #[test]
    fn a_batch_in_doubt_that_advanced_one_of_its_keys() {
        let doubt = Outcome::Uncertain("UNAVAILABLE".into());
        let history = [
            asked(1, 2, &[("k", 1), ("l", 1)], doubt),
            batch(3, 4, &[("k", 1, 1)]),
            batch(5, 6, &[("l", 0, 1)]),
        ];
        assert_eq!(broken(&history), ["G3 all or nothing"]);
    }

    #[test]
    fn a_batch_in_doubt_that_advanced_its_keys_at_two_moments() {
        let doubt = Outcome::Uncertain("UNAVAILABLE".into());
        let history = [
            asked(1, 2, &[("k", 1), ("l", 1)], doubt),
            // Before this, and after that.
            batch(3, 4, &[("l", 1, 1)]),
            batch(5, 6, &[("k", 0, 1)]),
            batch(7, 8, &[("k", 2, 1)]),
        ];
        assert_eq!(broken(&history), ["G3 all or nothing"]);
    }

    #[test]
    fn an_epoch_that_goes_back() {
        let history = [ts(1, 2, 1, 1).with_epoch(2), seq(3, 4, 0, 1).with_epoch(1)];
        assert_eq!(broken(&history), ["epochs in time"]);
    }

    #[test]
    fn an_older_epoch_that_issues_above_a_later_one() {
        let history = [ts(1, 9, 1, 1).with_epoch(2), ts(2, 8, 5, 1).with_epoch(1)];
        assert_eq!(broken(&history), ["epochs in order"]);
        let history = [seq(1, 9, 0, 1).with_epoch(2), seq(2, 8, 1, 1).with_epoch(1)];
        assert_eq!(broken(&history), ["epochs in order"]);
    }

    #[test]
    fn more_doubt_than_can_be_searched_is_not_passed() {
        // Sums of even numbers never fill a gap of an odd length.
        let mut history: Vec<_> = (0..60).map(|n| uncertain(1, 2, 2 + 2 * n)).collect();
        history.push(seq(3, 4, 1_001, 1));
        let report = check(&history);
        assert_eq!(report.broken(), ["G3 gapless"]);
        let gapless = report.checks.iter().find(|check| check.name == "G3 gapless").unwrap();
        assert!(gapless.violations[0].what.contains("too many calls"), "{gapless:?}");
    }
}

mod looks_wrong_but_is_right {
    use super::*;

    #[test]
    fn answers_that_arrive_in_another_order_than_they_were_given() {
        let history = [ts(1, 9, 10, 1), ts(2, 3, 11, 1), ts(4, 5, 12, 1), ts(4, 8, 9, 1)];
        // 9 overlaps 10, but not 11: it was asked for after 11 was answered.
        assert_eq!(broken(&history), ["G1 order"]);
        assert_eq!(broken(&history[..3]), NOTHING);
    }

    #[test]
    fn a_call_that_ends_in_the_instant_in_which_another_begins() {
        assert_eq!(broken(&[ts(1, 2, 10, 1), ts(2, 3, 9, 1)]), NOTHING);
    }

    #[test]
    fn a_slow_answer_with_a_small_timestamp() {
        assert_eq!(broken(&[ts(1, 100, 1, 1), ts(2, 3, 7, 1), ts(50, 60, 8, 1)]), NOTHING);
    }

    #[test]
    fn blocks_that_are_answered_last_to_first() {
        assert_eq!(broken(&[seq(1, 9, 0, 2), seq(1, 8, 2, 2), seq(1, 7, 4, 2)]), NOTHING);
    }

    #[test]
    fn a_gap_that_calls_in_doubt_fill() {
        let history = [uncertain(1, 2, 2), uncertain(1, 2, 1), uncertain(1, 2, 9), seq(3, 4, 3, 1)];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn a_call_in_doubt_that_takes_effect_long_after_its_caller_gave_up() {
        let history = [uncertain(1, 2, 5), seq(3, 4, 0, 1), seq(5, 6, 1, 1), seq(7, 8, 7, 1)];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn doubts_that_must_not_be_spent_on_the_first_gap_that_they_fit() {
        // The gap of 3 needs 1 + 2, so that the one of 3 must be left for the later one.
        let history = [
            uncertain(1, 2, 1),
            uncertain(1, 2, 2),
            uncertain(10, 11, 3),
            seq(3, 4, 3, 1),
            seq(12, 13, 7, 1),
        ];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn a_request_answered_again_when_others_have_gone_on() {
        let history = [
            uncertain(1, 2, 2).with_id("1"),
            seq(3, 4, 2, 1),
            seq(5, 6, 0, 2).with_id("1").with_epoch(2),
            seq(7, 8, 0, 2).with_id("1").with_epoch(2),
            seq(7, 8, 3, 1).with_epoch(2),
        ];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn a_refused_attempt_of_a_request_that_another_attempt_carried_out() {
        let history = [refused(1, 2, 2).with_id("1"), seq(3, 4, 0, 2).with_id("1")];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn a_batch_in_doubt_that_advanced_one_key_beyond_all_that_was_seen() {
        let doubt = Outcome::Uncertain("UNAVAILABLE".into());
        let history = [
            asked(1, 2, &[("k", 1), ("l", 1)], doubt),
            batch(1, 4, &[("l", 0, 1)]),
            batch(3, 4, &[("k", 1, 1)]),
        ];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn a_key_that_was_in_use_before() {
        assert_eq!(broken(&[read(1, 2, "k", 7), seq(3, 4, 7, 1), read(3, 9, "k", 7)]), NOTHING);
    }

    #[test]
    fn an_older_epoch_in_a_call_that_overlaps_the_new_one() {
        let history = [ts(1, 9, 1, 1).with_epoch(1), ts(2, 3, 2, 1).with_epoch(2)];
        assert_eq!(broken(&history), NOTHING);
    }

    #[test]
    fn nothing() {
        assert_eq!(broken(&[]), NOTHING);
    }
}

#[test]
fn a_history_is_read_as_it_was_written() {
    let history = [
        ts(1, 2, 3, 4).with_epoch(u128::MAX),
        seq(1, 2, u64::MAX - 4, 4).with_id("7/2"),
        uncertain(1, 2, 3),
        refused(1, 2, 3),
        read(1, 2, "k", 9),
        operation(1, 2, Call::GetTs { count: 1, outcome: Outcome::Uncertain("CANCELLED".into()) }),
    ];
    let mut text = Vec::new();
    for operation in &history {
        write_line(&mut text, operation).unwrap();
    }
    assert_eq!(read_lines(text.as_slice()).unwrap(), history);
}

#[test]
fn a_line_that_is_no_operation_is_named() {
    let good =
        r#"{"caller":"a","start_ns":2,"end_ns":3,"read_seq":{"key":"k","answered":{"next":4}}}"#;
    let reversed = good.replace("\"end_ns\":3", "\"end_ns\":1");
    for bad in ["{}", "nonsense", &reversed, &good[..40]] {
        let text = format!("{good}\n\n{bad}\n");
        let error = read_lines(text.as_bytes()).unwrap_err();
        assert!(error.to_string().starts_with("line 3: "), "{error}");
    }
}
