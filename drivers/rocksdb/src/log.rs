//! The checksums of RocksDB's logs, verified before RocksDB reads them.
//!
//! The write-ahead log and the manifest have one format: blocks of 32 KiB, each filled with records
//! of a checksum, a length, a type, and data. To RocksDB's reader a record with a damaged length or
//! type can be the end of the log, or a reason to read it for ever, and the error for other damage
//! does not name the file.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

const BLOCK: usize = 32 << 10;
const HEADER: usize = 7;

/// The types of a whole record, and of the first, a middle and the last part of one.
const TYPES: [u8; 4] = [1, 2, 3, 4];

/// The first log in `directory` that is damaged, with the position of the damage.
pub(crate) fn find_damage(directory: &Path) -> io::Result<Option<(PathBuf, usize)>> {
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let name = path.file_name().map(|name| name.to_string_lossy()).unwrap_or_default();
        let is_log = name.ends_with(".log") || name.starts_with("MANIFEST-");
        if is_log && let Some(position) = damage(&fs::read(&path)?) {
            return Ok(Some((path, position)));
        }
    }
    Ok(None)
}

/// Where a log is damaged, unless that is where it ends.
fn damage(log: &[u8]) -> Option<usize> {
    for (index, block) in log.chunks(BLOCK).enumerate() {
        let mut at = 0;
        while block.len() - at >= HEADER {
            match record(&block[at..]) {
                Some(length) => at += length,
                None => {
                    let position = index * BLOCK + at;
                    return (!is_torn(&log[position..])).then_some(position);
                }
            }
        }
    }
    None
}

/// The length of the record that `bytes` begin with, if it is whole and undamaged.
fn record(bytes: &[u8]) -> Option<usize> {
    let (checksum, _) = bytes.split_first_chunk()?;
    let stored = u32::from_le_bytes(*checksum).wrapping_sub(0xa282_ead8).rotate_left(15);
    let data = bytes.get(6..end(bytes)?)?;
    (TYPES.contains(&data[0]) && crc32c::crc32c(data) == stored).then_some(data.len() + 6)
}

/// Where the record that `bytes` begin with says that it ends.
fn end(bytes: &[u8]) -> Option<usize> {
    let length = bytes.get(4..6)?.try_into().ok()?;
    Some(HEADER + usize::from(u16::from_le_bytes(length)))
}

/// Whether this is the beginning of a last record whose writing was interrupted.
///
/// A commit is synced before the next one is written. So whatever is followed by a whole record was
/// acknowledged, and has been damaged since.
fn is_torn(rest: &[u8]) -> bool {
    let cut = end(rest).is_none_or(|end| end > rest.len()) && TYPES.contains(&rest[6]);
    let followed = || (1..rest.len()).any(|at| record(&rest[at..]).is_some());
    rest.iter().all(|byte| *byte == 0) || rest.len() < BLOCK && cut && !followed()
}
