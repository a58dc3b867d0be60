//! Taking over, serving and handing on: who may write, and how far timestamps are promised.

use super::{
    ReignRecord, Reject, Reply, Stage, View, Writes, keys,
    plan::Planned,
    record::{Meta, RULES},
};
use crate::{Epoch, NodeId, driver::Version, engine::MAX_HIGH_WATER_MS};

/// How far timestamps are reserved at a time where they are ahead of the clock: for more than can be granted until
/// the next renewal.
pub(crate) const AHEAD_STEP_MS: u64 = 90;

/// The record, if `epoch` holds it and has been opened; what every command but a fence asks first.
pub(super) fn serving(view: &dyn View, epoch: Epoch) -> Planned<&ReignRecord> {
    match ReignRecord::load(view)? {
        Some(record) if record.epoch == epoch && record.stage == Stage::Open => Ok(record),
        record => Err(fenced(record).into()),
    }
}

pub(super) fn fence(
    view: &dyn View,
    base: Version,
    now_ms: u64,
    headroom_ms: u64,
    lease_ms: u64,
) -> Planned {
    let meta = Meta::load(view)?;
    if meta.rules > RULES {
        return Err(Reject::NewerRules { rules: meta.rules }.into());
    }
    let replaced = ReignRecord::load(view)?;
    if replaced.is_some_and(|old| old.stage == Stage::Importing) {
        return Err(Reject::Importing.into());
    }
    // By a clock that shows the end of time nothing is begun: after it no other reign could be.
    if now_ms > MAX_FLOOR_MS {
        return Err(Reject::OutOfRange { high_water_ms: now_ms }.into());
    }
    // The high-water is inclusive, so the floor lies strictly above it.
    let floor_ms = replaced.map_or(now_ms, |old| now_ms.max(old.high_water_ms + 1));
    // Whoever is ahead of the clock already reserves only what it needs, or each crash would add as much again.
    let needed_ms = floor_ms.saturating_add(headroom_ms.min(AHEAD_STEP_MS));
    let high_water_ms = now_ms.saturating_add(headroom_ms).max(needed_ms);
    if high_water_ms > MAX_HIGH_WATER_MS {
        return Err(Reject::OutOfRange { high_water_ms }.into());
    }
    let epoch = next_epoch(base, replaced.map(|old| old.epoch));
    // Until it is opened, a successor must wait for the lease of the reign before.
    let session_ms = replaced.map_or(0, |old| old.session_ms);
    let record = ReignRecord {
        epoch,
        stage: Stage::Fenced,
        high_water_ms,
        lease_ms: replaced.map_or(lease_ms, |old| old.lease_ms.max(lease_ms)),
        opened_by: replaced.and_then(|old| old.opened_by),
        released: replaced.is_some_and(|old| old.released),
        session_ms,
        session_base_ms: session_ms,
        version: Version::EMPTY,
        fenced_on: base,
    };
    let replaced = replaced.cloned().map(Box::new);
    let mut writes = store(record);
    writes.put(keys::META, meta);
    Ok((Reply::Fenced { epoch, floor_ms, high_water_ms, replaced }, writes))
}

/// The era of the state and a counter, above the epoch before: one that was copied from elsewhere may be of
/// a later era.
fn next_epoch(base: Version, before: Option<Epoch>) -> Epoch {
    let before = before.unwrap_or_default();
    let counted = Epoch::from_parts(base.era, before.lo().saturating_add(1));
    counted.max(Epoch(before.0.saturating_add(1)))
}

pub(super) fn open(view: &dyn View, epoch: Epoch, node: NodeId, lease_ms: u64) -> Planned {
    let record = ReignRecord::load(view)?;
    let fenced_by_this = record.filter(|record| {
        record.epoch == epoch && matches!(record.stage, Stage::Fenced | Stage::Open)
    });
    let Some(mut record) = fenced_by_this.cloned() else { return Err(fenced(record).into()) };
    record.stage = Stage::Open;
    record.lease_ms = lease_ms;
    record.opened_by = Some(node);
    record.released = false;
    Ok((Reply::Opened, store(record)))
}

