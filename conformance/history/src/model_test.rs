//! Histories of a correct oracle pass; with one corruption each they do not.

use proptest::prelude::*;
use proptest::sample::Index;

use super::testing::*;
use super::*;

const KEYS: [&str; 3] = ["k", "l", "m"];

/// One step of an oracle that does everything at once and in order.
#[derive(Clone, Debug)]
struct Step {
    what: What,
    /// How long before and after the moment of its effect the call was sent and answered.
    before: u64,
    after: u64,
    /// The answer never came.
    lost: bool,
    /// The same request is sent again that much later, and answered with the same block.
    again: Option<u64>,
    new_epoch: bool,
}

#[derive(Clone, Debug)]
enum What {
    GetTs(u32),
    /// The keys as bits, and how many values of each.
    GetSeq(u8, u32),
    ReadSeq(usize),
    /// It is refused, or lost without ever being carried out.
    Nothing(u32),
}

fn step(doubts: bool) -> impl Strategy<Value = Step> {
    let what = prop_oneof![
        4 => (1..5u32).prop_map(What::GetTs),
        4 => (1..8u8, 1..5u32).prop_map(|(keys, count)| What::GetSeq(keys, count)),
        1 => (0..KEYS.len()).prop_map(What::ReadSeq),
        1 => (1..5u32).prop_map(What::Nothing),
    ];
    let lost = prop::bool::weighted(if doubts { 0.15 } else { 0.0 });
    let again = prop::option::weighted(0.2, 1..100u64);
    (what, 0..100u64, 0..100u64, lost, again, prop::bool::weighted(0.05)).prop_map(
        |(what, before, after, lost, again, new_epoch)| Step {
            what,
            before,
            after,
            lost,
            again,
            new_epoch,
        },
    )
}

fn history(doubts: bool) -> impl Strategy<Value = Vec<Operation>> {
    prop::collection::vec(step(doubts), 1..80).prop_map(|steps| carry_out(&steps)).prop_shuffle()
}

#[derive(Default)]
struct Model {
    history: Vec<Operation>,
    logical: u32,
    next: [u64; KEYS.len()],
    epoch: u128,
}

fn carry_out(steps: &[Step]) -> Vec<Operation> {
    let mut model = Model { epoch: 1, ..Model::default() };
    for (number, step) in steps.iter().enumerate() {
        // Up to ten steps away, calls overlap.
        let moment = 1_000 + 10 * number as u64;
        model.epoch += u128::from(step.new_epoch);
        model.carry_out(number, step, moment);
    }
    model.history
}

impl Model {
    fn carry_out(&mut self, number: usize, step: &Step, moment: u64) {
        let (start_ns, end_ns) = (moment - step.before, moment + step.after);
        match step.what {
            What::GetTs(count) => {
                if !step.lost {
                    let answered = ts(start_ns, end_ns, self.logical, count);
                    self.history.push(answered.with_epoch(self.epoch));
                }
                self.logical += count;
            }
            What::GetSeq(bits, count) => {
                let chosen = (0..KEYS.len()).filter(|key| bits & (1 << key) != 0);
                let blocks: Vec<_> = chosen
                    .map(|key| {
                        self.next[key] += u64::from(count);
                        (KEYS[key], self.next[key] - u64::from(count), count)
                    })
                    .collect();
                self.granted(number, step, (start_ns, end_ns), &blocks);
            }
            What::ReadSeq(key) => {
                let answered = read(start_ns, end_ns, KEYS[key], self.next[key]);
                self.history.push(answered.with_epoch(self.epoch));
            }
            What::Nothing(count) => {
                let why = "UNAVAILABLE".into();
                let outcome =
                    if step.lost { Outcome::Uncertain(why) } else { Outcome::Refused(why) };
                self.history.push(asked(start_ns, end_ns, &[("k", count)], outcome));
            }
        }
    }

    fn granted(
        &mut self,
        number: usize,
        step: &Step,
        (start_ns, end_ns): (u64, u64),
        blocks: &[(&str, u64, u32)],
    ) {
        let named = |operation: Operation| match step.again {
            Some(_) => operation.with_id(&number.to_string()),
            None => operation,
        };
        let first = if step.lost {
            let keys: Vec<_> = blocks.iter().map(|&(key, _, count)| (key, count)).collect();
            asked(start_ns, end_ns, &keys, Outcome::Uncertain("CANCELLED".into()))
        } else {
            batch(start_ns, end_ns, blocks).with_epoch(self.epoch)
        };
        self.history.push(named(first));
        if let Some(later) = step.again {
            // Its epoch is that of the answering leader; the one of the first answer will do.
            let again = batch(end_ns + later, end_ns + 2 * later, blocks);
            self.history.push(named(without_epoch(again)));
        }
    }
}

