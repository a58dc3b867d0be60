//! The records of a journal: each is one commit, as a row of writes to tables.
//!
//! ```text
//! checksum 4 | length 4 | sequence 8 | synced 8 | body
//! ```
//!
//! `length` is that of the body, a multiple of eight. The checksum is over all that follows it, and over
//! the salt of the segment. `synced` is the last commit that was known to be on the disk when this one
//! was written: by it, a damaged record is distinguished from one that was never finished.

use tsoracle_core::Effect;

use crate::tables::Tables;

/// Bytes before the body.
pub(crate) const HEAD: usize = 24;

/// Records begin at multiples of this, from the segment's start.
pub(crate) const ALIGNMENT: usize = 8;

/// What is longer is not written: no release reads it.
const MAX_BODY: usize = 1 << 30;

/// A record as found in a segment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Record<'a> {
    pub(crate) sequence: u64,
    pub(crate) synced: u64,
    pub(crate) body: &'a [u8],
}

impl<'a> Record<'a> {
    /// The record that begins at the start of `bytes`, if there is one of a commit from `first` to
    /// `last`. Others are recognized by their number alone: to work out a checksum at every place of
    /// a segment would take long.
    pub(crate) fn read(bytes: &'a [u8], salt: u32, first: u64, last: u64) -> Option<Self> {
        let (checksum, rest) = bytes.split_first_chunk::<4>()?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (sequence, rest) = rest.split_first_chunk::<8>()?;
        let (synced, rest) = rest.split_first_chunk::<8>()?;
        let sequence = u64::from_le_bytes(*sequence);
        if sequence < first || sequence > last {
            return None;
        }
        let body = rest.get(..u32::from_le_bytes(*length) as usize)?;
        let sealed = &bytes[4..HEAD + body.len()];
        let synced = u64::from_le_bytes(*synced);
        (seal(salt, sealed) == u32::from_le_bytes(*checksum)).then_some(Self {
            sequence,
            synced,
            body,
        })
    }

    /// Bytes that the record takes.
    pub(crate) fn size(&self) -> usize {
        HEAD + self.body.len()
    }

    /// Makes its writes. `None` if it cannot be read, though it is as it was written.
    pub(crate) fn apply(&self, tables: &mut Tables) -> Option<()> {
        let mut body = self.body;
        // A table without a name is the end.
        while let Some(length) = body.split_off_first().filter(|length| **length > 0) {
            let name = str::from_utf8(body.split_off(..usize::from(*length))?).ok()?;
            let table = tables.table(name);
            for _ in 0..take_number(&mut body)? {
                let key = take_bytes(&mut body)?;
                match take_number(&mut body)?.checked_sub(1) {
                    None => table.delete(key),
                    Some(length) => {
                        table.put(key, body.split_off(..usize::try_from(length).ok()?)?);
                    }
                }
            }
        }
        Some(())
    }
}

/// Puts the record of a commit into `buffer`, in place of what it holds. `None` if it is too long.
pub(crate) fn encode<'a>(
    buffer: &mut Vec<u8>,
    salt: u32,
    (sequence, synced): (u64, u64),
    writes: impl IntoIterator<Item = (&'a str, &'a Effect)>,
) -> Option<()> {
    buffer.clear();
    buffer.resize(8, 0);
    buffer.extend_from_slice(&sequence.to_le_bytes());
    buffer.extend_from_slice(&synced.to_le_bytes());
    for (table, effect) in writes {
        buffer.push(u8::try_from(table.len()).ok()?);
        buffer.extend_from_slice(table.as_bytes());
        put_number(buffer, effect.len() as u64);
        for (key, value) in effect.iter() {
            put_bytes(buffer, key);
            put_number(buffer, value.map_or(0, |value| value.len() as u64 + 1));
            buffer.extend_from_slice(value.unwrap_or_default());
        }
    }
    buffer.resize(buffer.len().next_multiple_of(ALIGNMENT), 0);
    let length = buffer.len() - HEAD;
    if length > MAX_BODY {
        return None;
    }
    buffer[4..8].copy_from_slice(&u32::try_from(length).ok()?.to_le_bytes());
    let checksum = seal(salt, &buffer[4..]);
    buffer[..4].copy_from_slice(&checksum.to_le_bytes());
    Some(())
}

