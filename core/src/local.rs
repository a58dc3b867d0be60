use std::sync::Arc;

use crate::{
    Result, SeqStore,
    versioned::{self, Commanded},
};

/// A driver over any store that one process owns: it always leads.
///
/// A thread owns the store. The first storage error is final: the store is not called again, leadership
/// ends, and every later call fails with it.
pub type LocalDriver = Commanded;

impl Commanded {
    /// Takes the store, and leads.
    ///
    /// # Errors
    /// Those of the store.
    pub async fn open<S: SeqStore>(store: S) -> Result<Arc<Commanded>> {
        Self::open_with(|| Ok(store)).await
    }

    /// As [`open`](Self::open), with a store that is opened by the thread which then owns it.
    /// Opening may block.
    ///
    /// Dropping the future does not undo the opening; the store is dropped as soon as it has ended.
    ///
    /// # Errors
    /// Those of `open`, and those of the store.
    pub async fn open_with<S: SeqStore>(
        open: impl FnOnce() -> Result<S> + Send + 'static,
    ) -> Result<Arc<Commanded>> {
        Ok(Commanded::over(versioned::LocalDriver::open_with(open).await?))
    }
}
