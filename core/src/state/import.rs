//! Copying a whole state from one driver to another: out in pages, and in again.
//!
//! A state that is being imported has a reign record of its own kind, so that nobody can reign over it
//! before it is whole.

use serde::{Deserialize, Serialize};

use super::{
    Effect, Entry, ReignRecord, Reject, Reply, Stage, View, keys,
    plan::Planned,
    record::{Meta, Progress, RULES, encode, load},
};
use crate::{Epoch, NodeId, Result};

/// A step of an import, into a state that was never used.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub enum Import {
    /// Begins one. Until it is finished, nobody reigns over the state. One that has brought nothing
    /// yet may be begun again.
    Begin {
        /// It may go on only under an epoch that is not lower: that of the state which is copied.
        floor: Epoch,
    },
    /// Brings some entries, as [`Query::Export`](super::Query::Export) gave them.
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
        record: ReignRecord,
    },
}

/// Who has served last over an imported state: no node of the cluster it is in now, so that a lease
/// which was not released is waited out.
const ELSEWHERE: NodeId = NodeId(u128::MAX);

pub(super) fn import(view: &dyn View, epoch: Epoch, step: &Import) -> Result<Planned> {
    let record = ReignRecord::load(view)?;
    let progress: Progress = load(view, keys::IMPORT)?.unwrap_or_default();
    match step {
        Import::Begin { floor } => Ok(begin(record, &progress, epoch.max(*floor))),
        Import::Page { before, entries } => Ok(match importing(record, epoch) {
            Ok(_) => page(&progress, *before, entries),
            Err(reject) => Err(reject),
        }),
        Import::Finish { entries, record: copied } => {
            // The answer to the first one may have been lost.
            if record.as_ref() == Some(&finished(copied, epoch)) {
                return Ok(Ok((Reply::Imported { entries: *entries }, Effect::default())));
            }
            if let Err(reject) = importing(record, epoch) {
                return Ok(Err(reject));
            }
            let rules = Meta::load(view)?.rules;
            if rules > RULES {
                return Ok(Err(Reject::NewerRules { rules }));
            }
            if progress.entries != *entries {
                return Ok(Err(Reject::ImportBroken { entries: progress.entries }));
            }
            let mut effect = Effect::default();
            effect.put(keys::REIGN, encode(&finished(copied, epoch)));
            effect.delete(keys::IMPORT);
            Ok(Ok((Reply::Imported { entries: *entries }, effect)))
        }
    }
}

fn begin(record: Option<ReignRecord>, progress: &Progress, epoch: Epoch) -> Planned {
    match record {
        None => {}
        Some(record) if record.stage != Stage::Importing => return Err(Reject::NotEmpty),
        Some(_) if progress.entries > 0 => return Err(Reject::Importing),
        Some(_) => {}
    }
    let record = ReignRecord {
        epoch,
        stage: Stage::Importing,
        high_water_ms: 0,
        lease_ms: 0,
        opened_by: None,
        released: false,
        session_ms: 0,
        session_base_ms: 0,
    };
    let mut effect = Effect::default();
    effect.put(keys::REIGN, encode(&record));
    Ok((Reply::Imported { entries: 0 }, effect))
}

fn page(progress: &Progress, before: u64, entries: &[Entry]) -> Planned {
    let (Some((first, _)), Some((last, _))) = (entries.first(), entries.last()) else {
        return Ok((Reply::Imported { entries: progress.entries }, Effect::default()));
    };
    let after = before + entries.len() as u64;
    if progress.entries == after && progress.last == *last {
        // The answer to it was lost.
        return Ok((Reply::Imported { entries: after }, Effect::default()));
    }
    let is_known = |key: &[u8]| key.first().is_some_and(|kind| keys::COPIED.contains(kind));
    let goes_on = progress.entries == before && *first > progress.last;
    if !goes_on
        || !entries.is_sorted_by(|(a, _), (b, _)| a < b)
        || !entries.iter().all(|(key, _)| is_known(key))
    {
        return Err(Reject::ImportBroken { entries: progress.entries });
    }
    let mut effect = Effect::default();
    for (key, value) in entries {
        effect.put(key.as_slice(), value.as_slice());
    }
    effect.put(keys::IMPORT, encode(&Progress { entries: after, last: last.clone() }));
    Ok((Reply::Imported { entries: after }, effect))
}

/// The record, if an import is under way and may go on under `epoch`.
fn importing(record: Option<ReignRecord>, epoch: Epoch) -> Result<ReignRecord, Reject> {
    match record {
        Some(record) if record.stage != Stage::Importing => Err(Reject::NotEmpty),
        Some(record) if record.epoch <= epoch => Ok(record),
        record => Err(Reject::Fenced { current: record.map_or(Epoch::default(), |old| old.epoch) }),
    }
}

/// What a record becomes elsewhere: its epoch is over, its lease is still to be reckoned with.
fn finished(copied: &ReignRecord, epoch: Epoch) -> ReignRecord {
    ReignRecord {
        epoch,
        stage: Stage::Released,
        opened_by: copied.opened_by.map(|_| ELSEWHERE),
        ..copied.clone()
    }
}

/// The first `limit` entries behind `after`, of all that a copy holds.
pub(super) fn export(view: &dyn View, after: &[u8], limit: usize) -> Result<Vec<Entry>> {
    let mut entries = Vec::new();
    for &kind in keys::COPIED {
        let (from, to) = keys::kind(kind);
        if entries.len() >= limit || after >= &to[..] {
            continue;
        }
        // Behind a key comes first the one that is a zero byte longer.
        let from = if after < &from[..] { from.to_vec() } else { [after, &[0]].concat() };
        entries.extend(view.scan(&from, &to, limit - entries.len())?);
    }
    Ok(entries)
}
