use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{View, keys};
use crate::{Epoch, Error, ErrorKind, LeaseHolder, LeaseId, NodeId, Result, driver::Version};

/// The version of the rules that a new state is under.
pub(super) const FIRST_RULES: u32 = 1;

/// The version from which on a state may hold stamping leases. The first lease raises it, so that a
/// release which knows nothing of leases refuses the state instead of breaking them.
pub(super) const LEASE_RULES: u32 = 2;

/// The highest version of the rules that this release knows.
pub(super) const RULES: u32 = LEASE_RULES;

/// The first byte of every stored value: how the rest is encoded.
const FORMAT: u8 = 1;

/// The first byte of a reign record that notes versions. Without them it has the first format.
const REIGN_FORMAT: u8 = 2;

/// How far a reign has come.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Stage {
    /// Older epochs are rejected; nothing is served yet.
    Fenced,
    /// It serves.
    Open,
    /// It is over, and everything of its epoch is rejected.
    Released,
    /// Another state is being copied here, and is not whole yet: no node may reign over it.
    Importing,
}

/// Which node reigns, and up to where timestamps are reserved.
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
    /// The version of the commit that wrote this record. A successor that has seen that very commit
    /// knows since when the lease has been running.
    pub version: Version,
    /// The version that the last fence was based on. It tells what became of a commit on the version
    /// before.
    pub fenced_on: Version,
}

/// A reign record of the first format, which knew no versions.
#[derive(Deserialize)]
struct UnversionedReign {
    epoch: Epoch,
    stage: Stage,
    high_water_ms: u64,
    lease_ms: u64,
    opened_by: Option<NodeId>,
    released: bool,
    session_ms: u64,
    session_base_ms: u64,
}

impl From<UnversionedReign> for ReignRecord {
    fn from(old: UnversionedReign) -> Self {
        Self {
            epoch: old.epoch,
            stage: old.stage,
            high_water_ms: old.high_water_ms,
            lease_ms: old.lease_ms,
            opened_by: old.opened_by,
            released: old.released,
            session_ms: old.session_ms,
            session_base_ms: old.session_base_ms,
            version: Version::EMPTY,
            fenced_on: Version::EMPTY,
        }
    }
}

/// A stored value, decoded. Its key tells which one it is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Record {
    /// Under [`REIGN`](super::REIGN).
    Reign(ReignRecord),
    /// Counts of keys and sessions.
    Meta(Meta),
    /// How far an import has come.
    Progress(Progress),
    /// The next value of a sequence.
    Next(u64),
    /// A client's session.
    Session(SessionRecord),
    /// What some neighbouring requests of a session were answered.
    Answers(AnswerPage),
    /// Counts of stamping leases.
    Leases(Leases),
    /// A stamping lease.
    Lease(LeaseRecord),
    /// An entry of an index, whose key says everything.
    Mark,
    /// What is copied without a look into it, or belongs to a driver.
    Raw(Vec<u8>),
}

/// Counts, so that caps need no scan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
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
pub struct Progress {
    pub(super) entries: u64,
    /// The key of the last one.
    pub(super) last: Vec<u8>,
}

/// A client's session.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct SessionRecord {
    /// Requests below are forgotten, and refused.
    pub(super) first_incomplete: u64,
    /// Session time of the last use, to within an eighth of the retention.
    pub(super) last_used_ms: u64,
}

/// Stamping leases, counted.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Leases {
    pub(super) count: u64,
    /// The last id that was given to one.
    pub(super) last_id: u64,
}

/// A stamping lease.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LeaseRecord {
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
pub struct AnswerPage(Vec<u8>);

impl AnswerPage {
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

    /// The page with the answer to a request that has none yet. No page is an empty one.
    pub(super) fn with(page: Option<&Self>, number: u64, answer: &AnswerRecord) -> Self {
        let answer = postcard::to_stdvec(answer).expect(ENCODABLE);
        let bytes = page.map_or_else(|| vec![FORMAT], |page| page.0.clone());
        Self(postcard::to_extend(&(number, answer), bytes).expect(ENCODABLE))
    }
}

const ENCODABLE: &str = "records have no part that cannot be encoded";