fn without_epoch(mut operation: Operation) -> Operation {
    let Call::GetSeq { outcome: Outcome::Answered(answer), .. } = &mut operation.call else {
        panic!("{operation}")
    };
    answer.epoch = None;
    operation
}

/// The positions of what `wanted` accepts.
fn positions(history: &[Operation], wanted: impl Fn(&Operation) -> bool) -> Vec<usize> {
    (0..history.len()).filter(|&at| wanted(&history[at])).collect()
}

fn grant(operation: &Operation) -> Option<TimestampRange> {
    match &operation.call {
        Call::GetTs { outcome: Outcome::Answered(answer), .. } => answer.range(),
        _ => None,
    }
}

/// The blocks of a request that was sent once.
fn single(operation: &Operation) -> Option<&Blocks> {
    match &operation.call {
        Call::GetSeq { request_id: None, outcome: Outcome::Answered(answer), .. } => Some(answer),
        _ => None,
    }
}

/// Two different ones of `among`, if there are.
fn two(among: &[usize], (one, other): (Index, Index)) -> Option<(usize, usize)> {
    let (one, other) = (one.get(among.get(..)?), other.get(among));
    (one != other).then_some((*one, *other))
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(400))]

    #[test]
    fn what_a_correct_oracle_answers_passes(history in history(true)) {
        prop_assert_eq!(broken(&history), Vec::<&str>::new());
    }

    #[test]
    fn a_timestamp_issued_again_is_caught(mut history in history(true), which: (Index, Index)) {
        let grants = positions(&history, |one| grant(one).is_some());
        prop_assume!(grants.len() > 1);
        let Some((from, to)) = two(&grants, which) else { return Ok(()) };
        history[to].call = history[from].call.clone();
        prop_assert!(broken(&history).contains(&"G2 unique"));
    }

    #[test]
    fn a_timestamp_that_comes_late_is_caught(mut history in history(true), which: (Index, Index)) {
        let grants = positions(&history, |one| grant(one).is_some());
        prop_assume!(grants.len() > 1);
        let Some((low, high)) = two(&grants, which) else { return Ok(()) };
        let first = |at: usize| grant(&history[at]).map(|range| range.first());
        let (low, high) = if first(low) < first(high) { (low, high) } else { (high, low) };
        history[low].start_ns = history[high].end_ns + 1;
        history[low].end_ns = history[low].start_ns + 1;
        prop_assert!(broken(&history).contains(&"G1 order"));
    }

    #[test]
    fn a_block_granted_again_is_caught(mut history in history(true), which: (Index, Index)) {
        let blocks = positions(&history, |one| single(one).is_some());
        prop_assume!(blocks.len() > 1);
        let Some((from, to)) = two(&blocks, which) else { return Ok(()) };
        history[to].call = history[from].call.clone();
        prop_assert!(broken(&history).contains(&"G3 disjoint"));
    }

    #[test]
    fn a_block_that_nobody_got_is_caught(mut history in history(false), which: Index) {
        // Not the last one of any of its keys.
        let blocks = positions(&history, |one| single(one).is_some_and(|answer| {
            answer.blocks.iter().any(|block| {
                history.iter().filter_map(single).any(|other| other.blocks.iter().any(|later| {
                    later.key == block.key && later.start > block.start
                }))
            })
        }));
        prop_assume!(!blocks.is_empty());
        let lost = *which.get(&blocks);
        let Call::GetSeq { outcome, .. } = &mut history[lost].call else { unreachable!() };
        *outcome = Outcome::Refused("RESOURCE_EXHAUSTED".into());
        let broken = broken(&history);
        prop_assert!(broken.contains(&"G3 gapless") && broken.contains(&"G3 refusals"));
    }

    #[test]
    fn a_read_of_what_was_never_granted_is_caught(mut history in history(true), which: Index) {
        // A read before all requests would say where the key starts.
        let reads = positions(&history, |one| match &one.call {
            Call::ReadSeq { key, .. } => history.iter().any(|other| match &other.call {
                Call::GetSeq { ask, .. } => {
                    other.start_ns <= one.end_ns && ask.iter().any(|ask| ask.key == *key)
                }
                _ => false,
            }),
            _ => false,
        });
        prop_assume!(!reads.is_empty());
        let Call::ReadSeq { outcome: Outcome::Answered(answer), .. } =
            &mut history[*which.get(&reads)].call
        else {
            unreachable!()
        };
        answer.next += 1_000_000;
        prop_assert!(broken(&history).contains(&"G3 gapless"));
    }

    #[test]
    fn another_answer_to_the_same_request_is_caught(mut history in history(true), which: Index) {
        let second = positions(&history, |one| match &one.call {
            Call::GetSeq { request_id: Some(id), outcome: Outcome::Answered(_), .. } => {
                let same = |other: &&Operation| match &other.call {
                    Call::GetSeq { request_id, outcome: Outcome::Answered(_), .. } => {
                        request_id.as_ref() == Some(id)
                    }
                    _ => false,
                };
                history.iter().filter(same).count() > 1
            }
            _ => false,
        });
        prop_assume!(!second.is_empty());
        let Call::GetSeq { outcome: Outcome::Answered(answer), .. } =
            &mut history[*which.get(&second)].call
        else {
            unreachable!()
        };
        answer.blocks[0].start += 1;
        prop_assert!(broken(&history).contains(&"G3 exactly once"));
    }

    #[test]
    fn an_epoch_that_goes_back_is_caught(mut history in history(true), which: Index) {
        let later = positions(&history, |one| {
            one.epoch().is_some() && history.iter().any(|other| {
                other.epoch().is_some() && other.end_ns < one.start_ns
            })
        });
        prop_assume!(!later.is_empty());
        let at = *which.get(&later);
        history[at] = history[at].clone().with_epoch(0);
        prop_assert!(broken(&history).contains(&"epochs in time"));
    }
}

