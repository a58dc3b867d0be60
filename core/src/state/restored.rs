//! Sequences of a state that was restored from a backup: values granted after it was taken would be granted
//! once more. They are closed until an operator says from where they go on, or that this may happen.
//!
//! A sequence that the backup does not know may have been used since, so one is closed as the other.

use std::{collections::BTreeMap, time::Duration};

use super::{
    OpenSequences, Record, Reject, Reply, View, Writes, keys, millis,
    plan::Planned,
    record::{Meta, RESTORED_RULES, RestoredRecord, load},
    reign,
    sequence::LAST_START,
};
use crate::{Epoch, Result, SeqKey, driver::Entry};

/// From where timestamps go on in a state that is restored from a backup.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum RestoredTime {
    /// So far above whatever they may have come to since the backup was taken.
    Above(Duration),
    /// Later than this many milliseconds since 1970.
    After(u64),
}

/// Where the high-water of a restored state is, at `now_ms`: the backup was taken at `taken_ms`, when it was at
/// `backup_ms`. An operator who insists may set one that is far from the clock, or that may repeat timestamps.
pub(crate) fn high_water_ms(
    time: RestoredTime,
    (backup_ms, taken_ms, now_ms): (u64, u64, u64),
    insists: bool,
) -> Result<u64, Reject> {
    // Where timestamps are ahead of the clock, they go on no faster than it does.
    let reached_ms = now_ms.max(backup_ms.saturating_add(now_ms.saturating_sub(taken_ms)));
    let (high_water_ms, checked_ms) = match time {
        RestoredTime::After(ms) => (ms, ms),
        // Only the margin is the operator's.
        RestoredTime::Above(margin) => {
            let margin_ms = millis(margin);
            (reached_ms.saturating_add(margin_ms), now_ms.saturating_add(margin_ms))
        }
    };
    reign::check_floor(checked_ms, Some(now_ms).filter(|_| !insists))?;
    reign::check_floor(high_water_ms, None)?;
    if high_water_ms < reached_ms && !insists {
        return Err(Reject::MayRepeat { high_water_ms, reached_ms });
    }
    Ok(high_water_ms.max(backup_ms))
}

/// Whether values of a sequence may be granted.
pub(super) fn check(view: &dyn View, meta: &Meta, key: &SeqKey) -> Planned<()> {
    // Nearly always: no state has anything to look at before.
    if meta.rules < RESTORED_RULES {
        return Ok(());
    }
    let Some(restored) = load::<RestoredRecord>(view, keys::RESTORED)? else { return Ok(()) };
    match view.get(&keys::opened(key))? {
        Some(_) => Ok(()),
        None => {
            Err(Reject::SequenceClosed { key: key.clone(), taken_ms: restored.taken_ms }.into())
        }
    }
}

/// Lets sequences be granted from: some not below a floor, or all wherever they stand.
pub(super) fn open(view: &dyn View, epoch: Epoch, open: &OpenSequences) -> Planned {
    reign::serving(view, epoch)?;
    let is_closed = load::<RestoredRecord>(view, keys::RESTORED)?.is_some();
    let stored = Meta::load(view)?;
    let mut meta = stored.clone();
    let (mut writes, mut nexts) = (Writes::default(), Vec::with_capacity(open.floors.len()));
    for (key, floor) in &open.floors {
        if *floor > LAST_START {
            return Err(Reject::NothingLeft { key: key.clone(), start: *floor }.into());
        }
        let place = keys::sequence(key);
        let before = load::<u64>(view, &place)?.copied();
        if !is_closed {
            // A repeated request, whose first answer was lost, finds what it has made.
            match before {
                Some(next) if next >= *floor => nexts.push(next),
                _ => return Err(Reject::NotRestored.into()),
            }
            continue;
        }
        let next = before.unwrap_or_default().max(*floor);
        if before.is_none() {
            meta.keys += 1;
        }
        writes.put(place, next);
        writes.put(keys::opened(key), Record::Mark);
        nexts.push(next);
    }
    if meta != stored {
        writes.put(keys::META, meta);
    }
    if open.all && is_closed {
        writes.delete(keys::RESTORED);
    }
    Ok((Reply::SequencesOpened { nexts, closed: is_closed && !open.all }, writes))
}

/// Whether an entry is a trace of an earlier restore, which a backup carries along and the next restore leaves out.
fn is_of_restoring(key: &[u8]) -> bool {
    key.first() == keys::RESTORED.first()
}

/// What a restore makes of the entries of a backup: sequences begin not below their floors, and all others are
/// closed unless their loss is accepted.
#[derive(Clone, Debug)]
pub(crate) struct Closing {
    /// Nothing if their loss is accepted.
    pub(crate) taken_ms: Option<u64>,
    /// In the order of their keys.
    pub(crate) floors: BTreeMap<SeqKey, u64>,
    /// How many of the floors are of sequences that the backup does not have.
    pub(crate) new_keys: u64,
}

