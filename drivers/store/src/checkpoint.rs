//! A snapshot that is written in the background, and what it makes of the journal before it.

use std::{
    sync::{
        Arc, OnceLock,
        atomic::{AtomicBool, Ordering},
    },
    thread::{self, JoinHandle},
};

use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock, series::Histogram};

use crate::{files::Place, segment::Segment, snapshot, tables::Tables};

/// The first error of a store. It is final: nothing is tried again, and nothing read any more.
#[derive(Clone, Default, Debug)]
pub(crate) struct Failure(Arc<OnceLock<Error>>);

impl Failure {
    /// # Errors
    /// `Fatal` or `Corrupt` once the store has failed.
    pub(crate) fn check(&self) -> Result<()> {
        match self.0.get() {
            Some(error) => Err(error.clone()),
            None => Ok(()),
        }
    }

    /// Keeps an error. Returns it, or the one that was first, as what it means from here on.
    pub(crate) fn latch(&self, error: &Error) -> Error {
        let kind = match error.kind() {
            ErrorKind::Corrupt => ErrorKind::Corrupt,
            _ => ErrorKind::Fatal,
        };
        self.0.get_or_init(|| Error::new(kind, format!("{error:#}"))).clone()
    }

    fn has_failed(&self) -> bool {
        self.0.get().is_some()
    }
}

/// What to write, and what it takes the place of.
pub(crate) struct Task {
    pub(crate) place: Place,
    pub(crate) store: u128,
    /// The commit as of which the tables are. It is on the disk, as are all before it.
    pub(crate) sequence: u64,
    pub(crate) tables: Tables,
    /// The segments up to that commit.
    pub(crate) segments: Vec<Segment>,
    pub(crate) floor: u64,
    /// How long it takes is recorded here.
    pub(crate) duration: Histogram,
}

/// What became of it.
pub(crate) struct Done {
    /// The size of the snapshot.
    pub(crate) size: u64,
    /// A segment whose file can be used again.
    pub(crate) spare: Option<Segment>,
}

impl Task {
    /// Writes the snapshot, and then removes the segments. `None` if it was cancelled.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn run(self, goes_on: impl Fn() -> bool) -> Result<Option<Done>> {
        let Self { place, store, sequence, tables, segments, floor, duration } = self;
        let began = SystemClock.now().boot;
        let Some(size) = snapshot::write(&place, store, sequence, &tables, &goes_on)? else {
            return Ok(None);
        };
        duration.record(SystemClock.now().boot.since(began).as_secs_f64());
        let spare = retire(&place, segments, floor, size)?;
        Ok(Some(Done { size, spare }))
    }
}

/// Removes segments that the snapshot, of `size` bytes, has made superfluous. Keeps one to be used again, if
/// it is not too long.
///
/// # Errors
/// Those of the files.
pub(crate) fn retire(
    place: &Place,
    segments: Vec<Segment>,
    floor: u64,
    size: u64,
) -> Result<Option<Segment>> {
    let longest = bound(floor, size) / 4 * 5 + step(floor);
    let mut spare = None;
    for segment in segments {
        if spare.is_none() && segment.size() <= longest {
            spare = Some(segment);
        } else {
            place.files.remove(&segment.name).map_err(place.failed(&segment.name))?;
        }
    }
    Ok(spare)
}

/// How many bytes of records a segment takes before the next one is begun, beside a snapshot of this
/// size: so that two snapshots and two segments are at most three times the state.
pub(crate) fn bound(floor: u64, snapshot: u64) -> u64 {
    floor.max(snapshot / 2)
}

/// By how much segments grow.
pub(crate) fn step(floor: u64) -> u64 {
    const SMALLEST: u64 = 4 << 10;
    const LARGEST: u64 = 1 << 20;
    (floor / 16).clamp(SMALLEST, LARGEST)
}

/// A task on a thread of its own. It is cancelled, and waited for, when this is dropped.
pub(crate) struct Checkpoint {
    thread: Option<JoinHandle<Result<Option<Done>>>>,
    stop: Arc<AtomicBool>,
}

impl Checkpoint {
    /// # Errors
    /// `Fatal` if there cannot be another thread.
    pub(crate) fn start(task: Task, failure: Failure) -> Result<Self> {
        let stop = Arc::new(AtomicBool::new(false));
        let cancelled = stop.clone();
        let run = move || {
            let goes_on = || !cancelled.load(Ordering::Relaxed) && !failure.has_failed();
            task.run(goes_on).map_err(|error| failure.latch(&error))
        };
        let thread = thread::Builder::new().name("tsoracle-snapshot".into()).spawn(run);
        let thread = thread.map_err(|source| {
            Error::new(ErrorKind::Fatal, "cannot start the snapshot's thread").with_source(source)
        })?;
        Ok(Self { thread: Some(thread), stop })
    }

    pub(crate) fn is_finished(&self) -> bool {
        self.thread.as_ref().is_some_and(JoinHandle::is_finished)
    }

    /// Waits for it.
    ///
    /// # Errors
    /// Those of the task, or `Fatal` if it panicked.
    pub(crate) fn wait(mut self) -> Result<Option<Done>> {
        let joined = self.thread.take().map(JoinHandle::join);
        let panicked = || Error::new(ErrorKind::Fatal, "the snapshot's thread panicked");
        joined.and_then(thread::Result::ok).ok_or_else(panicked)?
    }
}

impl Drop for Checkpoint {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(thread) = self.thread.take() {
            // What became of it, the next start finds out.
            let _ = thread.join();
        }
    }
}
