use super::{
    Capped, Limits, RETENTION, Reject,
    keys::{self, PAGE},
    record::{ANSWER_RULES, FIRST_RULES, Meta},
    testing::{State, commit, id, plan_all, whole, with},
};
use crate::{RequestId, SeqBlock, SeqStore as _, Session};

const RETENTION_MS: u64 = RETENTION.as_millis() as u64;

fn starts(blocks: Vec<SeqBlock>) -> Vec<u64> {
    blocks.iter().map(|block| block.start).collect()
}

#[test]
fn the_same_id_gives_the_same_block() {
    let mut state = State::open();
    let first = state.advance(&[("a", 5), ("b", 2)], Some(id(1, 1, 1)));
    assert_eq!(first, state.advance(&[("a", 5), ("b", 2)], Some(id(1, 1, 1))));
    let retry = RequestId { retry: true, ..id(1, 1, 1) };
    state.take_over(0);
    assert_eq!(first, state.advance(&[("a", 5), ("b", 2)], Some(retry)));
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [5]);
}

#[test]
fn duplicates_within_one_batch_see_the_earlier_one() {
    let mut state = State::open();
    let command = state.advance_command(&[("a", 5)], Some(id(1, 1, 1)), Limits::default());
    let results = state.apply(&[command.clone(), command.clone(), command]);
    assert_eq!(results[0], results[1]);
    assert_eq!(results[0], results[2]);
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [5]);
}

#[test]
fn an_id_used_for_another_request_is_refused() {
    let mut state = State::open();
    state.advance(&[("a", 5)], Some(id(1, 1, 1))).unwrap();
    for other in [[("a", 6)], [("b", 5)]] {
        let refused = state.advance(&other, Some(id(1, 1, 1)));
        assert_eq!(refused, Err(Reject::IdReused { number: 1 }));
    }
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [5]);
}

/// A copy of a request may come when its session has expired: 3 waits for nothing below, so that 1 and 2
/// were answered once.
#[test]
fn a_request_of_a_session_that_was_known_once_is_not_executed_in_one_of_its_name() {
    let mut state = State::open();
    let refused = state.advance(&[("a", 5)], Some(id(1, 3, 3)));
    assert_eq!(refused, Err(Reject::SessionUnknown));
    assert_eq!(starts(state.advance(&[("a", 5)], Some(id(1, 3, 1))).unwrap()), [0]);
}

#[test]
fn what_the_client_has_done_with_is_forgotten_and_refused() {
    let mut state = State::open();
    for number in 1..=3 {
        state.advance(&[("a", 1)], Some(id(1, number, 1))).unwrap();
    }
    state.advance(&[("a", 1)], Some(id(1, 4, 4))).unwrap();
    assert_eq!(state.count(b'a'), 1, "they share a page");
    let refused = state.advance(&[("a", 1)], Some(id(1, 3, 3)));
    assert_eq!(refused, Err(Reject::Forgotten { number: 3, first_incomplete: 4 }));
    // A request that was overtaken does not turn first_incomplete back.
    state.advance(&[("a", 1)], Some(id(1, 5, 1))).unwrap();
    let refused = state.advance(&[("a", 1)], Some(id(1, 2, 1)));
    assert_eq!(refused, Err(Reject::Forgotten { number: 2, first_incomplete: 4 }));
}

#[test]
fn storage_follows_what_is_open_and_not_how_many_were_asked() {
    let mut state = State::open();
    let window = 20;
    for number in 1..=500u64 {
        let first = number.saturating_sub(window).max(1);
        state.advance(&[("a", 1)], Some(id(1, number, first))).unwrap();
    }
    let pages = state.count(b'a') as u64;
    assert!(pages <= window.div_ceil(PAGE) + 1, "{pages}");
}

#[test]
fn a_page_of_answers_is_kept_until_all_its_requests_are_done_with() {
    let mut state = State::open();
    let blocks: Vec<_> = (1..=2 * PAGE)
        .map(|number| state.advance(&[("a", 1)], Some(id(1, number, 1))).unwrap())
        .collect();
    assert_eq!(state.count(b'a'), 3);
    let mut ask = |number, first| state.advance(&[("a", 1)], Some(id(1, number, first)));
    // PAGE is the first number of the second page.
    ask(2 * PAGE + 1, PAGE + 1).unwrap();
    for number in PAGE + 1..=2 * PAGE {
        assert_eq!(ask(number, PAGE + 1).as_ref(), Ok(&blocks[number as usize - 1]));
    }
    let refused = ask(PAGE, PAGE);
    assert_eq!(refused, Err(Reject::Forgotten { number: PAGE, first_incomplete: PAGE + 1 }));
    assert_eq!(state.count(b'a'), 2);
}

