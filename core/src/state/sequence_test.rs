use std::{collections::BTreeMap, slice};

use proptest::prelude::*;

use super::{
    Answer, Capped, Command, Limits, Query, Reject, Reply, Seed,
    testing::{State, id, key},
};
use crate::{Epoch, Result, SeqKey};

fn seed_command(name: &str, start: u64, limits: Limits) -> Command {
    Command::Seed(Seed { key: key(name), start, limits })
}

fn seed(state: &mut State, name: &str, start: u64) -> Result<Reply, Reject> {
    state.apply(&[seed_command(name, start, Limits::default())]).remove(0)
}

fn list(state: &State, prefix: &str, after: &str, limit: usize) -> Vec<(SeqKey, u64)> {
    let query = Query::Sequences { prefix: prefix.into(), after: after.into(), limit };
    match state.ask(&query) {
        Answer::Sequences(entries) => entries,
        other => panic!("{other:?}"),
    }
}

#[test]
fn a_seeded_sequence_begins_there() {
    let mut state = State::open();
    assert_eq!(seed(&mut state, "a", 1_000), Ok(Reply::Seeded(1_000)));
    assert_eq!(state.advance(&[("a", 5)], None).unwrap()[0].start, 1_000);
    assert_eq!(state.advance(&[("a", 5)], None).unwrap()[0].start, 1_005);
}

#[test]
fn what_exists_is_not_seeded_whatever_the_value() {
    let mut state = State::open();
    seed(&mut state, "seeded", 7).unwrap();
    state.advance(&[("used", 7)], None).unwrap();
    for name in ["seeded", "used"] {
        for start in [0, 7, 8, u64::MAX] {
            let refused = Err(Reject::SequenceExists { key: key(name), next: 7 });
            assert_eq!(seed(&mut state, name, start), refused);
        }
    }
}

#[test]
fn a_seed_leaves_a_value_to_give_out() {
    let mut state = State::open();
    let refused = Err(Reject::NothingLeft { key: key("a"), start: u64::MAX });
    assert_eq!(seed(&mut state, "a", u64::MAX), refused);
    assert_eq!(list(&state, "", "", 9), [], "what was refused left a trace");
    assert_eq!(seed(&mut state, "a", u64::MAX - 1), Ok(Reply::Seeded(u64::MAX - 1)));
    assert_eq!(state.advance(&[("a", 1)], None).unwrap()[0].start, u64::MAX - 1);
    let used_up = Err(Reject::Overflow { key: key("a"), next: u64::MAX });
    assert_eq!(state.advance(&[("a", 1)], None), used_up);
}

#[test]
fn seeding_counts_towards_the_cap_and_takes_an_open_reign() {
    let mut state = State::open();
    let limits = Limits { keys: 1, ..Limits::default() };
    let commands = [seed_command("a", 1, limits), seed_command("b", 1, limits)];
    let results = state.apply(&commands);
    assert_eq!(
        results,
        [Ok(Reply::Seeded(1)), Err(Reject::TooMany { what: Capped::Sequences, limit: 1 })]
    );
    let late = state.apply_as(Epoch(0), &commands[1..]);
    assert_eq!(late, [Err(Reject::Fenced { current: state.epoch })]);
}

#[test]
fn the_blocks_of_a_request_come_in_the_order_asked_for() {
    let mut state = State::open();
    for entries in [[("b", 2), ("c", 3), ("a", 1)], [("c", 1), ("a", 2), ("b", 3)]] {
        let blocks = state.advance(&entries, None).unwrap();
        let found: Vec<_> = blocks.iter().map(|block| (block.key.as_str(), block.count)).collect();
        assert_eq!(found, entries);
    }
}

/// A request for the keys given, where one key is all that may exist.
fn with_one_key(state: &State, entries: &[(&str, u32)]) -> Command {
    state.advance_command(entries, None, Limits { keys: 1, ..Limits::default() })
}

#[test]
fn the_cap_of_keys_counts_each_once_and_refuses_whole_requests() {
    let mut state = State::open();
    let batch = [&[("a", 1)][..], &[("b", 1)], &[("a", 2)], &[("a", 1), ("b", 1)], &[("a", 3)]]
        .map(|entries| with_one_key(&state, entries));
    let accepted: Vec<_> = state.apply(&batch).iter().map(Result::is_ok).collect();
    assert_eq!(accepted, [true, false, true, false, true]);
    assert_eq!(list(&state, "", "", 9), [(key("a"), 6)], "what was refused left a trace");
    let more = with_one_key(&state, &[("b", 1)]);
    assert_eq!(state.apply(&[more]), [Err(Reject::TooMany { what: Capped::Sequences, limit: 1 })]);
}

