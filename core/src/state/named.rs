//! Requests under a name that a person or a business has chosen: exactly once for a long time, without a
//! session.

use super::{
    Advance, Capped, NameRetention, Record, Reject, Reply, View, Writes,
    answers::{AnswerRecord, Digest},
    keys,
    plan::Planned,
    record::{Meta, NAMED_RULES, NamedRecord, load},
    reign, session,
};
use crate::{Epoch, RequestName, Result, SeqBlock, Session};

/// What becomes of a request under a name.
pub(super) enum Admission {
    /// It was executed before, and got these blocks.
    Answered(Vec<SeqBlock>),
    /// It is new, and the so many-th of its kind.
    Fresh(u64),
}

pub(super) fn admit(
    view: &dyn View,
    advance: &Advance,
    named: &NameRetention,
) -> Planned<Admission> {
    // One that has expired counts until a command has ended it: nothing is executed again too early.
    if let Some(record) = load::<NamedRecord>(view, &keys::named(named.name))? {
        if record.answer.digest != digest(advance, named.name) {
            return Err(Reject::NameReused.into());
        }
        let blocks = session::blocks(&advance.entries, &record.answer.starts);
        return Ok(Admission::Answered(blocks));
    }
    let count = count(view)?;
    let limit = advance.limits.named;
    match count >= limit {
        true => Err(Reject::TooMany { what: Capped::Named, limit }.into()),
        false => Ok(Admission::Fresh(count + 1)),
    }
}

/// Keeps what a request under a name was answered, at this session time.
pub(super) fn keep(
    advance: &Advance,
    named: &NameRetention,
    now_ms: u64,
    count: u64,
    blocks: &[SeqBlock],
    meta: &mut Meta,
    writes: &mut Writes,
) {
    let starts = blocks.iter().map(|block| block.start).collect();
    let answer = AnswerRecord { digest: digest(advance, named.name), starts };
    let expires_ms = now_ms.saturating_add(named.retention_ms);
    writes.set(keys::named(named.name), NamedRecord { answer, expires_ms });
    writes.set(keys::name_end(expires_ms, named.name), Record::Mark);
    writes.put(keys::NAMED, count);
    // A release that does not know of names must not lead.
    meta.rules = meta.rules.max(NAMED_RULES);
}

pub(super) fn expire(view: &dyn View, epoch: Epoch, names: &[RequestName]) -> Planned {
    let session_ms = reign::serving(view, epoch)?.session_ms;
    let before = count(view)?;
    let mut ended = 0;
    let mut writes = Writes::default();
    for &name in names {
        let Some(record) = load::<NamedRecord>(view, &keys::named(name))? else { continue };
        if record.expires_ms < session_ms {
            writes.delete(keys::named(name));
            writes.delete(keys::name_end(record.expires_ms, name));
            ended += 1;
        }
    }
    if ended > 0 {
        writes.put(keys::NAMED, before.saturating_sub(ended));
    }
    Ok((Reply::Expired(ended), writes))
}

fn count(view: &dyn View) -> Result<u64> {
    Ok(load::<u64>(view, keys::NAMED)?.copied().unwrap_or_default())
}

fn digest(advance: &Advance, name: RequestName) -> [u8; 16] {
    session::hash(Digest::Keyed, Session(name.0), &advance.entries)
}
