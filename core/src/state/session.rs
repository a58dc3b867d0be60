//! Exactly once: a session's answers are kept until the client says that it has them.

use sha2::{Digest as _, Sha256};
use siphasher::sip128::SipHasher13;
use smallvec::SmallVec;

use super::{
    Advance, Capped, Record, Reject, Reply, View, Writes,
    answers::{AnswerPage, AnswerRecord, Digest},
    keys::{self, Key},
    plan::Planned,
    record::{Meta, SessionRecord, load},
    reign,
};
use crate::{Epoch, RETENTION, RequestId, Result, SeqBlock, SeqKey, Session};

const RETENTION_MS: u64 = RETENTION.as_millis() as u64;

/// The last use is rewritten only once it is this old, so that steady use costs no writes.
const TOUCH_AFTER_MS: u64 = RETENTION_MS / 8;

/// The furthest a request's number may lie above its session's first incomplete one, whatever the
/// cap says. All answers of a session lie that close together.
const MOST_OPEN_REQUESTS: u64 = 4_096;

/// The most pages of answers that a request clears away: all of its session's.
const OPEN_PAGES: usize = (MOST_OPEN_REQUESTS / keys::PAGE) as usize + 1;

/// The most pages that a session has: those of open requests, and one that is not full at either end.
pub(super) const MOST_PAGES: usize = OPEN_PAGES + 2;

/// How many pages the closing of a session clears away, and its expiry each time.
pub(super) const CLEARED_PAGES: usize = 4;

/// The first incomplete request of a session that is closed.
const CLOSED: u64 = u64::MAX;

/// What becomes of a request that carries an id.
pub(super) enum Admission {
    /// It was executed before, and got these blocks.
    Answered(Vec<SeqBlock>),
    /// It is new.
    Fresh(Page),
}

/// Where the answer to a request goes.
pub(super) struct Page {
    key: Key,
    /// How requests are distinguished there.
    digest: Digest,
}

/// What the state knows of a request's session.
pub(super) struct Known {
    record: Option<SessionRecord>,
    /// Session time of this request.
    now_ms: u64,
}

impl Known {
    pub(super) fn load(view: &dyn View, id: &RequestId, now_ms: u64) -> Result<Self> {
        let record = load(view, &keys::session(id.session))?.cloned();
        Ok(Self { record, now_ms })
    }
}

/// The session time before which a last use has expired. As the last use may be an eighth of the
/// retention older than recorded, that much is added.
pub(super) fn expired_before(session_ms: u64) -> u64 {
    session_ms.saturating_sub(RETENTION_MS + TOUCH_AFTER_MS)
}

pub(super) fn admit(
    view: &dyn View,
    advance: &Advance,
    id: &RequestId,
    known: &Known,
    meta: &Meta,
) -> Planned<Admission> {
    if id.close && advance.entries.is_empty() {
        return Ok(Admission::Answered(vec![]));
    }
    let number = id.number.get();
    let limit = advance.limits.open_requests.min(MOST_OPEN_REQUESTS);
    let key = keys::answers_of(id.session, number);
    let fresh = |first_incomplete: u64, page| {
        let open = number.saturating_sub(first_incomplete.max(id.first_incomplete.get()));
        match open >= limit {
            true => Err(Reject::TooManyOpenRequests { limit }.into()),
            false => Ok(Admission::Fresh(page)),
        }
    };
    let Some(session) = &known.record else {
        // A client waits from 1 on until it has had an answer. Beyond that its session was known once, and
        // this may be a copy, long on its way, of a request that has been executed.
        let was_known = id.first_incomplete.get() > 1;
        if id.retry || was_known {
            return Err(Reject::SessionUnknown.into());
        }
        let limit = advance.limits.sessions;
        if meta.sessions >= limit {
            return Err(Reject::TooMany { what: Capped::Sessions, limit }.into());
        }
        return fresh(0, Page { key, digest: Digest::Keyed });
    };
    let first_incomplete = session.first_incomplete;
    if number < first_incomplete || first_incomplete == CLOSED {
        return Err(Reject::Forgotten { number, first_incomplete }.into());
    }
    let page = load::<AnswerPage>(view, &key)?;
    let digest = AnswerPage::digest(page);
    if let Some(page) = page
        && let Some(answer) = page.find(&key, number)?
    {
        if answer.digest != hash(digest, id.session, &advance.entries) {
            return Err(Reject::IdReused { number }.into());
        }
        return Ok(Admission::Answered(blocks(&advance.entries, &answer.starts)));
    }
    fresh(first_incomplete, Page { key, digest })
}

/// What is kept of a request that was executed, and where.
pub(super) fn answer(
    id: &RequestId,
    advance: &Advance,
    page: Page,
    blocks: &[SeqBlock],
) -> (Key, AnswerRecord) {
    let digest = hash(page.digest, id.session, &advance.entries);
    let starts = blocks.iter().map(|block| block.start).collect();
    (page.key, AnswerRecord { digest, starts })
}

