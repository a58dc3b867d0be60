//! Values as they are stored: one byte for the format, then postcard.

use serde::{Serialize, de::DeserializeOwned};
use tsoracle_core::{Error, ErrorKind, Result};

/// Encodes `value`.
///
/// # Errors
/// `Fatal` if it cannot be encoded, which is a bug.
pub fn encode(format: u8, value: &impl Serialize) -> Result<Vec<u8>> {
    postcard::to_extend(value, vec![format]).map_err(|source| {
        Error::new(ErrorKind::Fatal, "cannot encode a value to be stored").with_source(source)
    })
}

/// Decodes what [`encode`] has made. `what` names it in errors.
///
/// # Errors
/// `Corrupt` if it cannot be read, or is of another format.
pub fn decode<T: DeserializeOwned>(format: u8, bytes: &[u8], what: &str) -> Result<T> {
    let unreadable = |how: String| {
        Error::new(ErrorKind::Corrupt, format!("{what} {how}; restore or replace this node"))
    };
    match bytes.split_first() {
        Some((found, rest)) if *found == format => postcard::from_bytes(rest)
            .map_err(|source| unreadable("cannot be read".into()).with_source(source)),
        Some((found, _)) => Err(Error::unknown_format(what, (*found).into(), format.into())),
        None => Err(unreadable("is empty".into())),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_read_as_written_and_in_no_other_format() {
        let bytes = encode(2, &(7_u32, "text")).unwrap();
        let read: (u32, String) = decode(2, &bytes, "it").unwrap();
        assert_eq!(read, (7, "text".into()));
        for (format, bytes) in [(3, &bytes[..]), (2, &bytes[..3]), (2, &[])] {
            let error = decode::<(u32, String)>(format, bytes, "it").unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt);
        }
        for (read, is_newer) in [(1, true), (3, false)] {
            let error = decode::<(u32, String)>(read, &bytes, "it").unwrap_err().to_string();
            assert_eq!(error.contains("made by a newer release"), is_newer, "{error}");
        }
    }
}
