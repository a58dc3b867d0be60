use proptest::prelude::*;

use super::testing::*;
use super::*;

const NOTHING: [&str; 0] = [];

fn deletion(start_ns: u64, end_ns: u64, outcome: Outcome<Next>) -> Operation {
    operation(start_ns, end_ns, Call::DeleteSeq { key: "k".into(), outcome })
}

/// Key `k` was deleted, and stood there.
fn deleted(start_ns: u64, end_ns: u64, next: u64) -> Operation {
    deletion(start_ns, end_ns, Outcome::Answered(Next { next, epoch: Some(Epoch(1)) }))
}

#[test]
fn a_deleted_key_begins_again() {
    let history = [
        seq(1, 2, 0, 3),
        deleted(3, 4, 3),
        seq(5, 6, 0, 2),
        read(7, 8, "k", 2),
        deleted(9, 10, 2),
        read(11, 12, "k", 0),
        seq(13, 14, 0, 1),
    ];
    assert_eq!(broken(&history), NOTHING);
}

#[test]
fn a_deleted_key_begins_where_it_was_seeded() {
    let history = [seq(1, 2, 0, 3), deleted(3, 4, 3), read(5, 6, "k", 70), seq(7, 8, 70, 1)];
    assert_eq!(broken(&history), NOTHING);
}

fn seeded(start_ns: u64, end_ns: u64, start: u64) -> Operation {
    let outcome = Outcome::Answered(Next { next: start, epoch: Some(Epoch(1)) });
    operation(start_ns, end_ns, Call::SeedSeq { key: "k".into(), outcome })
}

#[test]
fn a_seeded_key_begins_there() {
    let before = [seq(1, 2, 0, 3), deleted(3, 4, 3), read(5, 6, "k", 0), seeded(7, 8, 70)];
    let after = |operation| broken(&[&before[..], &[operation]].concat());
    assert_eq!(after(seq(9, 10, 70, 1)), NOTHING);
    assert_eq!(after(seq(9, 10, 71, 1)), ["G3 gapless"]);
    assert_eq!(after(seq(9, 10, 0, 1)), ["G3 disjoint", "G3 order"]);
    assert_eq!(after(read(9, 10, "k", 3)), ["G3 disjoint", "G3 order"]);
    assert_eq!(after(seeded(9, 10, 70)), ["G3 disjoint", "G3 order"], "it was seeded already");
    // What came before it was asked of a key that began at 0.
    assert_eq!(broken(&[seq(1, 2, 0, 1), seeded(3, 4, 70)]), ["G3 disjoint", "G3 order"]);
    let refused = asked(1, 2, &[("k", 8)], Outcome::Refused("RESOURCE_EXHAUSTED".into()));
    assert_eq!(broken(&[refused, seeded(3, 4, 70), read(5, 6, "k", 70)]), NOTHING);
    let doubt = Call::SeedSeq { key: "k".into(), outcome: Outcome::Uncertain("CANCELLED".into()) };
    let doubt = operation(3, 4, doubt);
    assert_eq!(broken(&[read(1, 2, "k", 0), doubt, seq(5, 6, 70, 1)]), NOTHING);
    assert!(before[3].to_string().contains("SeedSeq(k) = 70, epoch 1"), "{}", before[3]);
}

#[test]
fn blocks_are_granted_again_after_a_deletion_only() {
    let history = [seq(1, 2, 0, 3), seq(5, 6, 0, 3)];
    assert_eq!(broken(&history), ["G3 disjoint", "G3 order"]);
    let refused = deletion(3, 4, Outcome::Refused("Unavailable".into()));
    assert_eq!(broken(&[&history[..], &[refused]].concat()), ["G3 disjoint", "G3 order"]);
    let other = Call::DeleteSeq {
        key: "l".into(),
        outcome: Outcome::Answered(Next { next: 0, epoch: None }),
    };
    assert_eq!(
        broken(&[&history[..], &[operation(3, 4, other)]].concat()),
        ["G3 disjoint", "G3 order"]
    );
    assert_eq!(broken(&[&history[..], &[deleted(3, 4, 3)]].concat()), NOTHING);
}

#[test]
fn within_a_life_nothing_is_granted_twice() {
    let history = [deleted(1, 2, 0), seq(3, 9, 0, 3), seq(3, 9, 1, 2)];
    assert_eq!(broken(&history), ["G3 disjoint"]);
}

#[test]
fn a_deletion_that_was_answered_and_not_made() {
    let history = [seq(1, 2, 0, 3), deleted(3, 4, 3), seq(5, 6, 3, 1)];
    assert_eq!(broken(&history), ["G3 gapless"]);
}

#[test]
fn a_deletion_tells_where_the_key_stood() {
    assert_eq!(broken(&[seq(1, 2, 0, 3), deleted(3, 4, 2)]), ["G3 disjoint", "G3 order"]);
    assert_eq!(broken(&[seq(1, 2, 0, 3), deleted(3, 4, 0)]), ["G3 order"]);
    assert_eq!(broken(&[seq(1, 2, 0, 3), deleted(3, 4, 4)]), ["G3 gapless"]);
    assert_eq!(broken(&[uncertain(1, 2, 1), deleted(3, 4, 4)]), NOTHING, "it may have met it");
}

#[test]
fn what_was_lost_before_a_deletion_fills_no_gap_after_it() {
    let lost = [seq(1, 2, 0, 1), seq(3, 4, 1, 1).with_id("1"), deleted(5, 6, 2)];
    assert_eq!(broken(&[&lost[..], &[seq(7, 8, 1, 1)]].concat()), ["G3 gapless"]);
}