#[test]
fn numbers_may_rise_to_the_very_end() {
    let mut state = State::open();
    for number in [1, u64::MAX - 5, u64::MAX] {
        state.advance(&[("a", 1)], Some(id(1, number, number))).unwrap();
    }
    assert!(state.advance(&[("a", 1)], Some(id(1, u64::MAX, u64::MAX))).is_err());
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [3]);
}

#[test]
fn a_retry_on_an_unknown_session_is_never_executed() {
    let mut state = State::open();
    let retry = RequestId { retry: true, ..id(1, 1, 1) };
    assert_eq!(state.advance(&[("a", 5)], Some(retry)), Err(Reject::SessionUnknown));
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [0]);
}

#[test]
fn a_refused_request_leaves_no_session_behind() {
    let mut state = State::open();
    state.advance(&[("a", 1)], None).unwrap();
    let limits = Limits { keys: 1, ..Limits::default() };
    let command = state.advance_command(&[("a", 1), ("b", 1)], Some(id(1, 1, 1)), limits);
    assert_eq!(
        state.apply(&[command]),
        [Err(Reject::TooMany { what: Capped::Sequences, limit: 1 })]
    );
    assert!(!state.knows(Session([1; 16])));
}

#[test]
fn at_a_cap_a_request_is_refused_rather_than_taken_without_the_promise() {
    let mut state = State::open();
    let limits = Limits { sessions: 2, open_requests: 3, ..Limits::default() };
    let mut ask = |session, number, first| {
        let id = Some(id(session, number, first));
        let command = state.advance_command(&[("a", 1)], id, limits);
        state.apply(&[command]).remove(0)
    };
    ask(1, 1, 1).unwrap();
    ask(2, 1, 1).unwrap();
    assert_eq!(ask(3, 1, 1), Err(Reject::TooMany { what: Capped::Sessions, limit: 2 }));
    ask(1, 3, 1).unwrap();
    assert_eq!(ask(1, 4, 1), Err(Reject::TooManyOpenRequests { limit: 3 }));
    ask(1, 4, 2).unwrap();
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [4], "refusals spend nothing");
}

#[test]
fn an_unused_session_expires_after_the_retention_and_not_before() {
    let mut state = State::open();
    let session = Session([1; 16]);
    state.advance(&[("a", 1)], Some(id(1, 1, 1))).unwrap();
    state.pass(RETENTION_MS);
    state.expire();
    assert!(state.knows(session));
    state.pass(RETENTION_MS / 4);
    state.expire();
    assert!(!state.knows(session));
    assert_eq!(state.count(b'a'), 0);
}

#[test]
fn use_keeps_a_session_alive_and_is_seldom_written() {
    let mut state = State::open();
    for number in 1..=40 {
        state.pass(RETENTION_MS / 10);
        state.advance(&[("a", 1)], Some(id(1, number, number))).unwrap();
        state.expire();
        assert!(state.knows(Session([1; 16])));
    }
}

#[test]
fn a_leaders_elapsed_time_since_its_last_extension_counts_as_use() {
    let mut state = State::open();
    // The leader was idle for an hour, and has not extended yet when the request comes.
    state.elapsed_ms += 3_600_000;
    state.advance(&[("a", 1)], Some(id(1, 1, 1))).unwrap();
    state.pass(1);
    state.expire();
    assert!(state.knows(Session([1; 16])));
}

#[test]
fn a_session_with_many_answers_expires_piece_by_piece_and_never_executes_again() {
    let mut state = State::open();
    for number in 1..=150 {
        state.advance(&[("a", 1)], Some(id(1, number, 1))).unwrap();
    }
    state.pass(RETENTION_MS * 2);
    state.expire();
    assert!(state.knows(Session([1; 16])), "a few pages at a time");
    for number in [1, 63] {
        let refused = state.advance(&[("a", 1)], Some(id(1, number, 1)));
        assert_eq!(refused, Err(Reject::Forgotten { number, first_incomplete: 64 }));
    }
    state.expire();
    state.expire();
    assert!(!state.knows(Session([1; 16])));
    assert_eq!((state.count(b'a'), state.count(b'x')), (0, 0));
}

#[test]
fn closing_ends_a_session_and_spends_nothing() {
    let mut state = State::open();
    for number in 1..=3 {
        state.advance(&[("a", 1)], Some(id(1, number, 1))).unwrap();
    }
    let close = RequestId { close: true, ..id(1, 4, 4) };
    assert_eq!(state.advance(&[], Some(close)), Ok(vec![]));
    assert!(!state.knows(Session([1; 16])));
    assert_eq!(state.count(b'a'), 0);
    assert_eq!(state.advance(&[], Some(close)), Ok(vec![]), "closing again is no error");
    assert_eq!(starts(state.advance(&[("a", 1)], None).unwrap()), [3]);
}

