//! A part of the journal: the commits from one snapshot's on, in a file of their own.
//!
//! ```text
//! header | record ... | anything
//! ```
//!
//! The file is longer than what is used of it, so that a sync has only data to write. What lies beyond
//! the last record does not pass for one: checksums go with the salt, which is drawn again when a file is
//! used again, and with the commit that comes next.

use tsoracle_core::{Random, Result};

use crate::{
    files::{OpenFile, Place},
    header::{Header, Kind},
    record::{ALIGNMENT, HEAD, Record},
    tables::Tables,
};

/// What a segment is called while it is made.
pub(crate) const UNFINISHED: &str = "journal.new";

/// The name of the segment that begins with a commit.
pub(crate) fn name_of(first: u64) -> String {
    format!("journal-{first:020}")
}

/// The commit that the segment of that name begins with.
pub(crate) fn first_of(name: &str) -> Option<u64> {
    let first = name.strip_prefix("journal-")?.parse().ok()?;
    (name_of(first) == name).then_some(first)
}

/// A segment that is written to.
#[derive(Debug)]
pub(crate) struct Segment {
    pub(crate) name: String,
    pub(crate) salt: u32,
    file: Box<dyn OpenFile>,
    /// Where the next record goes.
    end: u64,
    /// How long the file is.
    size: u64,
}

impl Segment {
    /// Makes the segment that begins with a commit, durably; from one that is not needed any more, or
    /// with zeros for the first `step` bytes.
    ///
    /// # Errors
    /// Those of the files.
    pub(crate) fn create(
        place: &Place,
        store: u128,
        first: u64,
        used: Option<Self>,
        step: u64,
    ) -> Result<Self> {
        let salt = Random::default().draw() as u32;
        let header = Header { store, sequence: first, salt }.encode(Kind::Segment);
        let failed = place.failed(UNFINISHED);
        let (file, size) = match used {
            Some(Self { name, file, size, .. }) => {
                place.files.rename(&name, UNFINISHED).map_err(&failed)?;
                (file, size)
            }
            None => {
                let file = place.create(UNFINISHED)?;
                file.write(0, &vec![0; bytes(step)]).map_err(&failed)?;
                (file, step)
            }
        };
        file.write(0, &header).map_err(&failed)?;
        file.sync().map_err(&failed)?;
        let (name, end) = (name_of(first), Header::SIZE as u64);
        place.files.rename(UNFINISHED, &name).map_err(&failed)?;
        place.sync_names()?;
        Ok(Self { name, salt, file, end, size })
    }

    /// Appends a record. Where the file ends, it grows by `step` bytes of zeros beyond.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn append(&mut self, place: &Place, record: &[u8], step: u64) -> Result<()> {
        let end = self.end + record.len() as u64;
        if end > self.size {
            let size = end.next_multiple_of(step);
            let zeros = vec![0; bytes(size - end)];
            self.file.write(end, &zeros).map_err(place.failed(&self.name))?;
            self.size = size;
        }
        self.file.write(self.end, record).map_err(place.failed(&self.name))?;
        self.end = end;
        Ok(())
    }

    /// Makes durable what was appended.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn sync(&self, place: &Place) -> Result<()> {
        self.file.sync().map_err(place.failed(&self.name))
    }

    /// Bytes of records.
    pub(crate) fn used(&self) -> u64 {
        self.end - Header::SIZE as u64
    }

    /// Bytes of the file.
    pub(crate) fn size(&self) -> u64 {
        self.size
    }
}

/// A segment as it was found.
#[derive(Debug)]
pub(crate) struct Found {
    segment: Segment,
    /// The last commit in it; the one before its first if it has none.
    pub(crate) last: u64,
    /// The end of what has to be cut off before anything is appended.
    torn: Option<u64>,
}

impl Found {
    /// Reads the segment that begins with commit `first`, and has `tables` changed as its records say.
    /// `next` is the first commit of the segment after it.
    ///
    /// A place where no valid record is may be the end: the records from there on were being written when
    /// the power went. It is damage if something shows that the commit which should be there was on the
    /// disk: a later segment, or a record that was written later and says so.
    ///
    /// # Errors
    /// `Corrupt` if it is damaged; those of the file.
    pub(crate) fn read(
        place: &Place,
        store: u128,
        first: u64,
        next: Option<u64>,
        tables: &mut Tables,
    ) -> Result<Self> {
        let name = name_of(first);
        let file = place.files.open(&name).map_err(place.failed(&name))?;
        file.sync().map_err(place.failed(&name))?;
        file.forget_cached();
        let header = Header::read(place, &name, &*file, Kind::Segment)?;
        if (header.store, header.sequence) != (store, first) {
            return Err(place.damaged(&name, "it is a part of another journal"));
        }
        let size = file.size().map_err(place.failed(&name))?;
        let mut bytes = vec![0; bytes(size)];
        file.read(0, &mut bytes).map_err(place.failed(&name))?;

        let (mut end, mut last) = (Header::SIZE, first - 1);
        while next != Some(last + 1) {
            let record = Record::read(&bytes[end..], header.salt, last + 1, last + 1);
            let Some(record) = record else { break };
            record.apply(tables).ok_or_else(|| place.damaged(&name, "a record cannot be read"))?;
            (end, last) = (end + record.size(), last + 1);
        }
        let torn = match next {
            Some(next) if next != last + 1 => {
                let how = format!("commit {} is not in it, at byte {end}", last + 1);
                return Err(place.damaged(&name, how));
            }
            Some(_) => None,
            None => tail(&bytes, end, header.salt, last + 1).map_err(|lost| {
                let how =
                    format!("commit {lost} is not in it, at byte {end}, though later ones are");
                place.damaged(&name, how)
            })?,
        };
        let (end, torn) = (end as u64, torn.map(|torn| torn as u64));
        Ok(Self { segment: Segment { name, salt: header.salt, file, end, size }, last, torn })
    }

    /// The segment, to be appended to. What was never finished is cut off, durably: otherwise a record
    /// that takes the place of the first one of these could be followed by the second one.
    ///
    /// # Errors
    /// Those of the file.
    pub(crate) fn start(self, place: &Place) -> Result<Segment> {
        let segment = self.segment;
        if let Some(torn) = self.torn {
            let zeros = vec![0; bytes(torn - segment.end)];
            segment.file.write(segment.end, &zeros).map_err(place.failed(&segment.name))?;
            segment.sync(place)?;
        }
        Ok(segment)
    }
}

/// Looks at what follows after byte `end`, where commit `missing` should be. Returns where the last
/// record of an unfinished write ends, if there is one; or the commit, if it was on the disk.
fn tail(bytes: &[u8], end: usize, salt: u32, missing: u64) -> Result<Option<usize>, u64> {
    let mut torn = None;
    let mut at = end + ALIGNMENT;
    while at + HEAD <= bytes.len() {
        // No more records than these fit between.
        let last = missing + ((at - end) / HEAD) as u64;
        match Record::read(&bytes[at..], salt, missing + 1, last) {
            Some(record) if record.synced >= missing => return Err(missing),
            Some(record) => {
                at += record.size();
                torn = Some(at);
            }
            None => at += ALIGNMENT,
        }
    }
    Ok(torn)
}

fn bytes(length: u64) -> usize {
    usize::try_from(length).expect("a file that is read fits the address space")
}
