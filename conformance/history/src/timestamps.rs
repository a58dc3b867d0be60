use tsoracle_types::{Epoch, TimestampRange};

use super::{
    Call, Check, Operation, Outcome, Timestamps,
    order::{Span, each_after_greatest},
};

/// A sound answer to a call for timestamps.
pub(super) struct Grant<'a> {
    pub(super) range: TimestampRange,
    pub(super) epoch: Option<Epoch>,
    pub(super) operation: &'a Operation,
}

pub(super) fn check(operations: &[Operation]) -> [Check; 3] {
    let grants: Vec<_> = grants(operations).collect();
    [order(&grants), unique(&grants), contiguous(operations)]
}

/// Every sound answer.
pub(super) fn grants(operations: &[Operation]) -> impl Iterator<Item = Grant<'_>> {
    answers(operations).filter_map(|(operation, _, answer)| {
        Some(Grant { range: answer.range()?, epoch: answer.epoch, operation })
    })
}

fn answers(operations: &[Operation]) -> impl Iterator<Item = (&Operation, u32, &Timestamps)> {
    operations.iter().filter_map(|operation| match &operation.call {
        Call::GetTs { count, outcome: Outcome::Answered(answer) } => {
            Some((operation, *count, answer))
        }
        _ => None,
    })
}

fn order(grants: &[Grant<'_>]) -> Check {
    let promise = "a call answered before another is sent gets only smaller timestamps";
    let mut check = Check::new("G1 order", promise);
    check.saw(grants.len());
    let last = |grant: &Grant<'_>| grant.range.last();
    each_after_greatest(
        grants,
        |grant| Span::of(grant.operation),
        last,
        |earlier, later| {
            if earlier.range.last() >= later.range.first() {
                check.violated(&[earlier.operation, later.operation], || {
                    let (last, first) = (earlier.range.last(), later.range.first());
                    format!("{last} was answered before the call for {first} was sent")
                });
            }
        },
    );
    check
}

fn unique(grants: &[Grant<'_>]) -> Check {
    let mut check = Check::new("G2 unique", "no timestamp is issued twice");
    check.saw(grants.len());
    let mut sorted: Vec<_> = grants.iter().collect();
    sorted.sort_by_key(|grant| grant.range.first());
    let mut greatest: Option<&Grant<'_>> = None;
    for grant in sorted {
        if let Some(before) = greatest.filter(|before| before.range.last() >= grant.range.first()) {
            check.violated(&[before.operation, grant.operation], || {
                format!("{} was issued twice", grant.range.first())
            });
        }
        if greatest.is_none_or(|before| before.range.last() < grant.range.last()) {
            greatest = Some(grant);
        }
    }
    check
}

fn contiguous(operations: &[Operation]) -> Check {
    let promise = "an answer holds as many timestamps as were asked for, of one millisecond";
    let mut check = Check::new("G2 contiguous", promise);
    for (operation, asked, answer) in answers(operations) {
        check.saw(1);
        if answer.count != asked {
            check.violated(&[operation], || {
                format!("{asked} timestamps were asked for, {} answered", answer.count)
            });
        } else if answer.range().is_none() {
            check.violated(&[operation], || "the timestamps leave their millisecond".into());
        }
    }
    check
}
