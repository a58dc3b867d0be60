use super::Operation;

/// How many placements are tried before the search gives up.
const MAX_STEPS: usize = 2_000_000;

/// How many requests and gaps one explanation may hold: they nest.
const MAX_DEPTH: usize = 4_000;

/// Values that no answered block covers.
#[derive(Clone, Copy)]
pub(super) struct Gap<'a> {
    pub(super) from: u64,
    pub(super) to: u64,
    /// What fills it took effect after this: the latest start among the pieces below.
    pub(super) floor_ns: u64,
    /// What fills it began by this: the earliest end among the pieces above.
    pub(super) deadline_ns: u64,
    pub(super) before: Option<&'a Operation>,
    pub(super) after: &'a Operation,
}

/// A request that may have been carried out.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Doubt {
    /// Per key, by its number: how many values it asked for.
    pub(super) parts: Vec<(usize, u32)>,
    pub(super) start_ns: u64,
}

impl Gap<'_> {
    /// Whether there are values enough in doubt; `doubts` have one key, that of the gap.
    pub(super) fn might_be_filled(&self, doubts: &[Doubt]) -> bool {
        let began = doubts.iter().filter(|doubt| doubt.start_ns <= self.deadline_ns);
        let values: u64 = began.flat_map(|doubt| &doubt.parts).map(|part| u64::from(part.1)).sum();
        values >= self.to - self.from
    }
}

impl Doubt {
    pub(super) fn keys(&self) -> impl Iterator<Item = usize> {
        self.parts.iter().map(|&(key, _)| key)
    }

    /// The part of it that asked for one key, if there is.
    pub(super) fn only(&self, key: usize) -> Option<Self> {
        let part = self.parts.iter().find(|&&(of, _)| of == key)?;
        Some(Self { parts: vec![*part], start_ns: self.start_ns })
    }
}

/// Whether gaps can be explained by doubts.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Explained {
    Yes,
    /// In no way. The gap is the one where the longest attempt ended.
    No(usize),
    /// The search was given up.
    Undecided(usize),
}

/// Looks for a way to fill each gap (of the key with that number) exactly with doubts, of which each
/// takes effect at most once, after it began, and on all its keys at one moment.
///
/// `last_starts_ns` are per key the latest start of its pieces: a doubt that fills a gap of one key
/// and none of another has advanced that one beyond all its pieces.
pub(super) fn explain(
    gaps: &[(usize, Gap<'_>)],
    doubts: &[Doubt],
    last_starts_ns: &[u64],
) -> Explained {
    // By deadline: a doubt that may fill one gap may fill those after it as well, so that of two
    // alike it never hurts to take the one that began first.
    let mut order: Vec<usize> = (0..gaps.len()).collect();
    order.sort_by_key(|&gap| gaps[gap].1.deadline_ns);
    let mut doubts = doubts.to_vec();
    doubts.sort();
    let uses = doubts.iter().map(Use::new).collect();
    let mut search = Search {
        gaps,
        order,
        doubts: &doubts,
        last_starts_ns,
        uses,
        steps: 0,
        depth: 0,
        reached: 0,
    };
    if search.next_gap(0) {
        return Explained::Yes;
    }
    let gap = search.order[search.reached];
    if search.is_exhausted() { Explained::Undecided(gap) } else { Explained::No(gap) }
}

struct Search<'a> {
    gaps: &'a [(usize, Gap<'a>)],
    /// The numbers of the gaps, in the order in which they are filled.
    order: Vec<usize>,
    doubts: &'a [Doubt],
    last_starts_ns: &'a [u64],
    uses: Vec<Use>,
    steps: usize,
    depth: usize,
    /// How far the longest attempt came.
    reached: usize,
}

/// What a doubt has been used for.
#[derive(Clone, PartialEq)]
struct Use {
    /// Per part, whether it fills a gap.
    placed: Vec<bool>,
    floor_ns: u64,
    deadline_ns: u64,
}

impl Use {
    fn new(doubt: &Doubt) -> Self {
        let placed = vec![false; doubt.parts.len()];
        Self { placed, floor_ns: doubt.start_ns, deadline_ns: u64::MAX }
    }

    fn is_fresh(&self) -> bool {
        !self.placed.contains(&true)
    }

    /// The same with a part placed in a gap, if there is a moment for it.
    fn with(&self, part: usize, gap: &Gap<'_>) -> Option<Self> {
        let mut used = self.clone();
        used.placed[part] = true;
        used.floor_ns = used.floor_ns.max(gap.floor_ns);
        used.deadline_ns = used.deadline_ns.min(gap.deadline_ns);
        (used.floor_ns <= used.deadline_ns).then_some(used)
    }
}

impl Search<'_> {
    fn is_exhausted(&self) -> bool {
        self.steps > MAX_STEPS || self.depth > MAX_DEPTH
    }

    fn next_gap(&mut self, position: usize) -> bool {
        let Some(&gap) = self.order.get(position) else { return self.all_or_nothing() };
        self.reached = self.reached.max(position);
        let gap = &self.gaps[gap].1;
        self.fill(position, gap.to - gap.from, 0)
    }

    /// Fills what is `left` of a gap with doubts from the number `first` on, and then the next ones.
    fn fill(&mut self, position: usize, left: u64, first: usize) -> bool {
        if left == 0 {
            return self.next_gap(position + 1);
        }
        self.depth += 1;
        if self.is_exhausted() {
            return false;
        }
        let (key, gap) = self.gaps[self.order[position]];
        let mut failed: Option<usize> = None;
        for number in first..self.doubts.len() {
            self.steps += 1;
            let Some((used, count)) = self.usable(number, key, &gap) else { continue };
            let fresh = self.uses[number].is_fresh();
            let alike = |other: usize| self.doubts[other].parts == self.doubts[number].parts;
            if count > left || fresh && failed.is_some_and(alike) {
                continue;
            }
            let unused = std::mem::replace(&mut self.uses[number], used);
            if self.fill(position, left - count, number + 1) {
                return true;
            }
            self.uses[number] = unused;
            if self.is_exhausted() {
                return false;
            }
            if fresh {
                failed = Some(number);
            }
        }
        self.depth -= 1;
        false
    }

    fn usable(&self, number: usize, key: usize, gap: &Gap<'_>) -> Option<(Use, u64)> {
        let parts = &self.doubts[number].parts;
        let part = parts.iter().position(|&(of, _)| of == key)?;
        let used = &self.uses[number];
        if used.placed[part] {
            return None;
        }
        Some((used.with(part, gap)?, u64::from(parts[part].1)))
    }

    /// Whether those used in some gap can have advanced their other keys at the same moment.
    fn all_or_nothing(&self) -> bool {
        self.uses.iter().zip(self.doubts).filter(|(used, _)| !used.is_fresh()).all(
            |(used, doubt)| {
                let unplaced = doubt.parts.iter().zip(&used.placed).filter(|(_, placed)| !**placed);
                let mut beyond = unplaced.map(|((key, _), _)| self.last_starts_ns[*key]);
                beyond.all(|last_start_ns| last_start_ns <= used.deadline_ns)
            },
        )
    }
}
