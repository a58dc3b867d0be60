//! Where things lie in the store. The first byte names the kind.

use smallvec::SmallVec;

use crate::{LeaseHolder, LeaseId, RequestName, SeqKey, Session};

/// A key as plans and the working set hold it: in place, unless it is a long one.
pub(super) type Key = SmallVec<[u8; IN_PLACE]>;

const IN_PLACE: usize = 32;

/// The [`ReignRecord`](super::ReignRecord).
pub const REIGN: &[u8] = b"r";

/// The counts of keys and sessions, and the version of the rules.
pub(crate) const META: &[u8] = b"m";

/// The count of stamping leases, and the last id given to one.
pub(crate) const LEASES: &[u8] = b"k";

/// The count of named requests.
pub(crate) const NAMED: &[u8] = b"p";

/// How far an import has come; nothing once it is finished.
pub(super) const IMPORT: &[u8] = b"i";

/// What is known of the backup that the state was restored from, while sequences are closed for that.
pub(crate) const RESTORED: &[u8] = b"w";

/// What a copy of the state holds: all there is but the reign record, the traces of an import, and what
/// belongs to a driver. Each byte begins the keys of one kind, in their order.
pub(super) const COPIED: &[u8] = b"abehklmpqsuwxy";

/// What a backup holds: what is copied, and the reign record, in the order of their keys.
pub(crate) const BACKED_UP: &[u8] = b"abehklmpqrsuwxy";

/// The last epoch claimed over this store: [`LocalDriver`](crate::LocalDriver)'s, not the rules'.
pub(crate) const CLAIM: &[u8] = b"c";

/// The node id of this store: [`LocalDriver`](crate::LocalDriver)'s, not the rules'.
pub const NODE: &[u8] = b"n";

/// The next value of a sequence.
pub(super) fn sequence(key: &SeqKey) -> Key {
    join(b's', &[key.as_str().as_bytes()])
}

/// All sequences whose names begin with `prefix`, after the one named `after`: from the first key
/// to before the other.
pub(super) fn sequences(prefix: &str, after: &str) -> (Key, Key) {
    let first = join(b's', &[prefix.as_bytes()]);
    let mut end = first.clone();
    // No byte of UTF-8 is the highest one.
    if let Some(last) = end.last_mut() {
        *last += 1;
    }
    match after.is_empty() {
        true => (first, end),
        false => (first.max(join(b's', &[after.as_bytes(), &[0]])), end),
    }
}

/// The name of a sequence's key.
pub(crate) fn name_of(sequence: &[u8]) -> Option<SeqKey> {
    let name = std::str::from_utf8(sequence.get(1..)?).ok()?;
    SeqKey::new(name).ok()
}

/// The mark of a sequence that is open though the state was restored.
pub(super) fn opened(key: &SeqKey) -> Key {
    join(b'w', &[key.as_str().as_bytes()])
}

/// The record of a session.
pub(super) fn session(session: Session) -> Key {
    join(b'u', &[&session.0])
}

/// How many consecutive requests share an [`AnswerPage`](super::record::AnswerPage).
///
/// With a page each, a busy session would put and delete a key for every request.
pub(super) const PAGE: u64 = 16;

/// The answers of a session to request `number` and its neighbours.
pub(super) fn answers_of(session: Session, number: u64) -> Key {
    join(b'a', &[&session.0, &(number / PAGE).to_be_bytes()])
}

/// All answers of a session, in the order of their numbers: from the first key to before the other.
pub(super) fn answers(session: Session) -> (Key, Key) {
    let mut end = answers_of(session, u64::MAX);
    end.push(0);
    (answers_of(session, 0), end)
}

/// The pages of a session from that of one request to before that of another.
pub(super) fn answers_between(session: Session, from: u64, to: u64) -> (Key, Key) {
    (answers_of(session, from), answers_of(session, to))
}

/// The first request after those of a page.
pub(super) fn end_of_page(answers: &[u8]) -> Option<u64> {
    let page = u64::from_be_bytes(answers.get(17..)?.try_into().ok()?);
    Some(page.saturating_add(1).saturating_mul(PAGE))
}

