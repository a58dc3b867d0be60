//! Handing out blocks without a gap, from 0 or a seed on, until a sequence is deleted.

use super::{
    Advance, Capped, Reject, Reply, Seed, View, Writes, keys, named,
    plan::Planned,
    record::{ANSWER_RULES, Meta, load},
    reign, restored,
    session::{self, Admission, Known},
};
use crate::{Epoch, Result, SeqBlock, SeqKey};

pub(super) fn advance(view: &dyn View, epoch: Epoch, advance: &Advance) -> Result<Planned> {
    let reign = match reign::serving(view, epoch)? {
        Ok(reign) => reign,
        Err(reject) => return Ok(Err(reject)),
    };
    let stored = Meta::load(view)?;
    let mut meta = stored.clone();
    if let Some(named) = &advance.name {
        let now_ms = reign.session_time(advance.elapsed_ms);
        return match named::admit(view, advance, named)? {
            named::Admission::Refused(reject) => Ok(Err(reject)),
            named::Admission::Answered(blocks) => {
                Ok(Ok((Reply::Advanced(blocks), Writes::default())))
            }
            named::Admission::Fresh(count) => Ok(match take(view, advance, &mut meta)? {
                Ok((blocks, mut writes)) => {
                    named::keep(advance, named, now_ms, count, &blocks, &mut meta, &mut writes);
                    Ok((Reply::Advanced(blocks), finish(writes, &stored, &meta)))
                }
                Err(reject) => Err(reject),
            }),
        };
    }
    let Some(id) = &advance.id else {
        return Ok(match take(view, advance, &mut meta)? {
            Ok((blocks, writes)) => Ok((Reply::Advanced(blocks), finish(writes, &stored, &meta))),
            Err(reject) => Err(reject),
        });
    };
    let known = Known::load(view, id, reign.session_time(advance.elapsed_ms))?;
    let (blocks, mut writes, answer) = match session::admit(view, advance, id, &known, &meta)? {
        Admission::Refused(reject) => return Ok(Err(reject)),
        Admission::Answered(blocks) => (blocks, Writes::default(), None),
        Admission::Fresh(page) => match take(view, advance, &mut meta)? {
            Ok((blocks, writes)) => {
                // A release that cannot read such an answer must not lead.
                meta.rules = meta.rules.max(ANSWER_RULES);
                let answer = session::answer(id, advance, page, &blocks);
                (blocks, writes, Some(answer))
            }
            Err(reject) => return Ok(Err(reject)),
        },
    };
    session::settle(view, id, known, answer, &mut meta, &mut writes)?;
    Ok(Ok((Reply::Advanced(blocks), finish(writes, &stored, &meta))))
}

/// The highest value that a sequence can begin at: what comes next has to be written after each block.
pub(super) const LAST_START: u64 = u64::MAX - 1;

/// Lets a sequence begin elsewhere than at 0. One that exists never goes back, nor forward with a
/// gap, so seeding it again is refused whatever the value.
pub(super) fn seed(view: &dyn View, epoch: Epoch, seed: &Seed) -> Result<Planned> {
    if let Err(reject) = reign::serving(view, epoch)? {
        return Ok(Err(reject));
    }
    let stored = keys::sequence(&seed.key);
    if let Some(next) = load::<u64>(view, &stored)? {
        return Ok(Err(Reject::SequenceExists { key: seed.key.clone(), next: *next }));
    }
    if seed.start > LAST_START {
        return Ok(Err(Reject::NothingLeft { key: seed.key.clone(), start: seed.start }));
    }
    let mut meta = Meta::load(view)?;
    if let Err(reject) = restored::check(view, &meta, &seed.key)? {
        return Ok(Err(reject));
    }
    if meta.keys >= seed.limits.keys {
        return Ok(Err(Reject::TooMany { what: Capped::Sequences, limit: seed.limits.keys }));
    }
    meta.keys += 1;
    let mut writes = Writes::default();
    writes.put(stored, seed.start);
    writes.put(keys::META, meta);
    Ok(Ok((Reply::Seeded(seed.start), writes)))
}

/// Forgets a sequence. What was answered to requests with ids stays as it was.
pub(super) fn delete(view: &dyn View, epoch: Epoch, key: &SeqKey) -> Result<Planned> {
    if let Err(reject) = reign::serving(view, epoch)? {
        return Ok(Err(reject));
    }
    let stored = keys::sequence(key);
    let Some(next) = load::<u64>(view, &stored)?.copied() else {
        return Ok(Err(Reject::SequenceUnknown { key: key.clone() }));
    };
    let mut meta = Meta::load(view)?;
    meta.keys = meta.keys.saturating_sub(1);
    let mut writes = Writes::default();
    writes.delete(stored);
    writes.put(keys::META, meta);
    Ok(Ok((Reply::Deleted(next), writes)))
}

/// Takes all blocks, or none.
fn take(
    view: &dyn View,
    advance: &Advance,
    meta: &mut Meta,
) -> Result<Result<(Vec<SeqBlock>, Writes), Reject>> {
    // One more for the answer, and one for the session.
    let mut writes = Writes::with_capacity(advance.entries.len() + 2);
    let mut blocks = Vec::with_capacity(advance.entries.len());
    for (key, count) in &advance.entries {
        if let Err(reject) = restored::check(view, meta, key)? {
            return Ok(Err(reject));
        }
        let stored = keys::sequence(key);
        let start = match load::<u64>(view, &stored)? {
            Some(next) => *next,
            None if meta.keys >= advance.limits.keys => {
                return Ok(Err(Reject::TooMany {
                    what: Capped::Sequences,
                    limit: advance.limits.keys,
                }));
            }
            None => {
                meta.keys += 1;
                0
            }
        };
        let Some(next) = start.checked_add(u64::from(*count)) else {
            return Ok(Err(Reject::Overflow { key: key.clone(), next: start }));
        };
        writes.set(stored, next);
        blocks.push(SeqBlock { key: key.clone(), start, count: *count });
    }
    Ok(Ok((blocks, writes)))
}

/// Writes the counts along if they changed.
fn finish(mut writes: Writes, stored: &Meta, meta: &Meta) -> Writes {
    if meta != stored {
        writes.put(keys::META, meta.clone());
    }
    writes
}