/// A renewal is always a write, even where it changes nothing: only then can a successor tell
/// having seen it from having seen the one before.
pub(super) fn extend(
    view: &dyn View,
    epoch: Epoch,
    high_water_ms: u64,
    elapsed_ms: u64,
) -> Planned {
    let mut record = serving(view, epoch)?.clone();
    if high_water_ms > MAX_HIGH_WATER_MS {
        return Err(Reject::OutOfRange { high_water_ms }.into());
    }
    record.high_water_ms = record.high_water_ms.max(high_water_ms);
    record.session_ms = record.session_time(elapsed_ms);
    let reply = Reply::Extended { high_water_ms: record.high_water_ms };
    Ok((reply, store(record)))
}

pub(super) fn release(view: &dyn View, epoch: Epoch) -> Planned {
    let mut record = serving(view, epoch)?.clone();
    record.stage = Stage::Released;
    record.released = true;
    Ok((Reply::Released, store(record)))
}

/// The highest time that an operator may set: a year before the end, so that there is something left to serve.
pub(crate) const MAX_FLOOR_MS: u64 = MAX_HIGH_WATER_MS - YEAR_MS;

/// How far from the clock a time that an operator sets may be, unless it is insisted on: one in seconds is off by
/// decades, and one too many digits by more.
const YEAR_MS: u64 = 366 * 24 * 3_600 * 1_000;

/// Whether an operator may set a time, by the clock unless that is left out.
pub(super) fn check_floor(high_water_ms: u64, now_ms: Option<u64>) -> Result<(), Reject> {
    if high_water_ms > MAX_FLOOR_MS {
        return Err(Reject::OutOfRange { high_water_ms });
    }
    match now_ms.filter(|now_ms| high_water_ms.abs_diff(*now_ms) > YEAR_MS) {
        Some(now_ms) => Err(Reject::FarFromClock { high_water_ms, now_ms }),
        None => Ok(()),
    }
}

pub(super) fn init(view: &dyn View, high_water_ms: u64, now_ms: Option<u64>) -> Planned {
    if ReignRecord::load(view)?.is_some() {
        return Err(Reject::NotEmpty.into());
    }
    check_floor(high_water_ms, now_ms)?;
    let record = ReignRecord {
        epoch: Epoch::default(),
        stage: Stage::Released,
        high_water_ms,
        lease_ms: 0,
        opened_by: None,
        released: true,
        session_ms: 0,
        session_base_ms: 0,
        version: Version::EMPTY,
        fenced_on: Version::EMPTY,
    };
    Ok((Reply::Initialized, store(record)))
}

/// Whatever was seen of the state before it was set back, or opened over it, counts for nothing: the next
/// fence waits for a whole lease.
pub(super) fn adopt(
    view: &dyn View,
    high_water_ms: u64,
    lease_ms: u64,
    now_ms: Option<u64>,
) -> Planned {
    let old = ReignRecord::load(view)?;
    if old.is_some_and(|old| old.stage == Stage::Importing) {
        return Err(Reject::Importing.into());
    }
    check_floor(high_water_ms, now_ms)?;
    let stored_ms = old.map_or(0, |old| old.high_water_ms);
    if now_ms.is_some() && high_water_ms <= stored_ms {
        return Err(Reject::NothingToRaise { high_water_ms: stored_ms }.into());
    }
    let high_water_ms = stored_ms.max(high_water_ms);
    let session_ms = old.map_or(0, |old| old.session_ms);
    let record = ReignRecord {
        epoch: old.map_or_else(Epoch::default, |old| old.epoch),
        stage: Stage::Released,
        high_water_ms,
        lease_ms: old.map_or(0, |old| old.lease_ms).max(lease_ms),
        opened_by: Some(ELSEWHERE),
        released: false,
        session_ms,
        session_base_ms: session_ms,
        version: Version::EMPTY,
        fenced_on: Version::EMPTY,
    };
    Ok((Reply::Adopted { high_water_ms }, store(record)))
}

/// A node that exists nowhere, as the one that served last: a lease which was not released is waited for by
/// every node.
pub(crate) const ELSEWHERE: NodeId = NodeId(u128::MAX);

fn fenced(record: Option<&ReignRecord>) -> Reject {
    Reject::Fenced { current: record.map_or(Epoch::default(), |record| record.epoch) }
}

fn store(record: ReignRecord) -> Writes {
    let mut writes = Writes::default();
    writes.put(keys::REIGN, record);
    writes
}
