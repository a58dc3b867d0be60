use super::{
    CAPS, ReignRecord, Rules, View,
    keys::{self, Key},
    lease,
    record::{Leases, Meta, RestoredRecord, cast, load},
    session,
};
use crate::{KeyRange, Reads, RequestName, Result, SeqKey, Session};

/// A question about the state.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Query {
    /// Who reigns, and how far timestamps are promised.
    Reign,
    /// The next value of a sequence.
    Sequence(SeqKey),
    /// Sequences in the byte order of their names, with their next values.
    Sequences {
        /// Only those whose names begin with this.
        prefix: String,
        /// Only those after this name; empty for all.
        after: String,
        /// How many to name at most.
        limit: usize,
    },
    /// How far the bounds of all leases reach.
    Frontier {
        /// Boot time since the leader's reign was opened.
        elapsed_ms: u64,
    },
    /// How much there is of what is capped.
    Counts,
    /// Named requests whose time is over, the first to expire first.
    ExpiredNames {
        /// How many to name at most.
        limit: usize,
    },
    /// Sessions whose retention is over, the longest unused first.
    Expired {
        /// How many to name at most.
        limit: usize,
    },
}

/// What a [`Query`] is answered.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Answer {
    /// To [`Query::Reign`]; nothing before the first fence.
    Reign(Option<ReignRecord>),
    /// To [`Query::Sequence`]; nothing if the key was never used.
    Sequence(Option<u64>),
    /// To [`Query::Sequences`].
    Sequences(Vec<(SeqKey, u64)>),
    /// To [`Query::Frontier`].
    Frontier {
        /// The least of the high-water and the bounds of all leases that are not over.
        frontier_ms: u64,
        /// Some of these leases have expired, and a command may end them.
        expired: bool,
    },
    /// To [`Query::Counts`].
    Counts {
        /// In the order of [`Capped`](super::Capped).
        used: [u64; CAPS],
        /// The rules that the state is under.
        rules: Rules,
        /// Sequences are closed, since the state was restored.
        is_closed: bool,
    },
    /// To [`Query::ExpiredNames`].
    ExpiredNames(Vec<RequestName>),
    /// To [`Query::Expired`].
    Expired(Vec<Session>),
}

impl Query {
    /// What [`answer`] most likely reads, so that it can be read at once.
    pub fn reads(&self) -> Reads {
        let mut reads = Reads::default();
        let mut range = |(from, to): (Key, Key), limit| {
            reads.ranges.push(KeyRange { from: from.to_vec(), to: to.to_vec(), limit });
        };
        match self {
            Self::Counts => {
                let counts = [keys::META, keys::LEASES, keys::NAMED, keys::RESTORED];
                reads.keys.extend(counts.map(<[u8]>::to_vec));
            }
            Self::Reign | Self::Expired { .. } | Self::ExpiredNames { .. } => {}
            Self::Sequence(key) => reads.keys.push(keys::sequence(key).to_vec()),
            Self::Sequences { prefix, after, limit } => {
                range(keys::sequences(prefix, after), *limit);
            }
            Self::Frontier { .. } => {
                range(keys::lease_bounds(), 1);
                range(keys::lease_ends(), 1);
            }
        }
        reads
    }
}

/// Answers `query` from the state behind `view`.
///
/// # Errors
/// Only those of `view`.
pub fn answer(view: &dyn View, query: &Query) -> Result<Answer> {
    Ok(match query {
        Query::Reign => Answer::Reign(ReignRecord::load(view)?.cloned()),
        Query::Sequence(key) => Answer::Sequence(load(view, &keys::sequence(key))?.copied()),
        Query::Sequences { prefix, after, limit } => {
            let (from, to) = keys::sequences(prefix, after);
            let entries = view.scan(&from, &to, *limit)?.into_iter();
            let sequences = entries.filter_map(|(key, record)| {
                let name = keys::name_of(key)?;
                Some(cast::<u64>(key, record).map(|next| (name, *next)))
            });
            Answer::Sequences(sequences.collect::<Result<_>>()?)
        }
        Query::Frontier { elapsed_ms } => lease::frontier(view, *elapsed_ms)?,
        Query::Counts => {
            let meta = Meta::load(view)?;
            let leases = load::<Leases>(view, keys::LEASES)?.map_or(0, |leases| leases.count);
            let named = load::<u64>(view, keys::NAMED)?.copied().unwrap_or_default();
            let used = [meta.keys, meta.sessions, leases, named];
            let is_closed = load::<RestoredRecord>(view, keys::RESTORED)?.is_some();
            Answer::Counts { used, rules: Rules::new(meta.rules), is_closed }
        }
        Query::ExpiredNames { limit } => {
            let session_ms = ReignRecord::load(view)?.map_or(0, |record| record.session_ms);
            let (from, to) = keys::name_ends(session_ms);
            let entries = view.scan(&from, &to, *limit)?;
            let names = entries.iter().filter_map(|(key, _)| keys::request_of(key));
            Answer::ExpiredNames(names.collect())
        }
        Query::Expired { limit } => {
            let session_ms = ReignRecord::load(view)?.map_or(0, |record| record.session_ms);
            let (from, to) = keys::last_uses(session::expired_before(session_ms));
            let entries = view.scan(&from, &to, *limit)?;
            Answer::Expired(entries.iter().filter_map(|(key, _)| keys::session_of(key)).collect())
        }
    })
}
