//! Handing out blocks without a gap.

use super::{
    Advance, Effect, Reject, Reply, Seed, View, keys,
    plan::Planned,
    record::{Meta, encode, load},
    reign,
    session::{self, Admission, Known},
};
use crate::{Epoch, Result, SeqBlock};

pub(super) fn advance(view: &dyn View, epoch: Epoch, advance: &Advance) -> Result<Planned> {
    let reign = match reign::serving(view, epoch)? {
        Ok(reign) => reign,
        Err(reject) => return Ok(Err(reject)),
    };
    let stored = Meta::load(view)?;
    let mut meta = stored.clone();
    let Some(id) = &advance.id else {
        return Ok(match take(view, advance, &mut meta)? {
            Ok((blocks, effect)) => Ok((Reply::Advanced(blocks), finish(effect, &stored, &meta))),
            Err(reject) => Err(reject),
        });
    };
    let mut known = Known::load(view, id, reign.session_time(advance.elapsed_ms))?;
    let (blocks, mut effect, fresh) = match session::admit(view, advance, id, &mut known, &meta)? {
        Admission::Refused(reject) => return Ok(Err(reject)),
        Admission::Answered(blocks) => (blocks, Effect::default(), false),
        Admission::Fresh => match take(view, advance, &mut meta)? {
            Ok((blocks, effect)) => (blocks, effect, true),
            Err(reject) => return Ok(Err(reject)),
        },
    };
    let answer = fresh.then(|| session::answer(advance, &blocks));
    session::settle(view, id, known, answer, &mut meta, &mut effect)?;
    Ok(Ok((Reply::Advanced(blocks), finish(effect, &stored, &meta))))
}

/// Lets a sequence begin elsewhere than at 0. One that exists never goes back, nor forward with a
/// gap, so seeding it again is refused whatever the value.
pub(super) fn seed(view: &dyn View, epoch: Epoch, seed: &Seed) -> Result<Planned> {
    if let Err(reject) = reign::serving(view, epoch)? {
        return Ok(Err(reject));
    }
    let stored = keys::sequence(&seed.key);
    if let Some(next) = load::<u64>(view, &stored)? {
        return Ok(Err(Reject::SequenceExists { key: seed.key.clone(), next }));
    }
    let mut meta = Meta::load(view)?;
    if meta.keys >= seed.limits.keys {
        return Ok(Err(Reject::TooManyKeys { limit: seed.limits.keys }));
    }
    meta.keys += 1;
    let mut effect = Effect::default();
    effect.put(stored, encode(&seed.start));
    effect.put(keys::META, encode(&meta));
    Ok(Ok((Reply::Seeded(seed.start), effect)))
}

/// Takes all blocks, or none.
fn take(
    view: &dyn View,
    advance: &Advance,
    meta: &mut Meta,
) -> Result<Result<(Vec<SeqBlock>, Effect), Reject>> {
    let mut effect = Effect::default();
    let mut blocks = Vec::with_capacity(advance.entries.len());
    for (key, count) in &advance.entries {
        let stored = keys::sequence(key);
        let start = match load::<u64>(view, &stored)? {
            Some(next) => next,
            None if meta.keys >= advance.limits.keys => {
                return Ok(Err(Reject::TooManyKeys { limit: advance.limits.keys }));
            }
            None => {
                meta.keys += 1;
                0
            }
        };
        let Some(next) = start.checked_add(u64::from(*count)) else {
            return Ok(Err(Reject::Overflow { key: key.clone(), next: start }));
        };
        effect.put(stored, encode(&next));
        blocks.push(SeqBlock { key: key.clone(), start, count: *count });
    }
    Ok(Ok((blocks, effect)))
}

/// Writes the counts along if they changed.
fn finish(mut effect: Effect, stored: &Meta, meta: &Meta) -> Effect {
    if meta != stored {
        effect.put(keys::META, encode(meta));
    }
    effect
}
