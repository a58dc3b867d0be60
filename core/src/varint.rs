//! Integers as postcard writes them, for what is encoded too often to go through a serializer.

/// Appends `value`: seven bits a byte, the lowest first, the highest bit set in all but the last byte.
pub(crate) fn push(bytes: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        bytes.push(value as u8 | 0x80);
        value >>= 7;
    }
    bytes.push(value as u8);
}

/// How many bytes [`push`] appends.
pub(crate) fn len(value: u64) -> usize {
    (64 - (value | 1).leading_zeros()).div_ceil(7) as usize
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn integers_are_written_as_by_postcard(value: u64, shift in 0..64) {
            let value = value >> shift;
            let mut bytes = vec![];
            super::push(&mut bytes, value);
            prop_assert_eq!(bytes.len(), super::len(value));
            prop_assert_eq!(bytes, postcard::to_stdvec(&value).unwrap());
        }
    }
}
