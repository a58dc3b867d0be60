//! A backup brought into a driver that was never used.

use std::{collections::BTreeMap, collections::BTreeSet, io::Read, sync::Arc, time::Duration};

use super::{BackupHeader, BackupReader, Contents};
use crate::{
    Clock, ConsensusDriver, Entry, Error, ErrorKind, Reject, Result, SeqKey,
    import::{self, Importer, StateCounts},
    state::{Closing, ELSEWHERE, ReignRecord, RestoredTime, high_water_ms, millis, name_of},
};

/// On what terms a backup is restored.
#[derive(Clone, Debug)]
pub struct RestoreTerms {
    /// From where timestamps go on.
    pub time: RestoredTime,
    /// Takes a time that is far from the clock, or that timestamps may have come to already.
    pub insists: bool,
    /// What the first leader waits for, or the longest lease that the backup knows of.
    pub lease: Duration,
    /// Sequences go on where the backup has them, so that what was granted since is granted once more.
    pub accept_sequence_loss: bool,
    /// Sequences that are open, each with a value that its next one is not to be below. All others are closed, unless
    /// their loss is accepted.
    pub floors: BTreeMap<SeqKey, u64>,
}

impl RestoreTerms {
    /// What the high-water will be at `now_ms`, of a backup that was taken at `taken_ms`, when it was at `backup_ms`.
    ///
    /// # Errors
    /// `Rejected` for a time that is refused unless it is insisted on.
    pub fn high_water_ms(&self, backup_ms: u64, taken_ms: u64, now_ms: u64) -> Result<u64> {
        Ok(high_water_ms(self.time, (backup_ms, taken_ms, now_ms), self.insists)?)
    }
}

/// What was restored.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Restored {
    /// What is there now.
    pub counts: StateCounts,
    /// What the backup is of.
    pub header: BackupHeader,
    /// Whether sequences without a floor are closed.
    pub closed: bool,
}

/// Restores a backup into `target`, which was never used and which this node leads. `open` opens the backup, which is
/// read twice: all of it is checked before anything is done. Reports how many entries are there, now and then.
///
/// No node serves a target whose restore was interrupted after its first commit. Before that commit the target is as empty as it
/// was, and the caller, who opened it, has to keep others from opening it.
///
/// # Errors
/// `Rejected` for a time that is refused; `Config` if the target was used before or the backup is of a newer release; `Corrupt` if it is damaged; those of
/// the driver.
pub async fn restore<R: Read>(
    open: impl Fn() -> Result<BackupReader<R>>,
    target: &Arc<dyn ConsensusDriver>,
    clock: &dyn Clock,
    terms: &RestoreTerms,
    mut progress: impl FnMut(u64),
) -> Result<Restored> {
    let (header, contents, known) = check(open()?, &terms.floors)?;
    let times = (header.taken_ms, clock.now().wall_ms);
    let record = record(&contents, times, terms)?;
    let is_new = |key: &&SeqKey| !known.contains(*key);
    let closing = Closing {
        taken_ms: (!terms.accept_sequence_loss).then_some(header.taken_ms),
        floors: terms.floors.clone(),
        new_keys: terms.floors.keys().filter(is_new).count() as u64,
    };
    let added = closing.added(contents.has_counts, |key| known.contains(key))?;
    let mut added = added.into_iter().peekable();
    import::begin(target, clock).await?;
    let mut importer = Importer::new(target, clock);
    let mut backup = open()?;
    while let Some(entries) = backup.next_entries()? {
        let mut page = Vec::with_capacity(entries.len());
        for entry in entries {
            while let Some(before) = added.next_if(|added: &Entry| added.0 < entry.0) {
                page.push(before);
            }
            page.extend(closing.of(entry)?.filter(|(key, _)| *key != crate::state::REIGN));
        }
        progress(importer.bring(page).await?);
    }
    importer.bring(added.collect()).await?;
    if backup.header() != &header {
        return Err(Error::new(
            ErrorKind::Corrupt,
            "the backup was replaced while it was restored",
        ));
    }
    importer.check().await?;
    let counts = importer.finish(record, header.version.era).await?;
    Ok(Restored { counts, header, closed: !terms.accept_sequence_loss })
}

/// Reads a backup to its end. Returns which of these sequences it has.
fn check<R: Read>(
    mut backup: BackupReader<R>,
    floors: &BTreeMap<SeqKey, u64>,
) -> Result<(BackupHeader, Contents, BTreeSet<SeqKey>)> {
    let header = backup.header().clone();
    if header.is_newer() {
        let reject = Reject::NewerRules { rules: header.rules };
        let context = format!("the backup was made by a newer release: {reject}");
        return Err(Error::new(ErrorKind::Config, context));
    }
    let mut known = BTreeSet::new();
    while let Some(entries) = backup.next_entries()? {
        let sequences = entries.iter().filter(|(key, _)| key.first() == Some(&b's'));
        let names = sequences.filter_map(|(key, _)| name_of(key));
        known.extend(names.filter(|name| floors.contains_key(name)));
    }
    let contents = backup.contents().cloned().unwrap_or_default();
    Ok((header, contents, known))
}

/// The reign record of the restored state: nothing that was seen or opened before shortens a wait.
fn record(
    contents: &Contents,
    (taken_ms, now_ms): (u64, u64),
    terms: &RestoreTerms,
) -> Result<ReignRecord> {
    let Some(record) = contents.reign.clone() else {
        return Err(Error::new(ErrorKind::Corrupt, "the backup says nothing of who reigned"));
    };
    Ok(ReignRecord {
        high_water_ms: terms.high_water_ms(record.high_water_ms, taken_ms, now_ms)?,
        lease_ms: record.lease_ms.max(millis(terms.lease)),
        opened_by: Some(ELSEWHERE),
        released: false,
        ..record
    })
}
