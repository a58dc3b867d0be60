use serde::{Deserialize, Serialize, de::DeserializeOwned};

use super::{
    View,
    answers::{AnswerPage, AnswerRecord},
    keys,
};
use crate::{
    Epoch, Error, ErrorKind, Identity, LeaseHolder, LeaseId, NodeId, Result, driver::Version,
    varint,
};

/// The version of the rules that a new state is under.
pub(super) const FIRST_RULES: u32 = 1;

/// The version from which on a state may hold stamping leases. The first lease raises it, so that a
/// release which knows nothing of leases refuses the state instead of breaking them.
pub(super) const LEASE_RULES: u32 = 2;

/// The version from which on answers may be kept in pages of the present format.
pub(super) const ANSWER_RULES: u32 = 3;

/// The version from which on a state may hold named requests. A release that does not know them would carry
/// out again what is asked for again, and must not lead.
pub(super) const NAMED_RULES: u32 = 4;

/// The version from which on stamping leases may have owners. A release that does not know them would let
/// anybody take them away.
pub(super) const OWNER_RULES: u32 = 5;

/// The version from which on sequences may be closed, since the state was restored from a backup. A release that
/// does not know that would grant values once more, and must not lead.
pub(super) const RESTORED_RULES: u32 = 6;

/// The highest version of the rules that this release knows.
pub(crate) const RULES: u32 = RESTORED_RULES;

/// The first byte of every stored value: how the rest is encoded.
pub(super) const FORMAT: u8 = 1;

/// The first byte of a reign record that notes versions. Without them it has the first format.
const REIGN_FORMAT: u8 = 2;

/// The first byte of a lease that has an owner. Without one it has the first format.
const OWNED_FORMAT: u8 = 2;

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
    Reign(Box<ReignRecord>),
    /// Counts of keys and sessions.
    Meta(Meta),
    /// How far an import has come.
    Progress(Progress),
    /// The next value of a sequence, or the count of named requests.
    Next(u64),
    /// A client's session.
    Session(SessionRecord),
    /// What some neighbouring requests of a session were answered.
    Answers(AnswerPage),
    /// What a named request was answered.
    Named(NamedRecord),
    /// Counts of stamping leases.
    Leases(Leases),
    /// A stamping lease.
    Lease(Box<LeaseRecord>),
    /// From when the backup is that the state was restored from.
    Restored(RestoredRecord),
    /// An entry of an index, whose key says everything.
    Mark,
    /// What is copied without a look into it, or belongs to a driver.
    Raw(Vec<u8>),
}

/// Counts, so that caps need no scan.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Meta {
    pub(crate) rules: u32,
    pub(crate) keys: u64,
    pub(crate) sessions: u64,
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

/// What a named request was answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct NamedRecord {
    pub(super) answer: AnswerRecord,
    /// The session time until which it is kept.
    pub(super) expires_ms: u64,
}

/// Sequences are closed, since the state was restored from a backup.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct RestoredRecord {
    /// When the backup was taken, by the clock of who took it.
    pub(super) taken_ms: u64,
}

/// Stamping leases, counted.
#[derive(Clone, PartialEq, Eq, Default, Debug, Serialize, Deserialize)]
pub struct Leases {
    pub(crate) count: u64,
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
    /// When it runs out by the leader's wall clock, as its holder knows it.
    pub(super) expires_at_ms: u64,
    /// Until when, in session time, the holder may rely on it.
    pub(super) until_ms: u64,
    /// The holder has taken another one since.
    pub(super) superseded: bool,
    /// Who has acquired it, if that was proven; nobody else may renew, release or supersede it. Stored behind all else.
    #[serde(skip)]
    pub(super) owner: Option<Identity>,
}

const ENCODABLE: &str = "records have no part that cannot be encoded";

impl Record {
    /// Reads what is stored under `key`.
    ///
    /// # Errors
    /// `Corrupt` if it cannot be read.
    pub fn decode(key: &[u8], bytes: Vec<u8>) -> Result<Self> {
        Ok(match key.first() {
            Some(b'r') => Self::Reign(Box::new(decode_reign(key, &bytes)?)),
            Some(b'm') => Self::Meta(decode(key, &bytes, FORMAT)?),
            Some(b'i') => Self::Progress(decode(key, &bytes, FORMAT)?),
            Some(b's' | b'p') => Self::Next(decode(key, &bytes, FORMAT)?),
            Some(b'q') => Self::Named(decode(key, &bytes, FORMAT)?),
            Some(b'u') => Self::Session(decode(key, &bytes, FORMAT)?),
            Some(b'k') => Self::Leases(decode(key, &bytes, FORMAT)?),
            Some(b'l' | b'h' | b'e') => Self::Lease(Box::new(LeaseRecord::decode(key, &bytes)?)),
            Some(b'a') => Self::Answers(AnswerPage::decode(key, bytes)?),
            Some(b'w') if key.len() == 1 => Self::Restored(decode(key, &bytes, FORMAT)?),
            Some(b'x' | b'b' | b'y' | b'w') if bytes.is_empty() => Self::Mark,
            Some(b'x' | b'b' | b'y' | b'w') => {
                return Err(corrupt(key, "an entry of an index has a value"));
            }
            _ => Self::Raw(bytes),
        })
    }