#[test]
fn a_closed_session_with_many_answers_takes_nothing_more_while_it_is_cleared() {
    let mut state = State::open();
    for number in 1..=100 {
        state.advance(&[("a", 1)], Some(id(1, number, 1))).unwrap();
    }
    state.advance(&[], Some(RequestId { close: true, ..id(1, 101, 101) })).unwrap();
    for number in [5, 99, 102, u64::MAX] {
        let refused = state.advance(&[("a", 1)], Some(id(1, number, 1)));
        assert!(matches!(refused, Err(Reject::Forgotten { .. })), "{refused:?}");
    }
    state.pass(RETENTION_MS * 2);
    state.expire();
    assert_eq!((state.count(b'u'), state.count(b'a'), state.count(b'x')), (0, 0, 0));
}

#[test]
fn a_block_whose_request_also_closes_its_session_is_handed_out() {
    let mut state = State::open();
    let close = RequestId { close: true, ..id(1, 1, 1) };
    assert_eq!(starts(state.advance(&[("a", 4)], Some(close)).unwrap()), [0]);
    assert_eq!((state.count(b'u'), state.count(b'a')), (0, 0));
}

#[test]
fn a_sessions_first_request_counts_what_is_open_as_any_other() {
    let mut state = State::open();
    let limit = 4_096;
    let refused = state.advance(&[("a", 1)], Some(id(1, limit + 1, 1)));
    assert_eq!(refused, Err(Reject::TooManyOpenRequests { limit }));
    state.advance(&[("a", 1)], Some(id(1, limit, 1))).unwrap();
    state.advance(&[("a", 1)], Some(id(1, limit + 1, limit + 1))).unwrap();
    assert_eq!(state.count(b'a'), 1, "what was answered before is cleared away");
}

#[test]
fn a_batch_of_requests_that_jump_ahead_deletes_no_more_than_there_is() {
    let mut state = State::open();
    state.advance(&[("a", 1)], Some(id(1, 1, 1))).unwrap();
    let command = |state: &State, number| {
        state.advance_command(&[("a", 1)], Some(id(1, number, number)), Limits::default())
    };
    let commands: Vec<_> = (1..=100).map(|n| command(&state, 1 + n * 5_000)).collect();
    let (_, plan) = plan_all(&state.store, state.epoch, &commands);
    let writes = commit(&mut state.store.clone(), plan, 0).len();
    assert!(writes <= 5 * commands.len(), "{writes} writes for {} requests", commands.len());
    state.apply(&commands);
    assert_eq!(state.count(b'a'), 1);
}

#[test]
fn a_page_of_the_release_before_is_read_and_goes_on_in_its_format() {
    let mut state = State::open();
    let first = state.advance(&[("a", 5)], Some(id(1, 1, 1))).unwrap();
    // Its request is distinguished from others by the first half of its SHA-256.
    let mut page = vec![1, 1, 18];
    page.extend(0x1cf3_bf6d_131a_fad4_d173_1051_89a4_0146_u128.to_be_bytes());
    page.extend([1, 0]);
    let key = keys::answers_of(Session([1; 16]), 1);
    state.store = with(state.store, key.to_vec(), page.clone());
    assert_eq!(state.advance(&[("a", 5)], Some(id(1, 1, 1))), Ok(first));
    let other = state.advance(&[("a", 6)], Some(id(1, 1, 1)));
    assert_eq!(other, Err(Reject::IdReused { number: 1 }));
    let second = state.advance(&[("a", 2)], Some(id(1, 2, 1)));
    assert_eq!(state.advance(&[("a", 2)], Some(id(1, 2, 1))), second);
    let other = state.advance(&[("b", 2)], Some(id(1, 2, 1)));
    assert_eq!(other, Err(Reject::IdReused { number: 2 }));
    let stored = state.store.get(&key).unwrap().unwrap();
    assert!(stored.starts_with(&page), "{stored:?}");
}

#[test]
fn the_first_answer_keeps_releases_away_that_could_not_read_it() {
    let rules = |state: &State| Meta::load(&whole(&state.store)).unwrap().rules;
    let mut state = State::open();
    state.advance(&[("a", 1)], None).unwrap();
    assert_eq!(rules(&state), FIRST_RULES, "nothing is stored yet that they could not read");
    state.advance(&[("a", 1)], Some(id(1, 1, 1))).unwrap();
    assert_eq!(rules(&state), ANSWER_RULES);
}
