//! What each file begins with.

use tsoracle_core::{Error, Result};

use crate::files::{OpenFile, Place};

/// The format this release writes, and the only one it reads. Format 1 was one redb file.
const FORMAT: u32 = 2;

/// No store comes to as many commits: from here on, numbers need not be looked at before they are added to.
const MAX_SEQUENCE: u64 = u64::MAX / 2;

/// What a file is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Kind {
    Snapshot,
    Segment,
}

impl Kind {
    const fn magic(self) -> &'static [u8; 16] {
        match self {
            Self::Snapshot => b"tsoracle tables\n",
            Self::Segment => b"tsoracle journal",
        }
    }
}

/// ```text
/// magic 16 | format 4 | store 16 | sequence 8 | salt 4 | unused 12 | checksum 4
/// ```
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Header {
    /// Drawn when the store was made: files of two stores are not read together.
    pub(crate) store: u128,
    /// The last commit that a snapshot holds; the first one that a segment can hold.
    pub(crate) sequence: u64,
    /// Goes into each checksum in the file. Drawn for each file, so that neither what the disk blocks
    /// held before, nor what callers have stored, is ever taken for a part of it.
    pub(crate) salt: u32,
}

impl Header {
    pub(crate) const SIZE: usize = 64;

    pub(crate) fn encode(&self, kind: Kind) -> [u8; Self::SIZE] {
        let mut bytes = [0; Self::SIZE];
        bytes[..16].copy_from_slice(kind.magic());
        bytes[16..20].copy_from_slice(&FORMAT.to_le_bytes());
        bytes[20..36].copy_from_slice(&self.store.to_le_bytes());
        bytes[36..44].copy_from_slice(&self.sequence.to_le_bytes());
        bytes[44..48].copy_from_slice(&self.salt.to_le_bytes());
        let checksum = crc32c::crc32c(&bytes[..60]);
        bytes[60..].copy_from_slice(&checksum.to_le_bytes());
        bytes
    }

    /// Reads the header of `file`, called `name`.
    ///
    /// # Errors
    /// `Corrupt` for any other file, and of another format; those of the file.
    pub(crate) fn read(place: &Place, name: &str, file: &dyn OpenFile, kind: Kind) -> Result<Self> {
        let mut bytes = [0; Self::SIZE];
        file.read(0, &mut bytes).map_err(place.failed(name))?;
        if bytes[..16] != kind.magic()[..] {
            return Err(place.damaged(name, "it is no such file of tsoracle's"));
        }
        let format = u32::from_le_bytes(part(&bytes, 16));
        if format != FORMAT {
            let name = place.path(name);
            return Err(Error::unknown_format(name, format.into(), FORMAT.into()));
        }
        if crc32c::crc32c(&bytes[..60]) != u32::from_le_bytes(part(&bytes, 60)) {
            return Err(place.damaged(name, "its header fails its checksum"));
        }
        let sequence = u64::from_le_bytes(part(&bytes, 36));
        if sequence > MAX_SEQUENCE {
            return Err(place.damaged(name, format_args!("it is of commit {sequence}")));
        }
        Ok(Self {
            store: u128::from_le_bytes(part(&bytes, 20)),
            sequence,
            salt: u32::from_le_bytes(part(&bytes, 44)),
        })
    }
}

fn part<const N: usize>(bytes: &[u8; Header::SIZE], at: usize) -> [u8; N] {
    let mut part = [0; N];
    part.copy_from_slice(&bytes[at..at + N]);
    part
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::files::DirectoryFiles;

    #[test]
    fn a_header_is_read_as_written_and_no_other_is() {
        let directory = tempfile::tempdir().expect("a temporary directory");
        let files = || DirectoryFiles::lock(directory.path()).expect("it is unlocked");
        let read = |bytes: [u8; Header::SIZE], kind| {
            std::fs::write(directory.path().join("one"), bytes).expect("there is room");
            let place = Place::new(files(), "here");
            let file = place.files.open("one").expect("it was written");
            Header::read(&place, "one", &*file, kind)
        };
        let header = |sequence| Header { store: 7, sequence, salt: 9 };
        for kind in [Kind::Snapshot, Kind::Segment] {
            let last = header(MAX_SEQUENCE);
            assert_eq!(read(last.encode(kind), kind).unwrap(), last);
            let error = read(header(MAX_SEQUENCE + 1).encode(kind), kind).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt);
            assert!(error.to_string().contains("it is of commit"), "{error}");
        }
        let error = read(header(1).encode(Kind::Snapshot), Kind::Segment).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Corrupt);
        assert!(error.to_string().contains("no such file"), "{error}");
    }

    #[test]
    fn what_is_no_directory_is_not_locked_as_one() {
        let file = tempfile::NamedTempFile::new().expect("a temporary file");
        let error = DirectoryFiles::lock(file.path()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Config, "{error}");
        assert!(error.to_string().to_lowercase().contains("not a directory"), "{error:#}");
    }
}
