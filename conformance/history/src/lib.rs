//! What callers saw, and whether it keeps the promises.
//!
//! A history is the calls of any number of callers, each with the time before it was sent and after
//! its answer was received, on one clock that never steps. [`check`] decides from that alone whether
//! order, uniqueness, gapless sequences and epochs held. Two calls are ordered only if one had ended
//! before the other began; calls that overlap may have been carried out in either order.
//!
//! # The file
//! One operation a line, as JSON, in any order ([`read_lines`], [`write_line`]):
//!
//! ```json
//! {"caller":"a","start_ns":10,"end_ns":20,"get_ts":{"count":2,"answered":{"physical_ms":5,"logical":0,"count":2,"epoch":[0,1]}}}
//! {"caller":"b","start_ns":12,"end_ns":31,"get_seq":{"ask":[{"key":"k","count":3}],"answered":{"blocks":[{"key":"k","start":0,"count":3}],"epoch":[0,1]}}}
//! {"caller":"b","start_ns":40,"end_ns":55,"get_seq":{"ask":[{"key":"k","count":1}],"request_id":"7/2","uncertain":"UNAVAILABLE"}}
//! {"caller":"a","start_ns":60,"end_ns":70,"read_seq":{"key":"k","answered":{"next":4,"epoch":[0,1]}}}
//! ```
//!
//! Times are nanoseconds from any point on. An epoch is its upper and its lower 64 bits, and is left
//! out where the caller did not learn the outcome. A call ends in one of three ways:
//!
//! * `answered`;
//! * `refused`, with a status code: certainly not carried out;
//! * `uncertain`, with a status code: carried out, or not, or still about to be.
//!
//! A key starts at 0, unless it was seeded (`seed_seq`, written as `read_seq` is), or a read that had ended before anybody
//! asked for its values found it elsewhere. After a deletion (`delete_seq`, likewise) it starts again. A request that is sent again keeps the
//! blocks of before. Calls that overlap a deletion of their key may belong to either of its lives: from such a deletion on, and
//! from a deletion or a seed of uncertain outcome, the key is not judged.

mod check;
mod epochs;
mod file;
mod gapless;
mod gaps;
mod key;
mod lives;
mod order;
mod report;
mod request;
mod sequences;
mod timestamps;
mod words;

use std::sync::Arc;

use serde::{Deserialize, Serialize};
use tsoracle_types::{Epoch, Timestamp, TimestampRange};

pub use check::check;
pub use file::{read_lines, write_line};
pub use report::{Check, Report, Status, Violation};

/// One call, from before it was sent until after its answer was received.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
pub struct Operation {
    /// Who called, and through what. For people: the checker does not look at it.
    pub caller: Arc<str>,
    /// Read before the request was sent.
    pub start_ns: u64,
    /// Read after the answer was received; not before `start_ns`.
    pub end_ns: u64,
    /// What was asked, and what came of it.
    #[serde(flatten)]
    pub call: Call,
}

/// What was asked, and what came of it.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Call {
    /// Timestamps.
    GetTs {
        /// How many.
        count: u32,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome<Timestamps>,
    },
    /// Blocks of one key, or of several distinct ones, all or nothing.
    GetSeq {
        /// The keys and counts.
        ask: Vec<Ask>,
        /// Calls with the same id are the same request, sent again: together they may be carried out
        /// once.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        request_id: Option<Arc<str>>,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome<Blocks>,
    },
    /// The value that a key's next block starts with; 0 for a key that was never used.
    ReadSeq {
        /// The key.
        key: Arc<str>,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome<Next>,
    },
    /// A key that does not exist begins elsewhere than at 0. Answers the value that its first block starts with.
    SeedSeq {
        /// The key.
        key: Arc<str>,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome<Next>,
    },
    /// A key is forgotten, and begins again with its next use. Answers the value that its next block would have started
    /// with.
    DeleteSeq {
        /// The key.
        key: Arc<str>,
        /// What came of it.
        #[serde(flatten)]
        outcome: Outcome<Next>,
    },
}

/// What came of a call.
#[derive(Clone, PartialEq, Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Outcome<T> {
    /// It was carried out.
    Answered(T),
    /// It was certainly not carried out. Says why, as a rule with a status code.
    Refused(Arc<str>),
    /// It was carried out, or not, or may still be. Says why, as a rule with a status code.
    Uncertain(Arc<str>),
}

/// `count` timestamps from `physical_ms << 18 | logical` on, as answered, sound or not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Timestamps {
    /// Milliseconds since the Unix epoch.
    pub physical_ms: u64,
    /// The position of the first one within its millisecond.
    pub logical: u32,
    /// How many.
    pub count: u32,
    /// The epoch that the answer carried.
    #[serde(default, with = "epoch_parts", skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// One entry of a sequence request.
#[derive(Clone, PartialEq, Eq, Hash, Debug, Serialize, Deserialize)]
pub struct Ask {
    /// The key.
    pub key: Arc<str>,
    /// How many values.
    pub count: u32,
}

/// The blocks of one answer, as answered.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Blocks {
    /// One per key, in the order of the answer.
    pub blocks: Vec<Block>,
    /// The epoch that the answer carried.
    #[serde(default, with = "epoch_parts", skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

/// The values `start` to `start + count - 1` of `key`.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Block {
    /// The key.
    pub key: Arc<str>,
    /// The first value.
    pub start: u64,
    /// How many.
    pub count: u32,
}

/// Where a key stands.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct Next {
    /// The value that the next block starts with.
    pub next: u64,
    /// The epoch that the answer carried.
    #[serde(default, with = "epoch_parts", skip_serializing_if = "Option::is_none")]
    pub epoch: Option<Epoch>,
}

impl Operation {
    /// The epoch that the answer carried, if there was an answer and it did.
    pub(crate) fn epoch(&self) -> Option<Epoch> {
        match &self.call {
            Call::GetTs { outcome: Outcome::Answered(answer), .. } => answer.epoch,
            Call::GetSeq { outcome: Outcome::Answered(answer), .. } => answer.epoch,
            Call::ReadSeq { outcome: Outcome::Answered(answer), .. }
            | Call::SeedSeq { outcome: Outcome::Answered(answer), .. }
            | Call::DeleteSeq { outcome: Outcome::Answered(answer), .. } => answer.epoch,
            _ => None,
        }
    }
}

impl Timestamps {
    /// The timestamps, if they are within one millisecond that exists.
    pub(crate) fn range(&self) -> Option<TimestampRange> {
        let first = Timestamp::from_parts(self.physical_ms, self.logical).ok()?;
        TimestampRange::new(first, self.count).ok()
    }
}

mod epoch_parts {
    use serde::{Deserialize, Deserializer, Serialize, Serializer};
    use tsoracle_types::Epoch;

    pub(super) fn serialize<S: Serializer>(
        epoch: &Option<Epoch>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        epoch.map(|epoch| (epoch.hi(), epoch.lo())).serialize(serializer)
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Option<Epoch>, D::Error> {
        let parts = Option::<(u64, u64)>::deserialize(deserializer)?;
        Ok(parts.map(|(hi, lo)| Epoch::from_parts(hi, lo)))
    }
}

#[cfg(test)]
mod check_test;
#[cfg(test)]
mod lives_test;
#[cfg(test)]
mod model_test;
#[cfg(test)]
mod testing;
