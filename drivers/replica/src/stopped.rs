//! The state of a node of a cluster that is stopped, with all that its log holds.

use std::path::Path;

use tsoracle_core::{BootTime, Effect, Entry, Error, ErrorKind, Result, SeqStore, StoppedState};
use tsoracle_store::Store;

use crate::Replica;

/// What a person has to know of the state of one node.
const ONE_NODE: &str = "this is what one node of the cluster holds, its log included: other nodes may hold commits that \
                        it has never got, and of its last ones some may never have been decided";

/// What a stopped node holds, once everything of its log is applied.
#[derive(Debug)]
struct Stopped(Replica);

/// The state of a stopped node of `driver`, once `apply` has applied everything of its log: whatever was acknowledged
/// through that node is in there.
///
/// # Errors
/// Those of the store, and of `apply`.
pub fn stopped(
    path: &Path,
    driver: &str,
    apply: impl FnOnce(&mut Replica) -> Result<()>,
) -> Result<StoppedState> {
    let (store, mut notes) = Store::inspect(path)?;
    store.belong_to(driver)?;
    let mut replica = Replica::open(store, BootTime::default())?;
    apply(&mut replica)?;
    replica.settle()?;
    notes.push(ONE_NODE.into());
    Ok(StoppedState::new(Stopped(replica), notes))
}

impl SeqStore for Stopped {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        SeqStore::get(self.0.store(), key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        self.0.store().scan(from, to, limit)
    }

    fn commit(&mut self, _: Effect) -> Result<()> {
        Err(Error::new(ErrorKind::Fatal, "what is stopped is not written to"))
    }
}