impl Record {
    /// Reads what is stored under `key`.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read.
    pub fn decode(key: &[u8], bytes: Vec<u8>) -> Result<Self> {
        Ok(match key.first() {
            Some(b'r') if bytes.first() == Some(&FORMAT) => {
                Self::Reign(decode::<UnversionedReign>(key, &bytes, FORMAT)?.into())
            }
            Some(b'r') => Self::Reign(decode(key, &bytes, REIGN_FORMAT)?),
            Some(b'm') => Self::Meta(decode(key, &bytes, FORMAT)?),
            Some(b'i') => Self::Progress(decode(key, &bytes, FORMAT)?),
            Some(b's') => Self::Next(decode(key, &bytes, FORMAT)?),
            Some(b'u') => Self::Session(decode(key, &bytes, FORMAT)?),
            Some(b'k') => Self::Leases(decode(key, &bytes, FORMAT)?),
            Some(b'l' | b'h' | b'e') => Self::Lease(decode(key, &bytes, FORMAT)?),
            Some(b'a') if bytes.first() == Some(&FORMAT) => Self::Answers(AnswerPage(bytes)),
            Some(b'a') => return Err(corrupt(key, "a stored value has an unknown format")),
            Some(b'x' | b'b') if bytes.is_empty() => Self::Mark,
            Some(b'x' | b'b') => return Err(corrupt(key, "an entry of an index has a value")),
            _ => Self::Raw(bytes),
        })
    }

    /// The value as it is stored.
    pub(super) fn encode(&self) -> Vec<u8> {
        match self {
            Self::Reign(record) => encode(record, REIGN_FORMAT),
            Self::Meta(meta) => encode(meta, FORMAT),
            Self::Progress(progress) => encode(progress, FORMAT),
            Self::Next(next) => encode(next, FORMAT),
            Self::Session(session) => encode(session, FORMAT),
            Self::Leases(leases) => encode(leases, FORMAT),
            Self::Lease(lease) => encode(lease, FORMAT),
            Self::Answers(page) => page.0.clone(),
            Self::Mark => vec![],
            Self::Raw(bytes) => bytes.clone(),
        }
    }

    /// How many bytes [`encode`](Self::encode) makes at most.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Reign(_) => 200,
            Self::Meta(_) | Self::Leases(_) | Self::Session(_) => 32,
            Self::Next(_) => 11,
            Self::Progress(progress) => 16 + progress.last.len(),
            Self::Lease(lease) => 96 + lease.holder.as_bytes().len(),
            Self::Answers(page) => page.0.len(),
            Self::Mark => 0,
            Self::Raw(bytes) => bytes.len(),
        }
    }
}

fn encode<T: Serialize>(value: &T, format: u8) -> Vec<u8> {
    postcard::to_extend(value, vec![format]).expect(ENCODABLE)
}

fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8], format: u8) -> Result<T> {
    match bytes.split_first() {
        Some((found, body)) if *found == format => postcard::from_bytes(body)
            .map_err(|source| corrupt(key, "a stored value is damaged").with_source(source)),
        Some(_) => Err(corrupt(key, "a stored value has an unknown format")),
        None => Err(corrupt(key, "a stored value is empty")),
    }
}

fn corrupt(key: &[u8], what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what} under key {}", key.escape_ascii()))
}

/// The record of one kind.
pub(super) trait Stored: Sized {
    fn of(record: &Record) -> Option<&Self>;
}

macro_rules! stored {
    ($($variant:ident: $kind:ty),*) => {$(
        impl Stored for $kind {
            fn of(record: &Record) -> Option<&Self> {
                if let Record::$variant(value) = record { Some(value) } else { None }
            }
        }

        impl From<$kind> for Record {
            fn from(value: $kind) -> Self {
                Self::$variant(value)
            }
        }
    )*};
}

stored!(
    Reign: ReignRecord,
    Meta: Meta,
    Progress: Progress,
    Next: u64,
    Session: SessionRecord,
    Answers: AnswerPage,
    Leases: Leases,
    Lease: LeaseRecord
);

pub(super) fn load<'v, T: Stored>(view: &'v dyn View, key: &[u8]) -> Result<Option<&'v T>> {
    view.get(key)?.map(|record| cast(key, record)).transpose()
}

/// The record under `key`, which is of the kind that the key says.
pub(super) fn cast<'r, T: Stored>(key: &[u8], record: &'r Record) -> Result<&'r T> {
    T::of(record).ok_or_else(|| corrupt(key, "a value of another kind is stored"))
}

impl ReignRecord {
    pub(super) fn load(view: &dyn View) -> Result<Option<&Self>> {
        load(view, keys::REIGN)
    }

    /// Session time `elapsed_ms` after the reign was opened.
    pub(super) fn session_time(&self, elapsed_ms: u64) -> u64 {
        self.session_ms.max(self.session_base_ms.saturating_add(elapsed_ms))
    }
}

impl Meta {
    pub(super) fn load(view: &dyn View) -> Result<Self> {
        Ok(load(view, keys::META)?.cloned().unwrap_or_default())
    }
}
