//! Decoders that are not public, for the fuzz targets. Each says whether the bytes could be read.

use crate::peers::{Address, Scheme};

/// Reads an endpoint, as users and leader hints name it.
pub fn address(data: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(data) else { return false };
    let read = [Scheme::Plaintext, Scheme::Tls].map(|scheme| {
        let address = Address::parse(text, scheme).ok()?;
        let again = Address::parse(&address.to_string(), scheme);
        assert_eq!(again.as_ref(), Ok(&address), "{text:?}");
        Some(address)
    });
    read.iter().any(Option::is_some)
}