/// A call of one key, as small as it gets.
#[derive(Clone, Copy, Debug)]
enum Small {
    Block(u64, u32),
    Read(u64),
    Doubt(u32),
}

fn small() -> impl Strategy<Value = Vec<(u64, u64, Small)>> {
    let one = prop_oneof![
        4 => (0..6u64, 1..3u32).prop_map(|(start, count)| Small::Block(start, count)),
        1 => (0..6u64).prop_map(Small::Read),
        2 => (1..3u32).prop_map(Small::Doubt),
    ];
    let timed = (0..12u64, 0..8u64, one).prop_map(|(start, long, one)| (start, start + long, one));
    prop::collection::vec(timed, 1..6)
}

/// Whether some order explains `calls`, found by trying all: from `next` on, with those in `done`
/// carried out.
fn explained(calls: &[(u64, u64, Small)], done: u32, next: u64) -> bool {
    let is_done = |at: usize| done & (1 << at) != 0;
    let doubtful = |at: usize| matches!(calls[at].2, Small::Doubt(_));
    if (0..calls.len()).all(|at| is_done(at) || doubtful(at)) {
        return true;
    }
    (0..calls.len()).filter(|&at| !is_done(at)).any(|at| {
        let (start, _, call) = calls[at];
        // No later operation has ended before it began.
        let waits = (0..calls.len()).any(|other| {
            other != at && !is_done(other) && !doubtful(other) && calls[other].1 < start
        });
        let after = match call {
            Small::Block(from, count) if from == next => next + u64::from(count),
            Small::Read(from) if from == next => next,
            Small::Doubt(count) => next + u64::from(count),
            Small::Block(..) | Small::Read(_) => return false,
        };
        !waits && explained(calls, done | 1 << at, after)
    })
}

/// What was read before anything was asked for, else 0.
fn origin(calls: &[(u64, u64, Small)]) -> u64 {
    let asks = calls.iter().filter(|call| !matches!(call.2, Small::Read(_)));
    let first = asks.map(|call| call.0).min().unwrap_or(u64::MAX);
    let reads = calls.iter().filter_map(|&(_, end, call)| match call {
        Small::Read(next) if end < first => Some(next),
        _ => None,
    });
    reads.min().unwrap_or(0)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(4_000))]

    #[test]
    fn one_key_passes_exactly_if_some_order_explains_it(calls in small()) {
        let history: Vec<_> = calls.iter().map(|&(start, end, call)| match call {
            Small::Block(from, count) => seq(start, end, from, count),
            Small::Read(next) => read(start, end, "k", next),
            Small::Doubt(count) => uncertain(start, end, count),
        }).collect();
        let report = check(&history);
        prop_assert_eq!(report.held(), explained(&calls, 0, origin(&calls)), "{:?}", report);
    }
}