#[test]
fn a_request_that_is_sent_again_keeps_its_block_of_before() {
    let before = [seq(1, 2, 0, 3).with_id("name"), deleted(3, 4, 3)];
    let history = [&before[..], &[seq(5, 6, 0, 3).with_id("name"), seq(7, 8, 0, 1)]].concat();
    assert_eq!(broken(&history), NOTHING);
    // The same numbers, but they were granted again: the next ones show it.
    let history = [&before[..], &[seq(5, 6, 0, 3).with_id("name"), seq(7, 8, 3, 1)]].concat();
    assert_eq!(broken(&history), ["G3 gapless"]);
    let history = [&before[..], &[seq(5, 6, 0, 2), seq(7, 8, 2, 3).with_id("name")]].concat();
    assert_eq!(broken(&history), ["G3 exactly once"]);
}

#[test]
fn from_a_deletion_in_doubt_on_a_key_is_not_judged() {
    let wrong = [seq(7, 8, 9, 1), read(9, 10, "k", 3)];
    for doubt in [
        vec![deletion(5, 6, Outcome::Uncertain("Unavailable".into()))],
        vec![deleted(5, 8, 3)],
        vec![deleted(5, 6, 3), deleted(6, 7, 0)],
        vec![deleted(5, 6, 3), seq(5, 9, 0, 1).with_id("1")],
    ] {
        let history = [&[seq(1, 2, 0, 3)][..], &doubt, &wrong].concat();
        assert_eq!(broken(&history), NOTHING, "{history:?}");
        // What had ended before is.
        let history = [&[seq(1, 2, 0, 3), seq(3, 4, 4, 1)][..], &doubt, &wrong].concat();
        assert_eq!(broken(&history), ["G3 gapless"], "{history:?}");
    }
    // What began before may have been first.
    let doubt = deletion(5, 6, Outcome::Uncertain("Unavailable".into()));
    let history = [seq(1, 9, 0, 3), seq(2, 3, 3, 1), doubt];
    assert_eq!(broken(&history), NOTHING);
    // Other keys of a batch are.
    let doubt = deletion(5, 6, Outcome::Uncertain("Unavailable".into()));
    let history = [batch(1, 2, &[("l", 0, 1)]), doubt, batch(7, 8, &[("k", 9, 1), ("l", 2, 1)])];
    assert_eq!(broken(&history), ["G3 gapless"]);
}

/// What an oracle that does everything at once did at some moment, and how long before and after that the
/// call was sent and answered.
#[derive(Clone, Copy, Debug)]
struct Step {
    what: u8,
    before: u64,
    after: u64,
    lost: bool,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let extent = || prop_oneof![3 => Just(3_u64), 1 => 3..40_u64];
    let step = (0..13_u8, extent(), extent(), prop::bool::weighted(0.1));
    let step = step.prop_map(|(what, before, after, lost)| Step { what, before, after, lost });
    prop::collection::vec(step, 0..40)
}

/// The history of these steps, ten apart.
fn carried_out(steps: &[Step]) -> Vec<Operation> {
    let (mut next, mut named) = ([0_u64; 2], [None; 3]);
    let mut history = vec![];
    for (moment, step) in (1..).map(|number| number * 10 + 50).zip(steps) {
        let (start_ns, end_ns) = (moment - step.before, moment + step.after);
        let take = |next: &mut u64, count: u32| {
            let start = *next;
            *next += u64::from(count);
            start
        };
        let mut done = match step.what {
            0..4 => seq(start_ns, end_ns, take(&mut next[0], 2), 2),
            4..6 => {
                let blocks = [("k", take(&mut next[0], 1), 1), ("l", take(&mut next[1], 3), 3)];
                batch(start_ns, end_ns, &blocks)
            }
            6..9 => {
                let name = usize::from(step.what) - 6;
                let start = *named[name].get_or_insert_with(|| take(&mut next[0], 1));
                seq(start_ns, end_ns, start, 1).with_id(["a", "b", "c"][name])
            }
            9 => read(start_ns, end_ns, "k", next[0]),
            10 if next[0] == 0 => {
                next[0] = 7;
                seeded(start_ns, end_ns, 7)
            }
            _ => deleted(start_ns, end_ns, std::mem::take(&mut next[0])),
        };
        if step.lost {
            let why = "Unavailable".into();
            match &mut done.call {
                Call::GetSeq { outcome, .. } => *outcome = Outcome::Uncertain(why),
                Call::SeedSeq { outcome, .. } | Call::DeleteSeq { outcome, .. } => {
                    *outcome = Outcome::Uncertain(why);
                }
                _ => {}
            }
        }
        history.push(done);
    }
    history
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn a_history_of_a_right_oracle_passes(steps in steps()) {
        prop_assert_eq!(broken(&carried_out(&steps)), NOTHING);
    }
}

#[test]
fn a_deletion_is_read_as_it_was_written() {
    let history = [deleted(1, 2, 3), deletion(1, 2, Outcome::Uncertain("CANCELLED".into()))];
    let mut text = Vec::new();
    for operation in &history {
        write_line(&mut text, operation).unwrap();
    }
    assert_eq!(read_lines(text.as_slice()).unwrap(), history);
    assert!(history[0].to_string().contains("DeleteSeq(k) = 3, epoch 1"), "{}", history[0]);
}
