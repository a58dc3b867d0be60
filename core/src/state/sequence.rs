//! Handing out blocks without a gap, from 0 or a seed on, until a sequence is deleted.

use super::{
    Advance, Capped, Reject, Reply, Seed, View, Writes, keys, named,
    plan::Planned,
    record::{ANSWER_RULES, Meta, load},
    reign, restored,
    session::{self, Admission, Known},
};
use crate::{Epoch, SeqBlock, SeqKey};

pub(super) fn advance(view: &dyn View, epoch: Epoch, advance: &Advance) -> Planned {
    let reign = reign::serving(view, epoch)?;
    let stored = Meta::load(view)?;
    let mut meta = stored.clone();
    if let Some(named) = &advance.name {
        let now_ms = reign.session_time(advance.elapsed_ms);
        return match named::admit(view, advance, named)? {
            named::Admission::Answered(blocks) => Ok((Reply::Advanced(blocks), Writes::default())),
            named::Admission::Fresh(count) => {
                let (blocks, mut writes) = take(view, advance, &mut meta)?;
                named::keep(advance, named, now_ms, count, &blocks, &mut meta, &mut writes);
                Ok((Reply::Advanced(blocks), finish(writes, &stored, &meta)))
            }
        };
    }
    let Some(id) = &advance.id else {
        let (blocks, writes) = take(view, advance, &mut meta)?;
        return Ok((Reply::Advanced(blocks), finish(writes, &stored, &meta)));
    };
    let known = Known::load(view, id, reign.session_time(advance.elapsed_ms))?;
    let (blocks, mut writes, answer) = match session::admit(view, advance, id, &known, &meta)? {
        Admission::Answered(blocks) => (blocks, Writes::default(), None),
        Admission::Fresh(page) => {
            let (blocks, writes) = take(view, advance, &mut meta)?;
            // A release that cannot read such an answer must not lead.
            meta.rules = meta.rules.max(ANSWER_RULES);
            let answer = session::answer(id, advance, page, &blocks);
            (blocks, writes, Some(answer))
        }
    };
    session::settle(view, id, known, answer, &mut meta, &mut writes)?;
    Ok((Reply::Advanced(blocks), finish(writes, &stored, &meta)))
}

/// The highest value that a sequence can begin at: what comes next has to be written after each block.
pub(super) const LAST_START: u64 = u64::MAX - 1;

/// Lets a sequence begin elsewhere than at 0. One that exists never goes back, nor forward with a
/// gap, so seeding it again is refused whatever the value.
pub(super) fn seed(view: &dyn View, epoch: Epoch, seed: &Seed) -> Planned {
    reign::serving(view, epoch)?;
    let stored = keys::sequence(&seed.key);
    if let Some(next) = load::<u64>(view, &stored)? {
        return Err(Reject::SequenceExists { key: seed.key.clone(), next: *next }.into());
    }
    if seed.start > LAST_START {
        return Err(Reject::NothingLeft { key: seed.key.clone(), start: seed.start }.into());
    }
    let mut meta = Meta::load(view)?;
    restored::check(view, &meta, &seed.key)?;
    if meta.keys >= seed.limits.keys {
        return Err(Reject::TooMany { what: Capped::Sequences, limit: seed.limits.keys }.into());
    }
    meta.keys += 1;
    let mut writes = Writes::default();
    writes.put(stored, seed.start);
    writes.put(keys::META, meta);
    Ok((Reply::Seeded(seed.start), writes))
}

/// Forgets a sequence. What was answered to requests with ids stays as it was.
pub(super) fn delete(view: &dyn View, epoch: Epoch, key: &SeqKey) -> Planned {
    reign::serving(view, epoch)?;
    let stored = keys::sequence(key);
    let Some(next) = load::<u64>(view, &stored)?.copied() else {
        return Err(Reject::SequenceUnknown { key: key.clone() }.into());
    };
    let mut meta = Meta::load(view)?;
    meta.keys = meta.keys.saturating_sub(1);
    let mut writes = Writes::default();
    writes.delete(stored);
    writes.put(keys::META, meta);
    Ok((Reply::Deleted(next), writes))
}

/// Takes all blocks, or none.
fn take(view: &dyn View, advance: &Advance, meta: &mut Meta) -> Planned<(Vec<SeqBlock>, Writes)> {
    // One more for the answer, and one for the session.
    let mut writes = Writes::with_capacity(advance.entries.len() + 2);
    let mut blocks = Vec::with_capacity(advance.entries.len());
    for (key, count) in &advance.entries {
        restored::check(view, meta, key)?;
        let stored = keys::sequence(key);
        let start = match load::<u64>(view, &stored)? {
            Some(next) => *next,
            None if meta.keys >= advance.limits.keys => {
                return Err(Reject::TooMany {
                    what: Capped::Sequences,
                    limit: advance.limits.keys,
                }
                .into());
            }
            None => {
                meta.keys += 1;
                0
            }
        };
        let Some(next) = start.checked_add(u64::from(*count)) else {
            return Err(Reject::Overflow { key: key.clone(), next: start }.into());
        };
        writes.set(stored, next);
        blocks.push(SeqBlock { key: key.clone(), start, count: *count });
    }
    Ok((blocks, writes))
}

/// Writes the counts along if they changed.
fn finish(mut writes: Writes, stored: &Meta, meta: &Meta) -> Writes {
    if meta != stored {
        writes.put(keys::META, meta.clone());
    }
    writes
}
