use std::{collections::BTreeSet, fmt, num::NonZeroU64, ops::Range, time::Duration};

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};
use smol_str::SmolStr;

use crate::Invalid;

/// The longest key, in bytes of UTF-8.
pub const MAX_KEY_BYTES: usize = 128;

/// Names a sequence: 1 to 128 bytes of UTF-8.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct SeqKey(SmolStr);

impl SeqKey {
    /// Checks and wraps a key.
    ///
    /// # Errors
    /// [`Invalid`] if the key is empty or longer than [`MAX_KEY_BYTES`].
    pub fn new(key: impl AsRef<str>) -> Result<Self, Invalid> {
        let key = key.as_ref();
        match key.len() {
            0 => Err(Invalid::new("a sequence key must not be empty")),
            1..=MAX_KEY_BYTES => Ok(Self(key.into())),
            n => Err(Invalid::new(format!(
                "a sequence key has at most {MAX_KEY_BYTES} bytes, this one has {n}"
            ))),
        }
    }

    /// The key's text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl TryFrom<String> for SeqKey {
    type Error = Invalid;

    fn try_from(key: String) -> Result<Self, Invalid> {
        Self::new(key)
    }
}

impl From<SeqKey> for String {
    fn from(key: SeqKey) -> String {
        key.0.into()
    }
}

impl fmt::Display for SeqKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for SeqKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The values `[start, start + count)` of one sequence, handed out once.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct SeqBlock {
    /// The sequence.
    pub key: SeqKey,
    /// The first value.
    pub start: u64,
    /// How many values; never 0.
    pub count: u32,
}

impl SeqBlock {
    /// The values as a range.
    pub fn range(&self) -> Range<u64> {
        self.start..self.start + u64::from(self.count)
    }
}

/// The most keys one request may name.
pub const MAX_BATCH: usize = 128;

/// What one call asks of the sequences: blocks of distinct keys, granted all or none.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct SeqRequest {
    entries: Vec<(SeqKey, u32)>,
    id: Option<RequestId>,
    name: Option<RequestName>,
}

impl SeqRequest {
    /// Asks for a block per entry: a key, and how many values.
    ///
    /// A request that only closes its session has no entries.
    ///
    /// # Errors
    /// [`Invalid`] if a count is 0, a key occurs twice, or the entries are not 1 to
    /// [`MAX_BATCH`].
    pub fn new(entries: Vec<(SeqKey, u32)>, id: Option<RequestId>) -> Result<Self, Invalid> {
        let invalid = |what: String| Err(Invalid::new(what));
        if entries.is_empty() && !id.is_some_and(|id| id.close) {
            return invalid("a sequence request names at least one key".into());
        }
        if entries.len() > MAX_BATCH {
            let given = entries.len();
            return invalid(format!(
                "a sequence request names at most {MAX_BATCH} keys, not {given}"
            ));
        }
        let mut seen = BTreeSet::new();
        for (key, count) in &entries {
            if *count == 0 {
                return invalid(format!("the count for sequence {key:?} must not be 0"));
            }
            // Most requests name one key, which needs no set.
            if entries.len() > 1 && !seen.insert(key) {
                return invalid(format!("sequence {key:?} occurs twice in one request"));
            }
        }
        Ok(Self { entries, id, name: None })
    }

    /// Asks for a block per entry under a name: the same name and entries give the same blocks until the name
    /// expires.
    ///
    /// # Errors
    /// As of [`new`](Self::new).
    pub fn named(entries: Vec<(SeqKey, u32)>, name: RequestName) -> Result<Self, Invalid> {
        Ok(Self { name: Some(name), ..Self::new(entries, None)? })
    }

    /// Asks for one block, not idempotently.
    ///
    /// # Errors
    /// [`Invalid`] if `count` is 0.
    pub fn single(key: SeqKey, count: u32) -> Result<Self, Invalid> {
        Self::new(vec![(key, count)], None)
    }

    /// Each key with how many values it is asked for.
    pub fn entries(&self) -> &[(SeqKey, u32)] {
        &self.entries
    }

    /// Present if the request is to be exactly once.
    pub fn id(&self) -> Option<&RequestId> {
        self.id.as_ref()
    }

    /// Present if the request has a name.
    pub fn name(&self) -> Option<&RequestName> {
        self.name.as_ref()
    }

    /// All of it, for one who takes the request apart.
    pub fn into_parts(self) -> (Vec<(SeqKey, u32)>, Option<RequestId>, Option<RequestName>) {
        (self.entries, self.id, self.name)
    }
}

/// A client's identity towards the oracle: 16 bytes, drawn at random by the client.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Session(pub [u8; 16]);

impl Session {
    /// The session that a text stands for: always the same one for the same text.
    pub fn from_text(text: &str) -> Self {
        let digest = Sha256::digest(text.as_bytes());
        let mut session = [0; 16];
        session.copy_from_slice(&digest[..16]);
        Self(session)
    }
}

impl fmt::Debug for Session {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:032x}", u128::from_be_bytes(self.0))
    }
}

