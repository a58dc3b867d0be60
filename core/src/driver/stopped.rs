use std::path::Path;

use super::Entry;
use crate::{Error, ErrorKind, NodeId, Result, SeqStore, state::NODE};

/// How the state of a stopped node is read from its directory without changing anything there. Registered beside the
/// [`DriverFactory`](crate::DriverFactory) of that name, by drivers that can.
#[derive(Clone, Copy, Debug)]
pub struct StoppedReader {
    /// The driver's name in config strings.
    pub driver: &'static str,
    /// Locks the directory, and reads the state in it. May block.
    pub read: fn(&Path) -> Result<StoppedState>,
}

/// The state of a stopped node.
#[derive(Debug)]
pub struct StoppedState {
    store: Box<dyn SeqStore>,
    /// What a person has to know of it, a line each.
    pub notes: Vec<String>,
}

impl StoppedState {
    /// What `store` holds, which nothing is written to any more.
    pub fn new(store: impl SeqStore, notes: Vec<String>) -> Self {
        Self { store: Box::new(store), notes }
    }

    /// The value under `key`.
    ///
    /// # Errors
    /// Those of the store.
    pub fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        self.store.get(key)
    }

    /// The first `limit` entries from `from` (inclusive) to `to` (exclusive), ordered by key.
    ///
    /// # Errors
    /// Those of the store.
    pub fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        self.store.scan(from, to, limit)
    }

    /// The node that it is of, if that is on record in the state.
    ///
    /// # Errors
    /// `Corrupt` for an id that cannot be read; those of the store.
    pub fn node(&self) -> Result<Option<NodeId>> {
        let Some(bytes) = self.get(NODE)? else { return Ok(None) };
        let id = bytes.try_into().map(|bytes| NodeId(u128::from_be_bytes(bytes)));
        id.map(Some).map_err(|_| Error::new(ErrorKind::Corrupt, "the node's id cannot be read"))
    }
}

#[doc(hidden)]
pub struct LinkedReader(pub StoppedReader);

inventory::collect!(LinkedReader);

/// Registers a [`StoppedReader`] at link time.
#[macro_export]
macro_rules! register_stopped_reader {
    ($reader:expr) => {
        $crate::inventory::submit! { $crate::LinkedReader($reader) }
    };
}

impl StoppedReader {
    /// The one of a driver in this build, if it can be read while it is stopped.
    pub fn of(driver: &str) -> Option<Self> {
        let mut linked = inventory::iter::<LinkedReader>();
        linked.find(|linked| linked.0.driver == driver).map(|linked| linked.0)
    }
}