/// A checksum of `bytes` that belongs in a file with this salt.
pub(crate) fn seal(salt: u32, bytes: &[u8]) -> u32 {
    crc32c::crc32c_append(crc32c::crc32c(&salt.to_le_bytes()), bytes)
}

pub(crate) fn put_bytes(buffer: &mut Vec<u8>, bytes: &[u8]) {
    put_number(buffer, bytes.len() as u64);
    buffer.extend_from_slice(bytes);
}

/// Seven bits a byte, the lowest first; the highest bit says that more follow.
pub(crate) fn put_number(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(number as u8 | 0x80);
        number >>= 7;
    }
    buffer.push(number as u8);
}

pub(crate) fn take_bytes<'a>(bytes: &mut &'a [u8]) -> Option<&'a [u8]> {
    let length = usize::try_from(take_number(bytes)?).ok()?;
    bytes.split_off(..length)
}

pub(crate) fn take_number(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let byte = *bytes.split_off_first()?;
        number |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Some(number);
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use super::*;

    fn effect(writes: &[(&[u8], Option<&[u8]>)]) -> Effect {
        writes.iter().map(|(key, value)| (key.to_vec(), value.map(<[u8]>::to_vec))).collect()
    }

    fn encoded(sequence: u64, writes: &[(&str, Effect)]) -> Vec<u8> {
        let mut buffer = vec![];
        let writes = writes.iter().map(|(table, effect)| (*table, effect));
        encode(&mut buffer, 7, (sequence, sequence - 1), writes).unwrap();
        buffer
    }

    #[test]
    fn a_record_is_read_as_written_or_not_at_all() {
        let long = [5; 300];
        let writes = [
            ("state", effect(&[(b"", Some(b"")), (b"gone", None), (b"key", Some(&long))])),
            ("log", effect(&[(&long, Some(b"value"))])),
        ];
        let bytes = encoded(3, &writes);
        assert_eq!(bytes.len() % ALIGNMENT, 0);
        let record = Record::read(&bytes, 7, 3, 3).unwrap();
        assert_eq!((record.sequence, record.synced, record.size()), (3, 2, bytes.len()));
        let mut tables = Tables::default();
        tables.table("state").put(b"gone", b"soon");
        record.apply(&mut tables).unwrap();
        let state = tables.get("state").unwrap();
        assert_eq!(
            (state.len(), state.get(b""), state.get(b"key")),
            (2, Some(&b""[..]), Some(&long[..]))
        );
        assert_eq!(tables.get("log").unwrap().get(&long), Some(&b"value"[..]));

        assert_eq!(Record::read(&bytes, 8, 3, 3), None);
        assert_eq!(Record::read(&bytes, 7, 4, 9), None);
        (0..bytes.len()).for_each(|cut| assert_eq!(Record::read(&bytes[..cut], 7, 3, 3), None));
        for bit in 0..bytes.len() * 8 {
            let mut damaged = bytes.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(Record::read(&damaged, 7, 3, 3), None, "bit {bit}");
        }
    }

    #[test]
    fn numbers_are_read_as_written() {
        for number in [0, 1, 127, 128, 300, u64::from(u32::MAX), u64::MAX] {
            let mut bytes = vec![];
            put_number(&mut bytes, number);
            let mut rest = &bytes[..];
            assert_eq!((take_number(&mut rest), rest.len()), (Some(number), 0));
            assert_eq!(take_number(&mut &bytes[..bytes.len() - 1]), None);
        }
    }
}