/// The longest name of a request, in bytes of UTF-8.
pub const MAX_REQUEST_NAME_BYTES: usize = 128;

/// Stands for the name of a request: a text that a person or a business has chosen, and uses for this
/// request alone. Names of 1 to 128 bytes are told apart by their hashes.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RequestName(pub [u8; 16]);

impl RequestName {
    /// Checks a name.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty or longer than [`MAX_REQUEST_NAME_BYTES`].
    pub fn new(name: &str) -> Result<Self, Invalid> {
        match name.len() {
            0 => Err(Invalid::new("the name of a request must not be empty")),
            1..=MAX_REQUEST_NAME_BYTES => Ok(Self(Session::from_text(name).0)),
            n => Err(Invalid::new(format!(
                "the name of a request has at most {MAX_REQUEST_NAME_BYTES} bytes, this one has {n}"
            ))),
        }
    }
}

impl fmt::Debug for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        Session(self.0).fmt(f)
    }
}

/// How long an unused session is kept at least, in time that a leader served.
pub const RETENTION: Duration = Duration::from_secs(600);

/// Makes a sequence request exactly once: the same id gives the same block.
///
/// The state keeps, per session, the answers from `first_incomplete` on; what lies below is
/// forgotten and refused.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RequestId {
    /// Who asks.
    pub session: Session,
    /// The request's number within the session, from 1, rising.
    pub number: NonZeroU64,
    /// The first number whose answer the client still waits for; at most `number`.
    pub first_incomplete: NonZeroU64,
    /// This request was sent before, and so must not be executed if the session is unknown.
    pub retry: bool,
    /// The session ends with this request.
    pub close: bool,
}

impl RequestId {
    /// Checks and makes an id that is neither a retry nor closes its session.
    ///
    /// # Errors
    /// [`Invalid`] if a number is 0 or `first_incomplete` lies above `number`.
    pub fn new(session: Session, number: u64, first_incomplete: u64) -> Result<Self, Invalid> {
        let invalid = |what: String| Invalid::new(what);
        let number = NonZeroU64::new(number)
            .ok_or_else(|| invalid("request numbers start at 1, not 0".into()))?;
        let first_incomplete = NonZeroU64::new(first_incomplete)
            .ok_or_else(|| invalid("first_incomplete starts at 1, not 0".into()))?;
        if first_incomplete > number {
            return Err(invalid(format!(
                "first_incomplete ({first_incomplete}) must not exceed the request's number \
                 ({number})"
            )));
        }
        Ok(Self { session, number, first_incomplete, retry: false, close: false })
    }

    /// The id that a text stands for: request 1 of a session of its own.
    pub fn from_text(text: &str) -> Self {
        Self {
            session: Session::from_text(text),
            number: NonZeroU64::MIN,
            first_incomplete: NonZeroU64::MIN,
            retry: false,
            close: false,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_have_1_to_128_bytes() {
        assert!(SeqKey::new("").is_err());
        assert!(SeqKey::new("k".repeat(128)).is_ok());
        assert!(SeqKey::new("k".repeat(129)).is_err());
        assert!(SeqKey::new("é".repeat(65)).is_err(), "bytes count, not characters");
    }

    #[test]
    fn names_have_1_to_128_bytes() {
        assert!(RequestName::new("").is_err());
        assert!(RequestName::new(&"n".repeat(129)).is_err());
        let longest = RequestName::new(&"n".repeat(128)).unwrap();
        assert_ne!(longest, RequestName::new(&"n".repeat(127)).unwrap());
    }

    #[test]
    fn requests_are_valid_by_construction() {
        let entry = |key: &str, count| (SeqKey::new(key).unwrap(), count);
        let many = |n: usize| (0..n).map(|i| entry(&i.to_string(), 1)).collect::<Vec<_>>();
        assert!(SeqRequest::new(vec![], None).is_err());
        assert!(SeqRequest::new(vec![entry("a", 0)], None).is_err());
        assert!(SeqRequest::new(vec![entry("a", 1), entry("a", 1)], None).is_err());
        assert!(SeqRequest::new(many(MAX_BATCH + 1), None).is_err());
        assert!(SeqRequest::new(many(MAX_BATCH), None).is_ok());
        let close = RequestId { close: true, ..RequestId::from_text("x") };
        assert!(SeqRequest::new(vec![], Some(close)).is_ok());
    }

    #[test]
    fn request_ids_are_valid_by_construction() {
        let session = Session([7; 16]);
        assert!(RequestId::new(session, 0, 0).is_err());
        assert!(RequestId::new(session, 1, 0).is_err());
        assert!(RequestId::new(session, 1, 2).is_err());
        assert!(RequestId::new(session, 2, 2).is_ok());
    }

    #[test]
    fn a_text_always_stands_for_the_same_id() {
        assert_eq!(RequestId::from_text("order 17"), RequestId::from_text("order 17"));
        assert_ne!(RequestId::from_text("order 17"), RequestId::from_text("order 18"));
    }
}