#[test]
fn a_key_that_was_never_used_has_no_value_and_is_not_listed() {
    let mut state = State::open();
    state.advance(&[("orders", 1)], None).unwrap();
    for name in ["order", "orders2", "Orders"] {
        assert_eq!(state.ask(&Query::Sequence(key(name))), Answer::Sequence(None));
    }
    assert_eq!(list(&state, "order", "", 9), [(key("orders"), 1)]);
}

#[test]
fn within_a_batch_a_seed_sees_what_came_before() {
    let mut state = State::open();
    let limits = Limits::default();
    let advance = state.advance_command(&[("a", 1)], None, limits);
    let results =
        state.apply(&[seed_command("a", 9, limits), advance, seed_command("a", 9, limits)]);
    assert_eq!(results[2], Err(Reject::SequenceExists { key: key("a"), next: 10 }));
}

#[test]
fn a_page_goes_on_where_the_one_before_ended_whatever_was_used_meanwhile() {
    let mut state = State::open();
    state.advance(&[("b", 1), ("d", 2), ("f", 3)], None).unwrap();
    assert_eq!(list(&state, "", "", 2), [(key("b"), 1), (key("d"), 2)]);
    state.advance(&[("a", 1), ("e", 5)], None).unwrap();
    assert_eq!(list(&state, "", "d", 2), [(key("e"), 5), (key("f"), 3)]);
    assert_eq!(list(&state, "", "f", 2), []);
}

/// Keys that are prefixes of each other, or end in the highest characters there are.
fn names() -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(vec!["a", "b", "é", "\u{10ffff}", "\0"]), 1..4)
        .prop_map(|parts| parts.concat())
}

proptest! {
    #[test]
    fn pages_together_are_what_a_plain_map_holds(
        used in prop::collection::btree_map(names(), 1..9u32, 0..30),
        prefix in prop_oneof![Just(String::new()), names()],
        limit in 1..5usize,
    ) {
        let mut state = State::open();
        for (name, count) in &used {
            state.advance(&[(name, *count)], None).unwrap();
        }
        let (mut listed, mut after) = (BTreeMap::new(), String::new());
        loop {
            let page = list(&state, &prefix, &after, limit);
            let Some((last, _)) = page.last() else { break };
            prop_assert!(page.len() <= limit && page.is_sorted());
            after = last.as_str().into();
            for (name, next) in page {
                prop_assert_eq!(listed.insert(String::from(name), next), None, "listed twice");
            }
        }
        let begins = used.into_iter().filter(|(name, _)| name.starts_with(&prefix));
        let expected: BTreeMap<_, _> = begins.map(|(name, n)| (name, u64::from(n))).collect();
        prop_assert_eq!(listed, expected);
    }
}

#[test]
fn a_deleted_sequence_is_as_if_never_used() {
    let mut state = State::open();
    let delete = |name| Command::Delete { key: key(name) };
    let unknown = || Err(Reject::SequenceUnknown { key: key("a") });
    assert_eq!(state.apply(&[delete("a")]), [unknown()]);
    let id = id(1, 1, 1);
    state.advance(&[("a", 5), ("b", 1)], Some(id)).unwrap();
    let named = state.named_command(&[("a", 2)], "n", 1_000, Limits::default());
    let before = state.apply(slice::from_ref(&named));
    // A commit may delete a key, use it again, and delete it once more.
    let again = state.advance_command(&[("a", 3)], None, Limits::default());
    let results = state.apply(&[delete("a"), delete("a"), again.clone(), delete("a"), again]);
    assert_eq!(results[0], Ok(Reply::Deleted(7)));
    assert_eq!(results[1], unknown());
    assert_eq!(results[2], results[4]);
    assert_eq!(results[3], Ok(Reply::Deleted(3)));
    assert_eq!(state.ask(&Query::Sequence(key("a"))), Answer::Sequence(Some(3)));
    // Requests of before get their blocks of before.
    let repeated = state.advance(&[("a", 5), ("b", 1)], Some(id)).unwrap();
    assert_eq!(repeated[0].start, 0);
    assert_eq!(state.apply(&[named]), before);
    // It can be seeded, and its place under the cap is free.
    state.apply(&[delete("b")]).remove(0).unwrap();
    let limits = Limits { keys: 2, ..Limits::default() };
    let results = state.apply(&[seed_command("b", 9, limits), seed_command("c", 9, limits)]);
    assert_eq!(
        results,
        [Ok(Reply::Seeded(9)), Err(Reject::TooMany { what: Capped::Sequences, limit: 2 })]
    );
    let late = state.apply_as(Epoch(0), &[delete("a")]);
    assert_eq!(late, [Err(Reject::Fenced { current: state.epoch })]);
}