/// The index by last use, least recent first.
pub(super) fn last_use(last_used_ms: u64, session: Session) -> Key {
    join(b'x', &[&last_used_ms.to_be_bytes(), &session.0])
}

/// The part of the index before `until_ms`.
pub(super) fn last_uses(until_ms: u64) -> (Key, Key) {
    (join(b'x', &[]), join(b'x', &[&until_ms.to_be_bytes()]))
}

/// The session an index entry is about.
pub(super) fn session_of(last_use: &[u8]) -> Option<Session> {
    last_use.get(9..)?.try_into().ok().map(Session)
}

/// What a named request was answered.
pub(super) fn named(name: RequestName) -> Key {
    join(b'q', &[&name.0])
}

/// The index of named requests by when they expire, the first to expire first.
pub(super) fn name_end(expires_ms: u64, name: RequestName) -> Key {
    join(b'y', &[&expires_ms.to_be_bytes(), &name.0])
}

/// The part of that index before `until_ms`.
pub(super) fn name_ends(until_ms: u64) -> (Key, Key) {
    (join(b'y', &[]), join(b'y', &[&until_ms.to_be_bytes()]))
}

/// The named request an index entry is about.
pub(super) fn request_of(name_end: &[u8]) -> Option<RequestName> {
    name_end.get(9..)?.try_into().ok().map(RequestName)
}

/// A stamping lease.
pub(super) fn lease(id: LeaseId) -> Key {
    join(b'l', &[&id.0.to_be_bytes()])
}

/// The lease of a holder that is not superseded.
pub(super) fn lease_of(holder: &LeaseHolder) -> Key {
    join(b'h', &[holder.as_bytes()])
}

/// The index of leases by when they expire, the first to expire first.
pub(super) fn lease_end(expires_ms: u64, id: LeaseId) -> Key {
    join(b'e', &[&expires_ms.to_be_bytes(), &id.0.to_be_bytes()])
}

/// The whole of that index.
pub(super) fn lease_ends() -> (Key, Key) {
    (join(b'e', &[]), join(b'e' + 1, &[]))
}

/// The index of leases by their bounds, the lowest first.
pub(super) fn lease_bound(bound_ms: u64, id: LeaseId) -> Key {
    join(b'b', &[&bound_ms.to_be_bytes(), &id.0.to_be_bytes()])
}

/// The whole of that index.
pub(super) fn lease_bounds() -> (Key, Key) {
    (join(b'b', &[]), join(b'b' + 1, &[]))
}

/// The bound that an index entry is about.
pub(super) fn bound_of(lease_bound: &[u8]) -> Option<u64> {
    lease_bound.get(1..9)?.try_into().ok().map(u64::from_be_bytes)
}

/// Whether rules look for keys of this kind in ranges.
pub(super) fn is_ordered(key: &[u8]) -> bool {
    matches!(key.first(), Some(b'a' | b'b' | b'e'))
}

/// Whether all keys from one to before another are of one kind, which rules look for in ranges.
pub(super) fn are_ordered(from: &[u8], to: &[u8]) -> bool {
    is_ordered(from) && from.first().is_some_and(|kind| to <= &[kind + 1][..])
}

/// From before the first key of a kind to behind its last.
pub(super) fn kind(kind: u8) -> ([u8; 1], [u8; 1]) {
    ([kind], [kind + 1])
}

#[inline]
fn join(kind: u8, parts: &[&[u8]]) -> Key {
    let mut bytes = [0; IN_PLACE];
    let len = 1 + parts.iter().map(|part| part.len()).sum::<usize>();
    if len > IN_PLACE {
        return Key::from_vec([&[&[kind][..]], parts].concat().concat());
    }
    bytes[0] = kind;
    let mut at = 1;
    for part in parts {
        bytes[at..at + part.len()].copy_from_slice(part);
        at += part.len();
    }
    Key::from_buf_and_len(bytes, len)
}
