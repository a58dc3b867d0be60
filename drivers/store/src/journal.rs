//! The journal: commits appended to a segment and synced, and snapshots written behind it.
//!
//! A commit is a record, numbered without a gap. Once a segment has grown as long as half a snapshot, the
//! next one is begun, and a thread writes a snapshot of the state as it was then; when that is on the
//! disk, the older segments are not needed any more. So a snapshot at commit *s* is always followed by the
//! segment that begins with *s* + 1.
//!
//! If the thread is not done when the next segment is full as well, commits wait for it: the disk takes
//! no more.

use std::{fmt, mem};

use tsoracle_core::{Effect, Error, ErrorKind, Result};

use crate::{
    checkpoint::{Checkpoint, Done, Failure, Task, bound, retire, step},
    files::Place,
    meters::Meters,
    record,
    segment::Segment,
    snapshot,
    tables::Tables,
};

/// What is kept of the buffer for records.
const BUFFER: usize = 1 << 20;

pub(crate) struct Journal {
    pub(crate) place: Place,
    pub(crate) store: u128,
    /// Bytes that a segment takes at least, before a snapshot is written.
    pub(crate) floor: u64,
    /// The last commit, and the last one that is on the disk with all before it.
    pub(crate) sequence: u64,
    pub(crate) synced: u64,
    pub(crate) segment: Segment,
    /// Segments before it that no snapshot holds, and none is being written of.
    pub(crate) older: Vec<Segment>,
    pub(crate) spare: Option<Segment>,
    /// The size of the last snapshot.
    pub(crate) snapshot: u64,
    pub(crate) checkpoint: Option<Checkpoint>,
    pub(crate) failure: Failure,
    pub(crate) buffer: Vec<u8>,
    pub(crate) meters: Meters,
}

impl Journal {
    /// Appends a commit. It is on the disk once [`sync`](Self::sync) has returned.
    ///
    /// # Errors
    /// `Fatal` for a commit that is too long, and if the disk fails.
    pub(crate) fn append(&mut self, writes: &[(&'static str, Effect)]) -> Result<()> {
        let numbers = (self.sequence + 1, self.synced);
        let writes = writes.iter().map(|(table, effect)| (*table, effect));
        record::encode(&mut self.buffer, self.segment.salt, numbers, writes).ok_or_else(|| {
            Error::new(ErrorKind::Fatal, "a commit has more bytes than the journal takes")
        })?;
        self.segment.append(&self.place, &self.buffer, step(self.floor))?;
        self.buffer.shrink_to(BUFFER);
        self.sequence += 1;
        Ok(())
    }

    /// Makes all commits durable.
    ///
    /// # Errors
    /// `Fatal` if the disk fails.
    pub(crate) fn sync(&mut self) -> Result<()> {
        if self.synced < self.sequence {
            self.segment.sync(&self.place)?;
            self.synced = self.sequence;
            self.show();
        }
        Ok(())
    }

    /// Begins another segment and a snapshot if it is time. `tables` gives them as of the last
    /// commit.
    ///
    /// # Errors
    /// `Fatal` if the disk fails, or has failed in the background.
    pub(crate) fn write_behind(&mut self, tables: impl FnOnce() -> Tables) -> Result<()> {
        if self.checkpoint.as_ref().is_some_and(Checkpoint::is_finished) {
            self.wait()?;
        }
        if !self.is_due() {
            return Ok(());
        }
        self.wait()?;
        // The snapshot may have been larger than the one before.
        if !self.is_due() {
            return Ok(());
        }
        self.sync()?;
        self.begin_segment()?;
        let task = Task {
            place: self.place.clone(),
            store: self.store,
            sequence: self.sequence,
            tables: tables(),
            segments: mem::take(&mut self.older),
            floor: self.floor,
            duration: self.meters.snapshots.clone(),
        };
        self.checkpoint = Some(Checkpoint::start(task, self.failure.clone())?);
        Ok(())
    }

    fn is_due(&self) -> bool {
        let older: u64 = self.older.iter().map(Segment::used).sum();
        older + self.segment.used() >= bound(self.floor, self.snapshot)
    }

    /// Begins the segment after the last commit, which is on the disk.
    fn begin_segment(&mut self) -> Result<()> {
        let (first, step) = (self.sequence + 1, step(self.floor));
        let next = Segment::create(&self.place, self.store, first, self.spare.take(), step)?;
        self.older.push(mem::replace(&mut self.segment, next));
        Ok(())
    }

    /// Waits for the snapshot that is being written, if there is one.
    fn wait(&mut self) -> Result<()> {
        if let Some(checkpoint) = self.checkpoint.take()
            && let Some(Done { size, spare }) = checkpoint.wait()?
        {
            (self.snapshot, self.spare) = (size, spare);
        }
        Ok(())
    }

    /// Makes `tables` the state, as one more commit: durably, all of it or nothing.
    ///
    /// # Errors
    /// `Fatal` if the disk fails, or has failed in the background.
    pub(crate) fn replace(&mut self, tables: &Tables) -> Result<()> {
        self.wait()?;
        let next = self.sequence + 1;
        let written = snapshot::write(&self.place, self.store, next, tables, || true)?;
        self.snapshot = written.expect("nothing keeps it from going on");
        // If this is as far as it comes, the next start begins the segment.
        (self.sequence, self.synced) = (next, next);
        self.begin_segment()?;
        let segments = mem::take(&mut self.older);
        self.spare = retire(&self.place, segments, self.floor, self.snapshot)?;
        Ok(())
    }
}

impl Drop for Journal {
    fn drop(&mut self) {
        // Ends it, if it is not done.
        self.checkpoint = None;
        if self.failure.check().is_ok() {
            // What was not to be synced may be lost; but a clean stop need not lose it.
            let _ = self.sync();
        }
    }
}

impl fmt::Debug for Journal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Journal").field("sequence", &self.sequence).finish_non_exhaustive()
    }
}
