//! A key that is deleted begins again: each of its lives is checked as a key of its own.

use std::{
    borrow::Cow,
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use super::{Ask, Call, Operation, Outcome, order::Span};

/// The same history, in which every life of a key has a name of its own.
///
/// Which life a call belongs to is certain unless it may have taken effect while the key was deleted. From the
/// first deletion on for which that is so, or whose outcome is uncertain, the key is not judged: calls that began before
/// it are in doubt, and what began later is left out.
pub(super) fn separated(operations: &[Operation]) -> Cow<'_, [Operation]> {
    let keys = deleted(operations);
    if keys.is_empty() {
        return Cow::Borrowed(operations);
    }
    let started = first_starts(operations);
    let separate = |operation: &Operation| {
        let start_ns = match request(operation) {
            Some(request) => started.get(&request).copied(),
            None => None,
        };
        separate(operation, start_ns.unwrap_or(operation.start_ns), &keys)
    };
    Cow::Owned(operations.iter().filter_map(separate).collect())
}

/// What is known of a key that was deleted, or whose seed is in doubt.
#[derive(Default)]
struct Deleted {
    /// When each of its lives but the last ended, in order.
    ends: Vec<Span>,
    /// From here on it is not judged.
    judged_until_ns: Option<u64>,
}

impl Deleted {
    fn is_judged(&self, at_ns: u64) -> bool {
        self.judged_until_ns.is_none_or(|until_ns| at_ns < until_ns)
    }

    /// Which life what began at this time belongs to.
    fn life(&self, start_ns: u64) -> usize {
        self.ends.iter().filter(|end| end.end_ns < start_ns).count()
    }
}

type RequestName<'a> = (&'a str, &'a [Ask]);

/// What tells that two calls are one request.
fn request(operation: &Operation) -> Option<RequestName<'_>> {
    match &operation.call {
        Call::GetSeq { ask, request_id: Some(id), .. } => Some((id, ask)),
        _ => None,
    }
}

/// When each request with an id was sent first.
fn first_starts(operations: &[Operation]) -> HashMap<RequestName<'_>, u64> {
    let mut started: HashMap<RequestName<'_>, u64> = HashMap::new();
    for operation in operations {
        if let Some(request) = request(operation) {
            let first = started.entry(request).or_insert(operation.start_ns);
            *first = operation.start_ns.min(*first);
        }
    }
    started
}

fn deleted(operations: &[Operation]) -> BTreeMap<&str, Deleted> {
    let mut keys: BTreeMap<&str, Deleted> = BTreeMap::new();
    for operation in operations {
        match &operation.call {
            Call::DeleteSeq { key, outcome: Outcome::Answered(_) } => {
                keys.entry(key).or_default().ends.push(Span::of(operation));
            }
            Call::DeleteSeq { key, outcome: Outcome::Uncertain(_) }
            | Call::SeedSeq { key, outcome: Outcome::Uncertain(_) } => {
                keys.entry(key).or_default().doubt_from(operation.start_ns);
            }
            _ => {}
        }
    }
    for key in keys.values_mut() {
        key.ends.sort_by_key(|end| end.start_ns);
        let mut pairs = key.ends.iter().zip(key.ends.iter().skip(1));
        let overlapping = pairs.find(|(before, after)| before.end_ns >= after.start_ns);
        if let Some(start_ns) = overlapping.map(|(before, _)| before.start_ns) {
            key.doubt_from(start_ns);
        }
    }
    for (key, effect) in effects(operations) {
        let Some(key) = keys.get_mut(key) else { continue };
        let meets = |end: &&Span| effect.end_ns >= end.start_ns && effect.start_ns <= end.end_ns;
        if let Some(start_ns) = key.ends.iter().find(meets).map(|end| end.start_ns) {
            key.doubt_from(start_ns);
        }
    }
    doubt_seeds(operations, &mut keys);
    for key in keys.values_mut() {
        let until_ns = key.judged_until_ns.unwrap_or(u64::MAX);
        key.ends.retain(|end| end.start_ns < until_ns);
    }
    keys
}

