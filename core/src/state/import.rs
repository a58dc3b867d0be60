//! Copying a whole state from one driver to another: out in pages, and in again.
//!
//! A state that is being imported has a reign record of its own kind, so that no node can reign over it
//! before it is whole.

use super::{
    Record, ReignRecord, Reject, Reply, Stage, View, Writes, keys,
    plan::Planned,
    record::{Meta, Progress, RULES, load},
    reign,
};
use crate::{
    Epoch, Result,
    driver::{Entry, KeyRange, Version},
};

/// A step of an import, into a state that was never used.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Import {
    /// Begins one. Until it is finished, no node reigns over the state. One that has brought nothing
    /// yet may be begun again.
    Begin,
    /// Brings some entries, in the order of [`copied`].
    Page {
        /// How many were brought before.
        before: u64,
        /// In the order of their keys, behind all that were brought before.
        entries: Vec<Entry>,
    },
    /// Makes it whole.
    Finish {
        /// How many entries there are in all.
        entries: u64,
        /// The reign record of the state that was copied.
        record: Box<ReignRecord>,
    },
}

/// The ranges of keys that a copy holds: all but the reign record, the traces of an import, the version,
/// and what belongs to a driver. From before the first key of each kind to behind its last.
pub(crate) fn copied(after: &[u8], limit: usize) -> Vec<KeyRange> {
    let ranges = keys::COPIED.iter().map(|&kind| keys::kind(kind));
    let ranges = ranges.filter(|(_, to)| after < &to[..]).map(|(from, to)| KeyRange {
        // Behind a key comes first the one that is a zero byte longer.
        from: if after < &from[..] { from.to_vec() } else { [after, &[0]].concat() },
        to: to.to_vec(),
        limit,
    });
    ranges.collect()
}

pub(super) fn import(view: &dyn View, step: &Import) -> Planned {
    let record = ReignRecord::load(view)?;
    let progress = load::<Progress>(view, keys::IMPORT)?.cloned().unwrap_or_default();
    match step {
        Import::Begin => begin(record, &progress),
        Import::Page { before, entries } => {
            importing(record)?;
            page(&progress, *before, entries)
        }
        Import::Finish { entries, record: copied } => {
            let finished = finished(copied);
            // The answer to the first one may have been lost.
            if record.is_some_and(|record| is_same(record, &finished)) {
                return Ok((Reply::Imported { entries: *entries }, Writes::default()));
            }
            importing(record)?;
            let rules = Meta::load(view)?.rules;
            if rules > RULES {
                return Err(Reject::NewerRules { rules }.into());
            }
            if progress.entries != *entries {
                return Err(Reject::ImportBroken { entries: progress.entries }.into());
            }
            let mut writes = Writes::default();
            writes.put(keys::REIGN, finished);
            writes.delete(keys::IMPORT);
            Ok((Reply::Imported { entries: *entries }, writes))
        }
    }
}

fn begin(record: Option<&ReignRecord>, progress: &Progress) -> Planned {
    match record {
        None => {}
        Some(record) if record.stage != Stage::Importing => return Err(Reject::NotEmpty.into()),
        Some(_) if progress.entries > 0 => return Err(Reject::Importing.into()),
        Some(_) => {}
    }
    let record = ReignRecord {
        epoch: Epoch::default(),
        stage: Stage::Importing,
        high_water_ms: 0,
        lease_ms: 0,
        opened_by: None,
        released: false,
        session_ms: 0,
        session_base_ms: 0,
        version: Version::EMPTY,
        fenced_on: Version::EMPTY,
    };
    let mut writes = Writes::default();
    writes.put(keys::REIGN, record);
    Ok((Reply::Imported { entries: 0 }, writes))
}

fn page(progress: &Progress, before: u64, entries: &[Entry]) -> Planned {
    let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
        return Ok((Reply::Imported { entries: progress.entries }, Writes::default()));
    };
    let after = before + entries.len() as u64;
    if progress.entries == after && progress.last == *last {
        // The answer to it was lost.
        return Ok((Reply::Imported { entries: after }, Writes::default()));
    }
    let is_known = |key: &[u8]| key.first().is_some_and(|kind| keys::COPIED.contains(kind));
    let goes_on = progress.entries == before && *first > progress.last;
    if !goes_on
        || !entries.is_sorted_by(|(a, _), (b, _)| a < b)
        || !entries.iter().all(|(key, _)| is_known(key))
    {
        return Err(Reject::ImportBroken { entries: progress.entries }.into());
    }
    let mut writes = Writes::default();
    for (key, value) in entries {
        writes.put(key, Record::Raw(value.clone()));
    }
    writes.put(keys::IMPORT, Progress { entries: after, last: last.clone() });
    Ok((Reply::Imported { entries: after }, writes))
}

/// Whether an import is under way.
fn importing(record: Option<&ReignRecord>) -> Result<(), Reject> {
    match record {
        Some(record) if record.stage == Stage::Importing => Ok(()),
        Some(_) => Err(Reject::NotEmpty),
        None => Err(Reject::ImportBroken { entries: 0 }),
    }
}

/// What a record becomes elsewhere: its reign is over, its lease still has to be waited for.
fn finished(copied: &ReignRecord) -> ReignRecord {
    ReignRecord {
        stage: Stage::Released,
        opened_by: copied.opened_by.map(|_| reign::ELSEWHERE),
        version: Version::EMPTY,
        fenced_on: Version::EMPTY,
        ..copied.clone()
    }
}

/// Whether a stored record is one that was to be stored.
fn is_same(stored: &ReignRecord, wanted: &ReignRecord) -> bool {
    ReignRecord { version: wanted.version, ..stored.clone() } == *wanted
}
