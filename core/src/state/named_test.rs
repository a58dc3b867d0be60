use super::{
    Capped, Limits, Reject, Reply,
    record::{FIRST_RULES, Meta, NAMED_RULES},
    testing::{State, whole},
};
use crate::SeqBlock;

const DAY_MS: u64 = 24 * 3_600_000;

fn ask(state: &mut State, name: &str, entries: &[(&str, u32)]) -> Result<Vec<u64>, Reject> {
    let command = state.named_command(entries, name, 30 * DAY_MS, Limits::default());
    match state.apply(&[command]).remove(0)? {
        Reply::Advanced(blocks) => Ok(blocks.iter().map(|block: &SeqBlock| block.start).collect()),
        other => panic!("an advance was answered with {other:?}"),
    }
}

#[test]
fn the_same_name_gives_the_same_blocks_until_it_expires() {
    let mut state = State::open();
    assert_eq!(ask(&mut state, "order-17", &[("a", 5), ("b", 2)]), Ok(vec![0, 0]));
    assert_eq!(ask(&mut state, "order-18", &[("a", 5)]), Ok(vec![5]));
    for _ in 0..3 {
        assert_eq!(ask(&mut state, "order-17", &[("a", 5), ("b", 2)]), Ok(vec![0, 0]));
        state.pass(DAY_MS);
        state.take_over(0);
        state.expire();
    }
    assert_eq!((state.count(b'u'), state.count(b'q')), (0, 2), "it costs no session");
    // Counted from its first use.
    state.pass(27 * DAY_MS);
    state.expire();
    assert_eq!(ask(&mut state, "order-17", &[("a", 5), ("b", 2)]), Ok(vec![0, 0]));
    state.pass(1);
    // Until a command has ended it, nothing is carried out again.
    assert_eq!(ask(&mut state, "order-17", &[("a", 5), ("b", 2)]), Ok(vec![0, 0]));
    state.expire();
    assert_eq!(state.count(b'q'), 0);
    assert_eq!(ask(&mut state, "order-17", &[("a", 5), ("b", 2)]), Ok(vec![10, 2]));
}

#[test]
fn a_name_used_for_another_request_is_refused() {
    let mut state = State::open();
    ask(&mut state, "n", &[("a", 5), ("b", 1)]).unwrap();
    for other in [&[("a", 5)][..], &[("a", 6), ("b", 1)], &[("b", 1), ("a", 5)], &[("c", 5)]] {
        assert_eq!(ask(&mut state, "n", other), Err(Reject::NameReused));
    }
    assert_eq!(ask(&mut state, "m", &[("a", 1)]), Ok(vec![5]));
}

#[test]
fn copies_within_one_batch_see_the_earlier_one() {
    let mut state = State::open();
    let command = state.named_command(&[("a", 5)], "n", DAY_MS, Limits::default());
    let results = state.apply(&[command.clone(), command.clone(), command]);
    assert!(results.iter().all(|result| *result == results[0]));
    assert_eq!(ask(&mut state, "m", &[("a", 1)]), Ok(vec![5]));
}

#[test]
fn the_cap_counts_names_and_spares_those_that_are_known() {
    let mut state = State::open();
    let limits = Limits { named: 2, ..Limits::default() };
    let ask = |state: &mut State, name: &str| {
        let command = state.named_command(&[("a", 1)], name, 1_000, limits);
        state.apply(&[command]).remove(0)
    };
    assert!(ask(&mut state, "1").is_ok() && ask(&mut state, "2").is_ok());
    assert_eq!(ask(&mut state, "3"), Err(Reject::TooMany { what: Capped::Named, limit: 2 }));
    assert!(ask(&mut state, "1").is_ok());
    state.pass(1_001);
    state.expire();
    assert!(ask(&mut state, "3").is_ok());
}

#[test]
fn what_has_expired_is_ended_in_bounded_steps() {
    let mut state = State::open();
    for name in 0..40 {
        let command = state.named_command(&[("a", 1)], &name.to_string(), name, Limits::default());
        state.apply(&[command]).remove(0).unwrap();
    }
    state.pass(30);
    for left in [24, 10, 10] {
        state.expire();
        assert_eq!(state.count(b'q'), left, "the first to expire go first, and the others stay");
    }
}

#[test]
fn the_first_name_keeps_releases_away_that_do_not_know_it() {
    let rules = |state: &State| Meta::load(&whole(&state.store)).unwrap().rules;
    let mut state = State::open();
    assert_eq!(rules(&state), FIRST_RULES);
    ask(&mut state, "n", &[("a", 1)]).unwrap();
    assert_eq!(rules(&state), NAMED_RULES);
}