    /// Appends the value as it is stored.
    pub(super) fn encode_to(&self, mut bytes: Vec<u8>) -> Vec<u8> {
        match self {
            Self::Reign(record) => return encode(bytes, record, REIGN_FORMAT),
            Self::Meta(meta) => return encode(bytes, meta, FORMAT),
            Self::Progress(progress) => return encode(bytes, progress, FORMAT),
            Self::Next(next) => {
                bytes.push(FORMAT);
                varint::push(&mut bytes, *next);
            }
            Self::Session(session) => return encode(bytes, session, FORMAT),
            Self::Named(named) => return encode(bytes, named, FORMAT),
            Self::Leases(leases) => return encode(bytes, leases, FORMAT),
            Self::Restored(restored) => return encode(bytes, restored, FORMAT),
            Self::Lease(lease) => return lease.encode_to(bytes),
            Self::Answers(page) => bytes.extend_from_slice(page.as_bytes()),
            Self::Mark => {}
            Self::Raw(raw) => bytes.extend_from_slice(raw),
        }
        bytes
    }

    /// The value as it is stored.
    pub(crate) fn encode(&self) -> Vec<u8> {
        self.encode_to(vec![])
    }

    /// How many bytes [`encode_to`](Self::encode_to) adds at most.
    pub(super) fn size(&self) -> usize {
        match self {
            Self::Reign(_) => 200,
            Self::Meta(_) | Self::Leases(_) | Self::Session(_) | Self::Restored(_) => 32,
            Self::Next(_) => 11,
            Self::Progress(progress) => 16 + progress.last.len(),
            Self::Named(named) => 16 + named.answer.encoded_len(),
            Self::Lease(lease) => {
                let owner = lease.owner.as_ref().map_or(0, |owner| 2 + owner.as_str().len());
                96 + lease.holder.as_bytes().len() + owner
            }
            Self::Answers(page) => page.as_bytes().len(),
            Self::Mark => 0,
            Self::Raw(bytes) => bytes.len(),
        }
    }
}

fn encode<T: Serialize>(mut bytes: Vec<u8>, value: &T, format: u8) -> Vec<u8> {
    bytes.push(format);
    postcard::to_extend(value, bytes).expect(ENCODABLE)
}

fn decode<T: DeserializeOwned>(key: &[u8], bytes: &[u8], format: u8) -> Result<T> {
    match bytes.split_first() {
        Some((found, body)) if *found == format => postcard::from_bytes(body)
            .map_err(|source| corrupt(key, "a stored value is damaged").with_source(source)),
        Some((found, _)) => Err(unknown_format(key, *found, format)),
        None => Err(corrupt(key, "a stored value is empty")),
    }
}

fn decode_reign(key: &[u8], bytes: &[u8]) -> Result<ReignRecord> {
    match bytes.first() {
        Some(&FORMAT) => decode::<UnversionedReign>(key, bytes, FORMAT).map(Into::into),
        _ => decode(key, bytes, REIGN_FORMAT),
    }
}

pub(super) fn unknown_format(key: &[u8], found: u8, known: u8) -> Error {
    let what = format_args!("the value under key {}", key.escape_ascii());
    Error::unknown_format(what, found.into(), known.into())
}

pub(super) fn corrupt(key: &[u8], what: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("{what} under key {}", key.escape_ascii()))
}

/// The record of one kind.
pub(super) trait Stored: Sized {
    fn of(record: &Record) -> Option<&Self>;
}

macro_rules! stored {
    ($($variant:ident($value:ident): $kind:ty = $of:expr, $from:expr);*) => {$(
        impl Stored for $kind {
            fn of(record: &Record) -> Option<&Self> {
                if let Record::$variant($value) = record { Some($of) } else { None }
            }
        }

        impl From<$kind> for Record {
            fn from($value: $kind) -> Self {
                Self::$variant($from)
            }
        }
    )*};
}

stored!(
    Reign(record): ReignRecord = record.as_ref(), Box::new(record);
    Meta(meta): Meta = meta, meta;
    Progress(progress): Progress = progress, progress;
    Next(next): u64 = next, next;
    Session(session): SessionRecord = session, session;
    Answers(page): AnswerPage = page, page;
    Named(named): NamedRecord = named, named;
    Leases(leases): Leases = leases, leases;
    Restored(restored): RestoredRecord = restored, restored;
    Lease(lease): LeaseRecord = lease.as_ref(), Box::new(lease)
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

    /// That of a snapshot, of which it is the first value.
    pub(crate) fn first_of(values: Vec<Option<Vec<u8>>>) -> Result<Option<Self>> {
        let stored = values.into_iter().next().flatten();
        stored.map(|bytes| decode_reign(keys::REIGN, &bytes)).transpose()
    }

    /// Session time `elapsed_ms` after the reign was opened.
    pub(super) fn session_time(&self, elapsed_ms: u64) -> u64 {
        self.session_ms.max(self.session_base_ms.saturating_add(elapsed_ms))
    }
}

impl LeaseRecord {
    fn decode(key: &[u8], bytes: &[u8]) -> Result<Self> {
        let Some((&OWNED_FORMAT, body)) = bytes.split_first() else {
            return decode(key, bytes, FORMAT);
        };
        let both = postcard::take_from_bytes::<Self>(body)
            .and_then(|(lease, rest)| Ok((lease, postcard::from_bytes(rest)?)));
        let (lease, owner) =
            both.map_err(|source| corrupt(key, "a stored value is damaged").with_source(source))?;
        Ok(Self { owner: Some(owner), ..lease })
    }

    fn encode_to(&self, bytes: Vec<u8>) -> Vec<u8> {
        match &self.owner {
            None => encode(bytes, self, FORMAT),
            Some(owner) => {
                let bytes = encode(bytes, self, OWNED_FORMAT);
                postcard::to_extend(owner, bytes).expect(ENCODABLE)
            }
        }
    }
}

impl Meta {
    pub(super) fn load(view: &dyn View) -> Result<Self> {
        Ok(load(view, keys::META)?.cloned().unwrap_or_default())
    }
}