impl Closing {
    /// What becomes of an entry of the backup, in the order of their keys. Nothing of one that is left out.
    ///
    /// # Errors
    /// `Corrupt` for one that cannot be read.
    pub(crate) fn of(&self, (key, value): Entry) -> Result<Option<Entry>> {
        if is_of_restoring(&key) {
            return Ok(None);
        }
        if key != keys::META && key.first() != Some(&b's') {
            return Ok(Some((key, value)));
        }
        let record = match Record::decode(&key, value)? {
            Record::Meta(meta) => Record::Meta(Meta {
                keys: meta.keys + self.new_keys,
                rules: match self.taken_ms {
                    Some(_) => meta.rules.max(RESTORED_RULES),
                    None => meta.rules,
                },
                ..meta
            }),
            Record::Next(next) => {
                let floor = keys::name_of(&key).and_then(|name| self.floors.get(&name).copied());
                Record::Next(next.max(floor.unwrap_or_default()))
            }
            other => other,
        };
        let value = record.encode();
        Ok(Some((key, value)))
    }

    /// The entries that are added, in the order of their keys.
    ///
    /// # Errors
    /// As [`of`](Self::of).
    pub(crate) fn added(
        &self,
        has_counts: bool,
        is_known: impl Fn(&SeqKey) -> bool,
    ) -> Result<Vec<Entry>> {
        let new = self.floors.iter().filter(|(key, _)| !is_known(key));
        let entry = |key: &[u8], record: Record| (key.to_vec(), record.encode());
        let mut added = vec![];
        if !has_counts {
            added.extend(self.of(entry(keys::META, Meta::default().into()))?);
        }
        added.extend(new.map(|(key, floor)| entry(&keys::sequence(key), Record::Next(*floor))));
        if let Some(taken_ms) = self.taken_ms {
            added.push(entry(keys::RESTORED, RestoredRecord { taken_ms }.into()));
            let marks = self.floors.keys().map(|key| entry(&keys::opened(key), Record::Mark));
            added.extend(marks);
        }
        Ok(added)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW_MS: u64 = 1_796_000_000_000;
    const HOUR_MS: u64 = 3_600_000;
    const MARGIN: Duration = Duration::from_secs(360);

    fn restored(time: RestoredTime, backup_ms: u64, insists: bool) -> Result<u64, Reject> {
        high_water_ms(time, (backup_ms, NOW_MS - HOUR_MS, NOW_MS), insists)
    }

    #[test]
    fn timestamps_go_on_above_what_they_may_have_come_to() {
        let above = |backup_ms| restored(RestoredTime::Above(MARGIN), backup_ms, false);
        assert_eq!(above(NOW_MS - HOUR_MS), Ok(NOW_MS + 360_000), "with the clock");
        assert_eq!(above(NOW_MS - HOUR_MS / 2), Ok(NOW_MS + HOUR_MS / 2 + 360_000), "ahead of it");
        // Years ahead, as with a clock that was wrong once: the operator cannot help that.
        let far_ms = NOW_MS + 20_000 * HOUR_MS;
        assert_eq!(above(far_ms), Ok(far_ms + HOUR_MS + 360_000));
        // The backup is from the future: the clock of this machine, or of the other one, is wrong.
        let early = high_water_ms(
            RestoredTime::Above(MARGIN),
            (NOW_MS + HOUR_MS, NOW_MS + HOUR_MS, NOW_MS),
            false,
        );
        assert_eq!(early, Ok(NOW_MS + HOUR_MS + 360_000));
    }

    #[test]
    fn a_time_that_may_repeat_or_is_far_from_the_clock_has_to_be_insisted_on() {
        let after = |ms, insists| restored(RestoredTime::After(ms), NOW_MS, insists);
        let reached_ms = NOW_MS + HOUR_MS;
        assert_eq!(after(reached_ms, false), Ok(reached_ms));
        let high_water_ms = reached_ms - 1;
        let refused = Err(Reject::MayRepeat { high_water_ms, reached_ms });
        assert_eq!(after(high_water_ms, false), refused);
        assert_eq!(after(high_water_ms, true), Ok(high_water_ms));
        assert_eq!(after(NOW_MS - 1, true), Ok(NOW_MS), "never below the backup");
        for far_ms in [NOW_MS / 1_000, NOW_MS * 2] {
            let refused = Err(Reject::FarFromClock { high_water_ms: far_ms, now_ms: NOW_MS });
            assert_eq!(after(far_ms, false), refused);
        }
        let years = RestoredTime::Above(Duration::from_secs(3 * 31_536_000));
        assert!(matches!(restored(years, NOW_MS, false), Err(Reject::FarFromClock { .. })));
        assert!(restored(years, NOW_MS, true).is_ok());
        let out = after(1 << 46, true);
        assert_eq!(out, Err(Reject::OutOfRange { high_water_ms: 1 << 46 }));
    }
}
