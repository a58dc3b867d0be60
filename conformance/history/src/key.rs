use std::collections::BTreeMap;

use super::{Operation, gaps::Gap, order::Span};

/// What callers saw, by key.
pub(super) type Keys<'a> = BTreeMap<&'a str, Key<'a>>;

/// What callers saw of one key.
#[derive(Default)]
pub(super) struct Key<'a> {
    /// Blocks, and reads as blocks without values; see [`sort`](Self::sort).
    pub(super) pieces: Vec<Piece<'a>>,
    /// When the first request for it was sent, refused ones included.
    pub(super) first_request_ns: Option<u64>,
    /// Calls that certainly did not advance it, with the count they asked for.
    pub(super) refused: Vec<(u32, &'a Operation)>,
}

/// Values `from` to `to`, the latter excluded, which were granted; or, if there are none between, a
/// read that found the key there.
#[derive(Clone, Copy)]
pub(super) struct Piece<'a> {
    pub(super) from: u64,
    pub(super) to: u64,
    /// From the first time it was asked for to the first time it was answered.
    pub(super) span: Span,
    pub(super) operation: &'a Operation,
}

impl Piece<'_> {
    pub(super) fn is_read(&self) -> bool {
        self.from == self.to
    }
}

impl<'a> Key<'a> {
    pub(super) fn sort(&mut self) {
        self.pieces.sort_by_key(|piece| (piece.from, piece.to));
    }

    pub(super) fn requested(&mut self, start_ns: u64) {
        let first = self.first_request_ns.get_or_insert(start_ns);
        *first = start_ns.min(*first);
    }

    /// Where it stood before anybody asked: where a read found it before that, else 0. A piece below
    /// such a read is wrong, and leaves a gap that began too early to be filled.
    fn origin(&self) -> u64 {
        let before = |piece: &Piece<'_>| {
            piece.is_read() && self.first_request_ns.is_none_or(|first| piece.span.end_ns < first)
        };
        let lowest = self.pieces.first().map_or(0, |piece| piece.from);
        if self.pieces.iter().any(before) { lowest } else { 0 }
    }

    /// When the last of its pieces was asked for.
    pub(super) fn last_start_ns(&self) -> u64 {
        self.pieces.iter().map(|piece| piece.span.start_ns).max().unwrap_or(0)
    }

    /// The values that no block covers, up to the last piece. The pieces are sorted.
    pub(super) fn gaps(&self) -> Vec<Gap<'a>> {
        let mut deadlines: Vec<u64> = self
            .pieces
            .iter()
            .rev()
            .scan(u64::MAX, |earliest, piece| {
                *earliest = piece.span.end_ns.min(*earliest);
                Some(*earliest)
            })
            .collect();
        deadlines.reverse();
        let mut gaps = Vec::new();
        let mut next = self.origin();
        let mut before = None;
        let mut floor_ns = 0;
        for (piece, deadline_ns) in self.pieces.iter().zip(deadlines) {
            if piece.from > next {
                let after = piece.operation;
                gaps.push(Gap { from: next, to: piece.from, floor_ns, deadline_ns, before, after });
            }
            if piece.to >= next {
                next = piece.to;
                before = Some(piece.operation);
            }
            floor_ns = floor_ns.max(piece.span.start_ns);
        }
        gaps
    }
}
