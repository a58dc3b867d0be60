use super::Operation;

/// When something happened.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) struct Span {
    /// It began then, or later.
    pub(super) start_ns: u64,
    /// It had ended then.
    pub(super) end_ns: u64,
}

/// For each of `items`, finds among those that had ended before it began the one of the greatest
/// `rank`, and calls `found(earlier, later)`.
///
/// If a later item must not rank below any earlier one, comparing these pairs is enough. Two sorts
/// and one pass.
pub(super) fn each_after_greatest<T, R: Ord>(
    items: &[T],
    span: impl Fn(&T) -> Span,
    rank: impl Fn(&T) -> R,
    mut found: impl FnMut(&T, &T),
) {
    let mut by_start: Vec<&T> = items.iter().collect();
    by_start.sort_by_key(|item| span(item).start_ns);
    let mut by_end: Vec<&T> = items.iter().collect();
    by_end.sort_by_key(|item| span(item).end_ns);
    let mut ended = by_end.into_iter().peekable();
    let mut greatest: Option<&T> = None;
    for later in by_start {
        let start_ns = span(later).start_ns;
        while let Some(item) = ended.next_if(|item| span(item).end_ns < start_ns) {
            if greatest.is_none_or(|so_far| rank(so_far) < rank(item)) {
                greatest = Some(item);
            }
        }
        if let Some(earlier) = greatest {
            found(earlier, later);
        }
    }
}

impl Span {
    pub(super) fn of(operation: &Operation) -> Self {
        Self { start_ns: operation.start_ns, end_ns: operation.end_ns }
    }
}
