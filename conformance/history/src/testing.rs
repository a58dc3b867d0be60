//! Short ways to write a history down.

use tsoracle_types::Epoch;

use super::{Ask, Block, Blocks, Call, Next, Operation, Outcome, Timestamps, check};

pub(super) fn operation(start_ns: u64, end_ns: u64, call: Call) -> Operation {
    Operation { caller: "a".into(), start_ns, end_ns, call }
}

/// `count` timestamps of millisecond 5, from position `logical` on, under epoch 1.
pub(super) fn ts(start_ns: u64, end_ns: u64, logical: u32, count: u32) -> Operation {
    let answer = Timestamps { physical_ms: 5, logical, count, epoch: Some(Epoch(1)) };
    operation(start_ns, end_ns, Call::GetTs { count, outcome: Outcome::Answered(answer) })
}

/// Asks for `count` values each of some keys.
pub(super) fn asked(
    start_ns: u64,
    end_ns: u64,
    keys: &[(&str, u32)],
    outcome: Outcome<Blocks>,
) -> Operation {
    let ask = keys.iter().map(|&(key, count)| Ask { key: key.into(), count }).collect();
    operation(start_ns, end_ns, Call::GetSeq { ask, request_id: None, outcome })
}

/// `blocks` are key, start and count.
pub(super) fn batch(start_ns: u64, end_ns: u64, blocks: &[(&str, u64, u32)]) -> Operation {
    let keys: Vec<_> = blocks.iter().map(|&(key, _, count)| (key, count)).collect();
    let block = |&(key, start, count): &(&str, u64, u32)| Block { key: key.into(), start, count };
    let blocks = blocks.iter().map(block).collect();
    let answer = Blocks { blocks, epoch: Some(Epoch(1)) };
    asked(start_ns, end_ns, &keys, Outcome::Answered(answer))
}

/// `count` values of key `k`, from `start` on.
pub(super) fn seq(start_ns: u64, end_ns: u64, start: u64, count: u32) -> Operation {
    batch(start_ns, end_ns, &[("k", start, count)])
}

/// `count` values of key `k` were requested, and the outcome is unknown.
pub(super) fn uncertain(start_ns: u64, end_ns: u64, count: u32) -> Operation {
    asked(start_ns, end_ns, &[("k", count)], Outcome::Uncertain("UNAVAILABLE".into()))
}

pub(super) fn read(start_ns: u64, end_ns: u64, key: &str, next: u64) -> Operation {
    let outcome = Outcome::Answered(Next { next, epoch: Some(Epoch(1)) });
    operation(start_ns, end_ns, Call::ReadSeq { key: key.into(), outcome })
}

impl Operation {
    pub(super) fn with_id(mut self, id: &str) -> Self {
        let Call::GetSeq { request_id, .. } = &mut self.call else { panic!("{self}") };
        *request_id = Some(id.into());
        self
    }

    pub(super) fn with_epoch(mut self, new: u128) -> Self {
        match &mut self.call {
            Call::GetTs { outcome: Outcome::Answered(answer), .. } => {
                answer.epoch = Some(Epoch(new))
            }
            Call::GetSeq { outcome: Outcome::Answered(answer), .. } => {
                answer.epoch = Some(Epoch(new))
            }
            Call::ReadSeq { outcome: Outcome::Answered(answer), .. } => {
                answer.epoch = Some(Epoch(new))
            }
            _ => panic!("{self}"),
        }
        self
    }
}

/// The promises that a history breaks.
pub(super) fn broken(operations: &[Operation]) -> Vec<&'static str> {
    let report = check(operations);
    for check in report.checks.iter().filter(|check| !check.held()) {
        for violation in &check.violations {
            println!("{}: {violation}", check.name);
        }
    }
    report.broken()
}