/// What follows on a seed that is not judged is not either: it would have begun elsewhere.
fn doubt_seeds<'a>(operations: &'a [Operation], keys: &mut BTreeMap<&'a str, Deleted>) {
    let seeds = operations.iter().filter_map(|operation| match &operation.call {
        Call::SeedSeq { key, outcome: Outcome::Answered(_) } => Some((&**key, Span::of(operation))),
        _ => None,
    });
    let mut seeds: Vec<_> = seeds.collect();
    seeds.sort_by_key(|(_, seed)| std::cmp::Reverse(seed.start_ns));
    for (key, seed) in seeds {
        if let Some(key) = keys.get_mut(key)
            && !key.is_judged(seed.end_ns)
        {
            key.doubt_from(seed.start_ns);
        }
    }
}

impl Deleted {
    fn doubt_from(&mut self, at_ns: u64) {
        self.judged_until_ns = Some(self.judged_until_ns.map_or(at_ns, |until| until.min(at_ns)));
    }
}

/// When each call took effect on each of its keys, deletions and seeds in doubt apart. What is uncertain may do so at any time.
fn effects(operations: &[Operation]) -> impl Iterator<Item = (&str, Span)> {
    let mut requests: HashMap<RequestName<'_>, Span> = HashMap::new();
    let mut effects = Vec::new();
    for operation in operations {
        let Span { start_ns, end_ns } = Span::of(operation);
        match &operation.call {
            Call::GetSeq { outcome: Outcome::Refused(_), .. } => {}
            Call::GetSeq { ask, request_id, outcome } => {
                let is_open = matches!(outcome, Outcome::Uncertain(_));
                let end_ns = if is_open { u64::MAX } else { end_ns };
                let span = Span { start_ns, end_ns };
                match request_id {
                    Some(id) => {
                        let known = requests.entry((id, ask)).or_insert(span);
                        known.start_ns = known.start_ns.min(start_ns);
                        known.end_ns = known.end_ns.min(end_ns);
                    }
                    None => effects.extend(ask.iter().map(|ask| (&*ask.key, span))),
                }
            }
            Call::ReadSeq { key, outcome: Outcome::Answered(_) }
            | Call::SeedSeq { key, outcome: Outcome::Answered(_) } => {
                effects.push((&**key, Span { start_ns, end_ns }));
            }
            _ => {}
        }
    }
    let requests = requests.into_iter();
    let of_requests =
        requests.flat_map(|((_, ask), span)| ask.iter().map(move |ask| (&*ask.key, span)));
    of_requests.chain(effects)
}

/// A call of a request that began at `start_ns`, with its keys renamed. None if nothing of it is judged.
fn separate(
    operation: &Operation,
    start_ns: u64,
    keys: &BTreeMap<&str, Deleted>,
) -> Option<Operation> {
    let is_judged = |key: &str, at_ns| keys.get(key).is_none_or(|key| key.is_judged(at_ns));
    let rename =
        |key: &mut Arc<str>| match keys.get(&**key).map_or(0, |deleted| deleted.life(start_ns)) {
            0 => {}
            life => *key = format!("{key} after deletion {life}").into(),
        };
    let mut separated = operation.clone();
    let Operation { start_ns: sent_ns, end_ns, .. } = *operation;
    match &mut separated.call {
        Call::GetTs { .. } => {}
        Call::ReadSeq { key, .. } | Call::SeedSeq { key, .. } | Call::DeleteSeq { key, .. } => {
            if !is_judged(key, end_ns) {
                return None;
            }
            rename(key);
        }
        Call::GetSeq { ask, outcome, .. } => {
            ask.retain(|ask| is_judged(&ask.key, sent_ns));
            if ask.is_empty() {
                return None;
            }
            if ask.iter().any(|ask| !is_judged(&ask.key, end_ns))
                && matches!(outcome, Outcome::Answered(_))
            {
                *outcome = Outcome::Uncertain("the key was deleted meanwhile".into());
            }
            ask.iter_mut().for_each(|ask| rename(&mut ask.key));
            if let Outcome::Answered(answer) = outcome {
                answer.blocks.retain(|block| is_judged(&block.key, sent_ns));
                answer.blocks.iter_mut().for_each(|block| rename(&mut block.key));
            }
        }
    }
    Some(separated)
}
