//! What a directory holds, read and verified before anything in it is changed.

use tsoracle_core::{Random, Result};

use crate::{
    checkpoint::{Failure, step},
    files::Place,
    journal::Journal,
    meters::Meters,
    segment::{self, Found, Segment},
    snapshot::{self, Snapshot},
    tables::Tables,
};

/// Makes the files of a new store, whose `tables` are as of commit `sequence`.
///
/// # Errors
/// Those of the files.
pub(crate) fn initialize(place: &Place, sequence: u64, tables: &Tables, floor: u64) -> Result<()> {
    let store = Random::default().draw();
    Segment::create(place, store, sequence + 1, None, step(floor))?;
    snapshot::write(place, store, sequence, tables, || true)?;
    Ok(())
}

/// What was found.
#[derive(Debug)]
pub(crate) struct Recovered {
    pub(crate) place: Place,
    pub(crate) tables: Tables,
    store: u128,
    /// The last commit, and the size of the snapshot.
    sequence: u64,
    snapshot: u64,
    /// The segments that the snapshot does not hold, of which the last one is written to.
    segments: Vec<Found>,
    /// Files that are not needed, or were never finished.
    superfluous: Vec<String>,
}

impl Recovered {
    /// Reads everything. Changes nothing, but has what it read synced: it may come from a process that
    /// was killed before it did so.
    ///
    /// # Errors
    /// `Corrupt` if anything is damaged, missing, or of another format; those of the files.
    pub(crate) fn read(place: Place) -> Result<Self> {
        place.sync_names()?;
        let names = place.names()?;
        if !names.iter().any(|name| name == snapshot::NAME) {
            return Err(place.damaged(snapshot::NAME, "it is missing"));
        }
        let Snapshot { store, sequence, mut tables, size } = snapshot::read(&place)?;
        let mut firsts: Vec<_> = names.iter().filter_map(|name| segment::first_of(name)).collect();
        firsts.sort_unstable();
        let needed = firsts.split_off(firsts.partition_point(|first| *first <= sequence));
        if let Some(first) = needed.first()
            && *first != sequence + 1
        {
            return Err(place.damaged(&segment::name_of(sequence + 1), "it is missing"));
        }
        let mut segments: Vec<Found> = vec![];
        for (index, first) in needed.iter().enumerate() {
            let next = needed.get(index + 1).copied();
            segments.push(Found::read(&place, store, *first, next, &mut tables)?);
        }
        let unfinished = [snapshot::UNFINISHED, segment::UNFINISHED].map(str::to_owned);
        let unfinished = unfinished.into_iter().filter(|name| names.contains(name));
        let superfluous = firsts.into_iter().map(segment::name_of).chain(unfinished).collect();
        let sequence = segments.last().map_or(sequence, |last| last.last);
        Ok(Self { place, tables, store, sequence, snapshot: size, segments, superfluous })
    }

    /// How many commits there have been.
    pub(crate) fn commits(&self) -> u64 {
        self.sequence
    }

    /// The journal, to be written to, after what was never finished is gone.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn start(self, floor: u64, failure: Failure) -> Result<(Journal, Tables)> {
        let Self { place, tables, store, sequence, snapshot, segments, superfluous } = self;
        let segments = segments.into_iter().map(|found| found.start(&place));
        let mut older = segments.collect::<Result<Vec<_>>>()?;
        for name in superfluous {
            place.files.remove(&name).map_err(place.failed(&name))?;
        }
        let segment = match older.pop() {
            Some(segment) => segment,
            // A state was replaced as a whole, and the power went before the segment was there.
            None => Segment::create(&place, store, sequence + 1, None, step(floor))?,
        };
        let journal = Journal {
            place,
            store,
            floor,
            sequence,
            synced: sequence,
            segment,
            older,
            spare: None,
            snapshot,
            checkpoint: None,
            failure,
            buffer: vec![],
            meters: Meters::new(),
        };
        journal.show();
        Ok((journal, tables))
    }
}
