//! Taking over, serving and handing on: who may write, and how far timestamps are promised.

use super::{
    Effect, ReignRecord, Reject, Reply, Stage, View, keys,
    plan::Planned,
    record::{Meta, RULES, encode},
};
use crate::{Epoch, NodeId, Result, window::MAX_HIGH_WATER_MS};

/// The record, if `epoch` holds it and has been opened; what every command but a fence asks first.
pub(super) fn serving(view: &dyn View, epoch: Epoch) -> Result<Result<ReignRecord, Reject>> {
    Ok(match ReignRecord::load(view)? {
        Some(record) if record.epoch == epoch && record.stage == Stage::Open => Ok(record),
        record => Err(fenced(record.as_ref())),
    })
}

pub(super) fn fence(
    view: &dyn View,
    epoch: Epoch,
    now_ms: u64,
    headroom_ms: u64,
    lease_ms: u64,
) -> Result<Planned> {
    let meta = Meta::load(view)?;
    if meta.rules > RULES {
        return Ok(Err(Reject::NewerRules { rules: meta.rules }));
    }
    let replaced = ReignRecord::load(view)?;
    if let Some(old) = &replaced {
        if old.stage == Stage::Importing {
            return Ok(Err(Reject::Importing));
        }
        // The same epoch may fence again, its first reply being lost, but not once it has served.
        let again = epoch == old.epoch && old.stage == Stage::Fenced;
        if epoch <= old.epoch && !again {
            return Ok(Err(fenced(replaced.as_ref())));
        }
    }
    // The high-water is inclusive, so the floor lies strictly above it.
    let floor_ms = replaced.as_ref().map_or(now_ms, |old| now_ms.max(old.high_water_ms + 1));
    let high_water_ms = floor_ms.saturating_add(headroom_ms);
    if high_water_ms > MAX_HIGH_WATER_MS {
        return Ok(Err(Reject::OutOfRange { high_water_ms }));
    }
    // Until it is opened, whoever comes next must reckon with the lease of the reign before.
    let session_ms = replaced.as_ref().map_or(0, |old| old.session_ms);
    let record = ReignRecord {
        epoch,
        stage: Stage::Fenced,
        high_water_ms,
        lease_ms: replaced.as_ref().map_or(lease_ms, |old| old.lease_ms.max(lease_ms)),
        opened_by: replaced.as_ref().and_then(|old| old.opened_by),
        released: replaced.as_ref().is_some_and(|old| old.released),
        session_ms,
        session_base_ms: session_ms,
    };
    let mut effect = store(&record);
    effect.put(keys::META, encode(&meta));
    Ok(Ok((Reply::Fenced { floor_ms, high_water_ms, replaced }, effect)))
}

pub(super) fn open(view: &dyn View, epoch: Epoch, node: NodeId, lease_ms: u64) -> Result<Planned> {
    let record = ReignRecord::load(view)?;
    let Some(mut record) = record.clone().filter(|record| {
        record.epoch == epoch && matches!(record.stage, Stage::Fenced | Stage::Open)
    }) else {
        return Ok(Err(fenced(record.as_ref())));
    };
    record.stage = Stage::Open;
    record.lease_ms = lease_ms;
    record.opened_by = Some(node);
    record.released = false;
    Ok(Ok((Reply::Opened, store(&record))))
}

/// A renewal is always a write, even where it changes nothing: only then can a successor tell
/// having seen it from having seen the one before.
pub(super) fn extend(
    view: &dyn View,
    epoch: Epoch,
    high_water_ms: u64,
    elapsed_ms: u64,
) -> Result<Planned> {
    let mut record = match serving(view, epoch)? {
        Ok(record) => record,
        Err(reject) => return Ok(Err(reject)),
    };
    if high_water_ms > MAX_HIGH_WATER_MS {
        return Ok(Err(Reject::OutOfRange { high_water_ms }));
    }
    record.high_water_ms = record.high_water_ms.max(high_water_ms);
    record.session_ms = record.session_time(elapsed_ms);
    Ok(Ok((Reply::Extended { high_water_ms: record.high_water_ms }, store(&record))))
}

pub(super) fn release(view: &dyn View, epoch: Epoch) -> Result<Planned> {
    let mut record = match serving(view, epoch)? {
        Ok(record) => record,
        Err(reject) => return Ok(Err(reject)),
    };
    record.stage = Stage::Released;
    record.released = true;
    Ok(Ok((Reply::Released, store(&record))))
}

pub(super) fn init(view: &dyn View, epoch: Epoch, high_water_ms: u64) -> Result<Planned> {
    if ReignRecord::load(view)?.is_some() {
        return Ok(Err(Reject::NotEmpty));
    }
    if high_water_ms > MAX_HIGH_WATER_MS {
        return Ok(Err(Reject::OutOfRange { high_water_ms }));
    }
    let record = ReignRecord {
        epoch,
        stage: Stage::Released,
        high_water_ms,
        lease_ms: 0,
        opened_by: None,
        released: true,
        session_ms: 0,
        session_base_ms: 0,
    };
    Ok(Ok((Reply::Initialized, store(&record))))
}

fn fenced(record: Option<&ReignRecord>) -> Reject {
    Reject::Fenced { current: record.map_or(Epoch::default(), |record| record.epoch) }
}

fn store(record: &ReignRecord) -> Effect {
    let mut effect = Effect::default();
    effect.put(keys::REIGN, encode(record));
    effect
}
