use std::{
    fmt,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use tokio::{
    runtime::Handle,
    task::{JoinHandle, spawn_blocking},
};
use tsoracle_core::{Error, ErrorKind, Result};

/// Where the tasks of a node run, whichever thread begins them. Cheap to clone.
#[derive(Clone)]
pub struct Tasks {
    runtime: Handle,
    gate: Option<Arc<dyn Gate>>,
}

/// Through it all tasks of a simulated node go on, or do not.
pub trait Gate: Send + Sync + 'static {
    /// Ready while the node runs.
    fn poll_open(&self, context: &Context<'_>) -> Poll<()>;
}

impl Tasks {
    /// Tasks of the runtime that this is called on.
    ///
    /// # Panics
    /// Outside of a runtime.
    pub fn here() -> Self {
        Self { runtime: Handle::current(), gate: None }
    }

    /// As [`here`](Self::here), of a simulated node: it has no thread besides that of the simulation, and its
    /// tasks go on only while `gate` is open.
    ///
    /// # Panics
    /// As for [`here`](Self::here).
    pub fn behind(gate: Arc<dyn Gate>) -> Self {
        Self { runtime: Handle::current(), gate: Some(gate) }
    }

    /// Begins a task.
    pub fn spawn<F>(&self, future: F) -> JoinHandle<F::Output>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        match &self.gate {
            None => self.runtime.spawn(future),
            Some(_) => self.runtime.spawn(self.gated(future)),
        }
    }

    /// Polls `future` only while the gate is open, if there is one.
    pub fn gated<F: Future>(&self, future: F) -> Gated<F> {
        Gated { gate: self.gate.clone(), future: Box::pin(future) }
    }

    /// Whether they are those of a simulated node.
    pub fn are_simulated(&self) -> bool {
        self.gate.is_some()
    }

    /// Does what reads or writes files, where it blocks no task.
    ///
    /// # Errors
    /// Those of `work`, and `Fatal` if it panics.
    pub async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        if self.are_simulated() {
            return work();
        }
        let panicked = |_| Error::new(ErrorKind::Fatal, "work on files panicked");
        spawn_blocking(work).await.map_err(panicked)?
    }
}

impl fmt::Debug for Tasks {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Tasks")
    }
}

/// A future behind a gate.
pub struct Gated<F> {
    gate: Option<Arc<dyn Gate>>,
    future: Pin<Box<F>>,
}

impl<F: Future> Future for Gated<F> {
    type Output = F::Output;

    fn poll(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<F::Output> {
        if let Some(gate) = &self.gate {
            ready!(gate.poll_open(context));
        }
        self.future.as_mut().poll(context)
    }
}
