use std::collections::BTreeMap;

use super::{
    Ask, Call, Check, Operation, Outcome, gapless,
    key::{Key, Keys, Piece},
    order::{Span, each_after_greatest},
    request::{Request, requests},
};

pub(super) fn check(operations: &[Operation]) -> Vec<Check> {
    let requests = requests(operations);
    let keys = keys(operations, &requests);
    let mut checks = vec![as_asked(&requests), disjoint(&keys), order(&keys), once(&requests)];
    checks.extend(gapless::check(&requests, &keys));
    checks
}

fn keys<'a>(operations: &'a [Operation], requests: &[Request<'a>]) -> Keys<'a> {
    let mut keys = Keys::new();
    for request in requests {
        for ask in request.ask {
            keys.entry(&ask.key).or_default().requested(request.start_ns);
        }
        let (Some(span), Some(granted)) = (request.span(), request.granted()) else { continue };
        let operation = request.answers[0].operation;
        for (ask, from) in granted {
            let to = from.saturating_add(ask.count.into());
            keys.entry(&ask.key).or_default().pieces.push(Piece { from, to, span, operation });
        }
    }
    for operation in operations {
        let span = Span::of(operation);
        match &operation.call {
            // A deletion tells where the key stood, as a read does.
            Call::ReadSeq { key, outcome: Outcome::Answered(read) }
            | Call::DeleteSeq { key, outcome: Outcome::Answered(read) } => {
                let piece = Piece { from: read.next, to: read.next, span, operation };
                keys.entry(key).or_default().pieces.push(piece);
            }
            // The values below a seed are taken by it.
            Call::SeedSeq { key, outcome: Outcome::Answered(seed) } => {
                let piece = Piece { from: 0, to: seed.next, span, operation };
                keys.entry(key).or_default().pieces.push(piece);
            }
            Call::GetSeq { ask, outcome: Outcome::Refused(_), .. } => {
                for Ask { key, count } in ask {
                    let key = keys.entry(key).or_default();
                    key.requested(operation.start_ns);
                    key.refused.push((*count, operation));
                }
            }
            _ => {}
        }
    }
    keys.values_mut().for_each(Key::sort);
    keys
}

fn as_asked(requests: &[Request<'_>]) -> Check {
    let promise =
        "an answer holds a block for each key, in the order asked, of the count asked for";
    let mut check = Check::new("G3 as asked", promise);
    for request in requests {
        for answer in &request.answers {
            check.saw(1);
            let answered = answer.blocks.blocks.iter().map(|block| (&block.key, block.count));
            let asked = request.ask.iter().map(|ask| (&ask.key, ask.count));
            if !answered.eq(asked) {
                let what = || "the blocks are not those that were asked for".into();
                check.violated(&[answer.operation], what);
            }
        }
    }
    check
}

fn disjoint(keys: &Keys<'_>) -> Check {
    let promise = "no value of a key is granted twice, and no block is seen half granted";
    let mut check = Check::new("G3 disjoint", promise);
    for (key, seen) in keys {
        let mut greatest: Option<&Piece<'_>> = None;
        for piece in &seen.pieces {
            check.saw(1);
            if let Some(before) = greatest.filter(|before| before.to > piece.from) {
                check.violated(&[before.operation, piece.operation], || {
                    let from = piece.from;
                    if piece.is_read() {
                        format!("{key}: read to be at {from}, in the middle of a block")
                    } else {
                        format!("{key}: {from} was granted twice")
                    }
                });
            }
            if greatest.is_none_or(|before| before.to <= piece.to) {
                greatest = Some(piece);
            }
        }
    }
    check
}

fn order(keys: &Keys<'_>) -> Check {
    let promise = "a call answered before another is sent gets the lower values of a key";
    let mut check = Check::new("G3 order", promise);
    for (key, seen) in keys {
        check.saw(seen.pieces.len());
        each_after_greatest(
            &seen.pieces,
            |piece| piece.span,
            |piece| piece.to,
            |before, after| {
                if before.to > after.from {
                    check.violated(&[before.operation, after.operation], || {
                        let (to, from) = (before.to, after.from);
                        format!(
                            "{key}: was at {to} before the call that found it at {from} was sent"
                        )
                    });
                }
            },
        );
    }
    check
}

fn once(requests: &[Request<'_>]) -> Check {
    let promise = "the same request id gets the same block, however often and wherever it is sent";
    let mut check = Check::new("G3 exactly once", promise);
    let mut answered = BTreeMap::new();
    for request in requests {
        let Some(id) = request.request_id else { continue };
        for answer in &request.answers {
            check.saw(1);
            let first = *answered.entry(id).or_insert(*answer);
            if first.blocks.blocks != answer.blocks.blocks {
                check.violated(&[first.operation, answer.operation], || {
                    format!("request {id} was answered with other blocks the second time")
                });
            }
        }
    }
    check
}
