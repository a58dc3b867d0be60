use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{View, keys};
use crate::{Epoch, Error, ErrorKind, LeaseHolder, LeaseId, NodeId, Result};

/// The version of the rules that a new state is under.
pub(super) const FIRST_RULES: u32 = 1;

/// The version from which on a state may hold stamping leases. The first lease raises it, so that a
/// release which knows nothing of leases refuses the state instead of breaking them.
pub(super) const LEASE_RULES: u32 = 2;

/// The highest version of the rules that this release knows.
pub(super) const RULES: u32 = LEASE_RULES;

/// The first byte of every stored value: how the rest is encoded.
const FORMAT: u8 = 1;

/// How far a reign has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// Older epochs are rejected; nothing is served yet.
    Fenced,
    /// It serves.
    Open,
    /// It is over, and everything of its epoch is rejected.
    Released,
    /// Another state is being copied here, and is not whole yet: nobody may reign over it.
    Importing,
}

/// Who reigns, and how far timestamps have been promised.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct ReignRecord {
    /// The epoch of the last fence.
    pub epoch: Epoch,
    /// How far that epoch has come.
    pub stage: Stage,
    /// No timestamp of a later millisecond has been granted.
    pub high_water_ms: u64,
    /// The lease that may still be served under.
    pub lease_ms: u64,
    /// The last node that was let serve; a fence alone does not change it.
    pub opened_by: Option<NodeId>,
    /// That node has stopped for good; a fence alone does not change it.
    pub released: bool,
    /// Session time: the boot time that leaders have spent serving.
    pub session_ms: u64,
    /// Session time when the reign was opened.
    pub session_base_ms: u64,
}

/// Counts, so that caps need no scan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Meta {
    pub(super) rules: u32,
    pub(super) keys: u64,
    pub(super) sessions: u64,
}

impl Default for Meta {
    fn default() -> Self {
        Self { rules: FIRST_RULES, keys: 0, sessions: 0 }
    }
}

/// How far an import has come.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Progress {
    pub(super) entries: u64,
    /// The key of the last one.
    pub(super) last: Vec<u8>,
}

/// A client's session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct SessionRecord {
    /// Requests below are forgotten, and refused.
    pub(super) first_incomplete: u64,
    /// Session time of the last use, to within an eighth of the retention.
    pub(super) last_used_ms: u64,
}

/// Stamping leases, counted.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub(super) struct Leases {
    pub(super) count: u64,
    /// The last id that was given to one.
    pub(super) last_id: u64,
}

/// A stamping lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct LeaseRecord {
    pub(super) id: LeaseId,
    pub(super) holder: LeaseHolder,
    pub(super) holder_epoch: u64,
    pub(super) ttl_ms: u64,
    /// The last millisecond that the holder may stamp.
    pub(super) bound_ms: u64,
    /// When it runs out by the leader's wall clock, as the holder was told.
    pub(super) expires_at_ms: u64,
    /// Until when, in session time, the holder may rely on it.
    pub(super) until_ms: u64,
    /// The holder has taken another one since.
    pub(super) superseded: bool,
}

/// What a request was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct AnswerRecord {
    /// Tells this request from another of the same number.
    pub(super) digest: [u8; 16],
    /// The first value of each block, in the order asked for.
    pub(super) starts: Vec<u64>,
}

/// The answers to some neighbouring requests: each one's number, then its encoded
/// [`AnswerRecord`]. To add one the others need not be decoded.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(super) struct AnswerPage(Vec<u8>);

impl AnswerPage {
    /// Nothing is an empty page.
    pub(super) fn load(view: &dyn View, key: &[u8]) -> Result<Self> {
        match view.get(key)? {
            None => Ok(Self(vec![FORMAT])),
            Some(bytes) if bytes.first() == Some(&FORMAT) => Ok(Self(bytes)),
            Some(_) => Err(corrupt(key, "a stored value has an unknown format")),
        }
    }

    pub(super) fn find(&self, key: &[u8], number: u64) -> Result<Option<AnswerRecord>> {
        let damaged = |source| corrupt(key, "a stored value is damaged").with_source(source);
        let mut rest = &self.0[1..];
        while !rest.is_empty() {
            let ((found, answer), behind): ((u64, &[u8]), _) =
                postcard::take_from_bytes(rest).map_err(damaged)?;
            if found == number {
                return postcard::from_bytes(answer).map(Some).map_err(damaged);
            }
            rest = behind;
        }
        Ok(None)
    }

    /// Adds the answer to a request that has none yet.
    pub(super) fn push(self, number: u64, answer: &AnswerRecord) -> Self {
        let answer = postcard::to_stdvec(answer).expect(ENCODABLE);
        Self(postcard::to_extend(&(number, answer), self.0).expect(ENCODABLE))
    }

    pub(super) fn into_bytes(self) -> Vec<u8> {
        self.0
    }
}

const ENCODABLE: &str = "records have no part that cannot be encoded";

pub(super) fn encode<T: Serialize>(value: &T) -> Vec<u8> {
    postcard::to_extend(value, vec![FORMAT]).expect(ENCODABLE)
}

pub(super) fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8]) -> Result<T> {
    match bytes.split_first() {
        Some((&FORMAT, body)) => postcard::from_bytes(body)
            .map_err(|source| corrupt(key, "a stored value is damaged").with_source(source)),
        Some(_) => Err(corrupt(key, "a stored value has an unknown format")),
        None => Err(corrupt(key, "a stored value is empty")),
    }
}

fn corrupt(key: &[u8], what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what} under key {}", key.escape_ascii()))
}

pub(super) fn load<T: DeserializeOwned>(view: &dyn View, key: &[u8]) -> Result<Option<T>> {
    view.get(key)?.map(|bytes| decode(key, &bytes)).transpose()
}

impl ReignRecord {
    pub(super) fn load(view: &dyn View) -> Result<Option<Self>> {
        load(view, keys::REIGN)
    }

    /// Session time `elapsed_ms` after the reign was opened.
    pub(super) fn session_time(&self, elapsed_ms: u64) -> u64 {
        self.session_ms.max(self.session_base_ms.saturating_add(elapsed_ms))
    }
}

impl Meta {
    pub(super) fn load(view: &dyn View) -> Result<Self> {
        Ok(load(view, keys::META)?.unwrap_or_default())
    }
}
