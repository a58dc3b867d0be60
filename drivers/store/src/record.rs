//! How a value is stored: a checksum over its key and itself, then the value.

const CHECKSUM: usize = 4;

pub(crate) fn seal(key: &[u8], value: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(CHECKSUM + value.len());
    record.extend_from_slice(&checksum(key, value).to_le_bytes());
    record.extend_from_slice(value);
    record
}

/// The value, or nothing if the record is not what was sealed under `key`.
pub(crate) fn open<'a>(key: &[u8], record: &'a [u8]) -> Option<&'a [u8]> {
    let (stored, value) = record.split_first_chunk::<CHECKSUM>()?;
    (u32::from_le_bytes(*stored) == checksum(key, value)).then_some(value)
}

fn checksum(key: &[u8], value: &[u8]) -> u32 {
    // The length goes in as well, so that bytes cannot move from the key to the value.
    let length = crc32c::crc32c(&(key.len() as u64).to_le_bytes());
    crc32c::crc32c_append(crc32c::crc32c_append(length, key), value)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_record_opens_only_unchanged_and_under_its_key() {
        let record = seal(b"key", b"value");
        assert_eq!(open(b"key", &record), Some(&b"value"[..]));
        assert_eq!(open(b"", &seal(b"", b"")), Some(&b""[..]));
        assert_eq!(open(b"kez", &record), None);
        assert_eq!(open(b"key", &record[..3]), None);
        assert_eq!(open(b"k", &seal(b"ke", b"y")), None);
        for bit in 0..record.len() * 8 {
            let mut damaged = record.clone();
            damaged[bit / 8] ^= 1 << (bit % 8);
            assert_eq!(open(b"key", &damaged), None, "bit {bit}");
        }
    }
}
