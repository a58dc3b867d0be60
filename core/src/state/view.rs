use std::{
    cell::RefCell,
    collections::{BTreeMap, HashMap},
    fmt,
};

use crate::{
    Result, SeqStore,
    versioned::{Effect, Entry},
};

/// What the state machine reads through.
pub trait View {
    /// The value under `key`.
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>>;

    /// The first `limit` entries from `from` (inclusive) to `to` (exclusive), in the order of keys.
    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>>;
}

impl<S: SeqStore> View for S {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        SeqStore::get(self, key)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        SeqStore::scan(self, from, to, limit)
    }
}

/// A view with writes over it that are not committed yet. It remembers what it has read, since the
/// commands of a batch read much the same.
///
/// A driver that commits several batches at once applies each to the overlay that those before it
/// have left.
pub struct Overlay<'a> {
    below: &'a dyn View,
    read: RefCell<HashMap<Vec<u8>, Option<Vec<u8>>>>,
    effect: Effect,
}

impl<'a> Overlay<'a> {
    /// A view of `below`, with nothing written yet.
    pub fn new(below: &'a dyn View) -> Self {
        Self::over(below, Effect::default())
    }

    /// A view of `below` with `effect` over it.
    pub fn over(below: &'a dyn View, effect: Effect) -> Self {
        Self { below, read: RefCell::default(), effect }
    }

    /// Adds the writes of `later`, which win.
    pub fn merge(&mut self, later: Effect) {
        self.effect.merge(later);
    }

    /// All writes.
    pub fn into_effect(self) -> Effect {
        self.effect
    }
}

impl fmt::Debug for Overlay<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Overlay").field("effect", &self.effect).finish_non_exhaustive()
    }
}

impl View for Overlay<'_> {
    fn get(&self, key: &[u8]) -> Result<Option<Vec<u8>>> {
        if let Some(written) = self.effect.get(key) {
            return Ok(written.map(<[u8]>::to_vec));
        }
        if let Some(read) = self.read.borrow().get(key) {
            return Ok(read.clone());
        }
        let value = self.below.get(key)?;
        self.read.borrow_mut().insert(key.to_vec(), value.clone());
        Ok(value)
    }

    fn scan(&self, from: &[u8], to: &[u8], limit: usize) -> Result<Vec<Entry>> {
        let written: Vec<_> = self.effect.range(from, to).collect();
        // Each deletion may hide one entry from below, so that many more are asked for.
        let hidden = written.iter().filter(|(_, value)| value.is_none()).count();
        let mut merged: BTreeMap<_, _> =
            self.below.scan(from, to, limit + hidden)?.into_iter().collect();
        for (key, value) in written {
            match value {
                Some(value) => drop(merged.insert(key.to_vec(), value.to_vec())),
                None => drop(merged.remove(key)),
            }
        }
        Ok(merged.into_iter().take(limit).collect())
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::MemoryStore;

    fn effects() -> impl Strategy<Value = Vec<Vec<(u8, Option<u8>)>>> {
        let write = (0..12u8, prop::option::of(any::<u8>()));
        prop::collection::vec(prop::collection::vec(write, 0..6), 0..5)
    }

    fn effect(writes: &[(u8, Option<u8>)]) -> Effect {
        let mut effect = Effect::default();
        for &(key, value) in writes {
            match value {
                Some(value) => effect.put([key], [value]),
                None => effect.delete([key]),
            }
        }
        effect
    }

    proptest! {
        #[test]
        fn an_overlay_reads_as_if_committed(
            below in effects(), above in effects(), from in 0..12u8, to in 0..13u8, limit in 0..8usize,
        ) {
            let mut store = MemoryStore::default();
            for writes in &below {
                store.commit(effect(writes)).unwrap();
            }
            let mut committed = store.clone();
            let mut overlay = Overlay::new(&store);
            for writes in &above {
                committed.commit(effect(writes)).unwrap();
                overlay.merge(effect(writes));
            }
            let (from, to) = ([from.min(to)], [to]);
            prop_assert_eq!(
                overlay.scan(&from, &to, limit).unwrap(),
                View::scan(&committed, &from, &to, limit).unwrap()
            );
            for key in 0..12 {
                prop_assert_eq!(overlay.get(&[key]).unwrap(), View::get(&committed, &[key]).unwrap());
            }
        }
    }
}
