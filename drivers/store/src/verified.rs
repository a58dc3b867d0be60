use std::{
    io::{self, ErrorKind},
    sync::{Mutex, MutexGuard, PoisonError},
};

use redb::StorageBackend;

/// A page of redb, the unit in which it writes everything but its header.
const BLOCK: usize = 4_096;

/// A block whose checksum is not known: not read yet, or the header's.
const UNKNOWN: u32 = 0;

/// A backend that remembers a checksum of every block read or written through it, four bytes each,
/// and refuses a block that has changed since.
///
/// redb verifies its pages when it opens a file, but not when it reads them again later. A bit that
/// flips in a key meanwhile would make the key seem to have never existed, and its sequence start
/// again at 0: a checksum of the value cannot tell, since no value is found.
#[derive(Debug)]
pub(crate) struct Verified<B> {
    inner: B,
    checksums: Mutex<Vec<u32>>,
}

impl<B: StorageBackend> Verified<B> {
    pub(crate) fn new(inner: B) -> Self {
        Self { inner, checksums: Mutex::default() }
    }

    fn checksums(&self) -> MutexGuard<'_, Vec<u32>> {
        self.checksums.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl<B: StorageBackend> StorageBackend for Verified<B> {
    fn len(&self) -> io::Result<u64> {
        self.inner.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.inner.read(offset, out)?;
        let mut checksums = self.checksums();
        for (index, block) in blocks(offset, out) {
            let (Some(found), known) = (block.map(checksum), entry(&mut checksums, index)) else {
                continue;
            };
            if *known != UNKNOWN && *known != found {
                let start = index * BLOCK;
                let context = format!("the block at byte {start} changed while it was in use");
                return Err(io::Error::new(ErrorKind::InvalidData, context));
            }
            *known = found;
        }
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut checksums = self.checksums();
        checksums.truncate(usize::try_from(len).unwrap_or(usize::MAX) / BLOCK);
        self.inner.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.inner.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut checksums = self.checksums();
        for (index, block) in blocks(offset, data) {
            *entry(&mut checksums, index) = block.map_or(UNKNOWN, checksum);
        }
        self.inner.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.inner.close()
    }
}

/// The blocks that `data` at `offset` touches, by their number, with their bytes if it holds all.
fn blocks(offset: u64, data: &[u8]) -> impl Iterator<Item = (usize, Option<&[u8]>)> {
    let offset = usize::try_from(offset).expect("a file that is read fits the address space");
    let (first, end) = (offset / BLOCK, (offset + data.len()).div_ceil(BLOCK));
    (first..end).map(move |index| {
        let start = (index * BLOCK).checked_sub(offset);
        (index, start.and_then(|start| data.get(start..start + BLOCK)))
    })
}

fn checksum(block: &[u8]) -> u32 {
    match crc32c::crc32c(block) {
        UNKNOWN => !UNKNOWN,
        checksum => checksum,
    }
}

fn entry(checksums: &mut Vec<u32>, index: usize) -> &mut u32 {
    if checksums.len() <= index {
        checksums.resize(index + 1, UNKNOWN);
    }
    &mut checksums[index]
}

#[cfg(test)]
mod tests {
    use redb::backends::InMemoryBackend;

    use super::*;

    fn filled() -> Verified<InMemoryBackend> {
        let backend = Verified::new(InMemoryBackend::new());
        backend.set_len(3 * BLOCK as u64).unwrap();
        backend.write(BLOCK as u64, &[7; 2 * BLOCK]).unwrap();
        backend
    }

    #[test]
    fn a_block_that_changed_behind_its_back_is_refused() {
        let backend = filled();
        let mut block = [0; BLOCK];
        backend.read(2 * BLOCK as u64, &mut block).unwrap();
        backend.inner.write(2 * BLOCK as u64 + 99, &[8]).unwrap();
        let error = backend.read(2 * BLOCK as u64, &mut block).unwrap_err();
        assert_eq!(error.kind(), ErrorKind::InvalidData);
        assert!(error.to_string().contains("8192"), "{error}");
        backend.read(BLOCK as u64, &mut block).unwrap();
    }

    #[test]
    fn blocks_are_known_from_their_first_reading_until_written_in_part_or_cut_off() {
        let backend = filled();
        let mut block = [0; BLOCK];
        backend.read(0, &mut block).unwrap();
        backend.inner.write(0, &[1]).unwrap();
        backend.read(0, &mut block).unwrap_err();
        backend.write(0, &[2; 320]).unwrap();
        backend.read(0, &mut block).unwrap();
        backend.set_len(BLOCK as u64).unwrap();
        backend.set_len(3 * BLOCK as u64).unwrap();
        backend.read(2 * BLOCK as u64, &mut block).unwrap();
        assert_eq!(block, [0; BLOCK]);
    }
}
