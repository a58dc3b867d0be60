use std::sync::{Arc, Mutex};

use tsoracle_core::{Effect, Entry, MemoryStore, Result, SeqStore};

/// A store that can be opened again.
#[derive(Clone, Default, Debug)]
pub(crate) struct Shared(pub(crate) Arc<Mutex<MemoryStore>>);

impl SeqStore for Shared {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        SeqStore::get(&*self.0.lock().unwrap(), key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        SeqStore::scan(&*self.0.lock().unwrap(), from, to, limit)
    }

    fn commit(&mut self, effect: Effect) -> Result<()> {
        self.0.lock().unwrap().commit(effect)
    }
}