/// Records a request's answer and brings its session up to date, or closes it.
pub(super) fn settle(
    view: &dyn View,
    id: &RequestId,
    known: Known,
    answer: Option<(Key, AnswerRecord)>,
    meta: &mut Meta,
    writes: &mut Writes,
) -> Result<()> {
    if id.close {
        if let Some(mut record) = known.record {
            record.first_incomplete = CLOSED;
            clear(view, id.session, record, meta, writes)?;
        }
        return Ok(());
    }
    let first_incomplete = id.first_incomplete.get();
    let updated = match &known.record {
        None => {
            meta.sessions += 1;
            SessionRecord { first_incomplete, last_used_ms: known.now_ms }
        }
        Some(old) => {
            let stale = known.now_ms.saturating_sub(old.last_used_ms) >= TOUCH_AFTER_MS;
            SessionRecord {
                first_incomplete: old.first_incomplete.max(first_incomplete),
                last_used_ms: if stale { known.now_ms } else { old.last_used_ms },
            }
        }
    };
    if let Some(old) = &known.record
        && old.first_incomplete < updated.first_incomplete
    {
        // Looked for first: numbers may jump, and most of those passed over have no answer.
        let (from, to) =
            keys::answers_between(id.session, old.first_incomplete, updated.first_incomplete);
        if from < to {
            for (page, _) in view.scan(&from, &to, OPEN_PAGES)? {
                writes.delete(page);
            }
        }
    }
    if known.record.as_ref() != Some(&updated) {
        store(id.session, known.record.as_ref(), &updated, writes);
    }
    if let Some((page, answer)) = answer {
        writes.answer(page, id.number.get(), answer);
    }
    Ok(())
}

pub(super) fn expire(view: &dyn View, epoch: Epoch, sessions: &[Session]) -> Planned {
    let reign = reign::serving(view, epoch)?;
    let mut meta = Meta::load(view)?;
    let before = meta.sessions;
    let mut writes = Writes::default();
    for &session in sessions {
        if let Some(record) = load::<SessionRecord>(view, &keys::session(session))?.cloned()
            && record.last_used_ms < expired_before(reign.session_ms)
        {
            clear(view, session, record, &mut meta, &mut writes)?;
        }
    }
    let sessions_left = meta.sessions;
    writes.put(keys::META, meta);
    Ok((Reply::Expired(before - sessions_left), writes))
}

/// Clears away some pages of answers, and the session itself once none is left.
///
/// What is cleared lies below the first incomplete request from then on: refused, never executed
/// again.
fn clear(
    view: &dyn View,
    session: Session,
    record: SessionRecord,
    meta: &mut Meta,
    writes: &mut Writes,
) -> Result<()> {
    let (from, to) = keys::answers(session);
    let pages = view.scan(&from, &to, CLEARED_PAGES)?;
    let cleared_to = pages.last().and_then(|(key, _)| keys::end_of_page(key)).unwrap_or(0);
    for (key, _) in &pages {
        writes.delete(*key);
    }
    if pages.len() < CLEARED_PAGES {
        writes.delete(keys::session(session));
        writes.delete(keys::last_use(record.last_used_ms, session));
        meta.sessions = meta.sessions.saturating_sub(1);
    } else {
        let first_incomplete = record.first_incomplete.max(cleared_to);
        store(session, Some(&record), &SessionRecord { first_incomplete, last_used_ms: 0 }, writes);
    }
    Ok(())
}

/// The index is written only if the last use has changed.
fn store(session: Session, old: Option<&SessionRecord>, new: &SessionRecord, writes: &mut Writes) {
    if old.is_none_or(|old| old.last_used_ms != new.last_used_ms) {
        if let Some(old) = old {
            writes.delete(keys::last_use(old.last_used_ms, session));
        }
        writes.put(keys::last_use(new.last_used_ms, session), Record::Mark);
    }
    writes.set(keys::session(session), new.clone());
}

pub(super) fn blocks(entries: &[(SeqKey, u32)], starts: &[u64]) -> Vec<SeqBlock> {
    let block = |((key, count), &start): (&(SeqKey, u32), &u64)| SeqBlock {
        key: key.clone(),
        start,
        count: *count,
    };
    entries.iter().zip(starts).map(block).collect()
}

/// Tells requests apart; lengths are hashed along, so that no two requests look alike.
///
/// A client that finds two requests of one hash can only mislead itself: it is given the answer to its own
/// earlier request. So what the keyed hash owes is that this does not happen by chance.
pub(super) fn hash(digest: Digest, session: Session, entries: &[(SeqKey, u32)]) -> [u8; 16] {
    let mut bytes = SmallVec::<[u8; 64]>::new();
    for (key, count) in entries {
        bytes.push(key.as_str().len() as u8);
        bytes.extend_from_slice(key.as_str().as_bytes());
        bytes.extend_from_slice(&count.to_be_bytes());
    }
    match digest {
        Digest::Keyed => SipHasher13::new_with_key(&session.0).hash(&bytes).as_bytes(),
        Digest::Sha256 => {
            let mut half = [0; 16];
            half.copy_from_slice(&Sha256::digest(&bytes)[..16]);
            half
        }
    }
}
