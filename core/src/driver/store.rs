use std::fmt::Debug;

use crate::{Effect, Entry, Result};

/// A durable, ordered key-value store that one process owns.
///
/// Wrapped in a [`LocalDriver`](crate::LocalDriver) it is a complete driver. One thread owns the
/// store and calls it, so nothing here needs to be concurrent, and blocking is fine.
///
/// The crate `tsoracle-conformance` has a check for each of these sentences.
///
/// # Contract
/// - Keys and values may be any bytes: keys up to a few hundred of them, values up to 100 KiB.
/// - Opening a store again gives what the last commit left.
/// - Opening the store MUST take a lock that keeps any second process out until this one has ended,
///   MUST refuse damaged or unknown data, and MUST NOT take it for an empty store.
/// - After any error the store is not called again.
///
/// # Errors
/// `Corrupt` for damage, `Fatal` for everything else, each naming the file.
pub trait SeqStore: Debug + Send + 'static {
    /// The value under `key`, as the last commit left it; `None` if it was deleted or never written.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The first `limit` entries from `from` (inclusive) to `to` (exclusive), ordered by key, byte
    /// by byte. Nothing if `from` is not before `to`.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>>;

    /// Makes all writes of `effect`, or none. Deleting a key that does not exist is no error.
    ///
    /// On return with `Ok` they MUST survive a power loss. After an error they may or may not have
    /// been made, but never in part.
    fn commit(&mut self, effect: Effect) -> Result<()>;
}
