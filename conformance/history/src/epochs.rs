use std::collections::BTreeMap;

use tsoracle_types::Epoch;

use super::{
    Call, Check, Operation, Outcome,
    order::{Span, each_after_greatest},
    timestamps,
};

/// A part of an answer that has a place in an order of values.
struct Placed<'a> {
    epoch: Epoch,
    operation: &'a Operation,
}

pub(super) fn check(operations: &[Operation]) -> [Check; 2] {
    [in_time(operations), in_order(operations)]
}

fn in_time(operations: &[Operation]) -> Check {
    let promise = "a call answered before another is sent does not have the later epoch";
    let mut check = Check::new("epochs in time", promise);
    let answers: Vec<(Epoch, &Operation)> =
        operations.iter().filter_map(|one| Some((one.epoch()?, one))).collect();
    check.saw(answers.len());
    each_after_greatest(&answers, |(_, operation)| Span::of(operation), |(epoch, _)| *epoch, {
        |(before, earlier), (after, later)| {
            if before > after {
                check.violated(&[earlier, later], || {
                    format!("epoch {before} was answered before the call that got epoch {after}")
                });
            }
        }
    });
    check
}

fn in_order(operations: &[Operation]) -> Check {
    let promise = "a later epoch issues only larger timestamps, and blocks further on";
    let mut check = Check::new("epochs in order", promise);
    let mut grants: Vec<_> = timestamps::grants(operations).collect();
    grants.sort_by_key(|grant| grant.range.first());
    rising(
        &mut check,
        grants
            .iter()
            .filter_map(|grant| Some(Placed { epoch: grant.epoch?, operation: grant.operation })),
    );
    for mut blocks in blocks_by_key(operations).into_values() {
        blocks.sort_by_key(|(start, _)| *start);
        rising(&mut check, blocks.into_iter().map(|(_, placed)| placed));
    }
    check
}

/// The blocks with their first values, where the answer's epoch is certainly the one that committed
/// them: a request that is sent again is answered by the leader of that time.
fn blocks_by_key(operations: &[Operation]) -> BTreeMap<&str, Vec<(u64, Placed<'_>)>> {
    let mut keys: BTreeMap<&str, Vec<(u64, Placed<'_>)>> = BTreeMap::new();
    for operation in operations {
        let Call::GetSeq { request_id: None, outcome: Outcome::Answered(answer), .. } =
            &operation.call
        else {
            continue;
        };
        let Some(epoch) = answer.epoch else { continue };
        for block in &answer.blocks {
            keys.entry(&block.key).or_default().push((block.start, Placed { epoch, operation }));
        }
    }
    keys
}

/// `placed` is in the order of values.
fn rising<'a>(check: &mut Check, placed: impl Iterator<Item = Placed<'a>>) {
    let mut greatest: Option<Placed<'_>> = None;
    for next in placed {
        check.saw(1);
        match &greatest {
            Some(before) if before.epoch > next.epoch => {
                check.violated(&[before.operation, next.operation], || {
                    let (above, below) = (next.epoch, before.epoch);
                    format!("epoch {above} issued above what the later epoch {below} had issued")
                });
            }
            _ => greatest = Some(next),
        }
    }
}
