use std::sync::Arc;

use tokio::runtime::{Builder, Handle, Runtime};

use crate::failure::Failure;

/// Where callers run: on the runtime of the program, unless there are some of their own.
#[derive(Clone, Debug, Default)]
pub struct Runtimes(Arc<Vec<Owned>>);

#[derive(Debug)]
struct Owned {
    handle: Handle,
    runtime: Option<Runtime>,
}

impl Runtimes {
    /// That many runtimes, of one thread each.
    pub fn start(count: u32) -> Result<Self, Failure> {
        let start = |_| {
            let runtime = Builder::new_multi_thread().worker_threads(1).enable_all().build();
            let runtime = runtime
                .map_err(|error| Failure::failed(format!("cannot start a runtime: {error:#}")))?;
            Ok(Owned { handle: runtime.handle().clone(), runtime: Some(runtime) })
        };
        (0..count).map(start).collect::<Result<Vec<_>, _>>().map(|owned| Self(Arc::new(owned)))
    }

    /// Where the caller of this number runs.
    pub fn of(&self, caller: usize) -> Handle {
        match self.0.get(caller % self.0.len().max(1)) {
            Some(owned) => owned.handle.clone(),
            None => Handle::current(),
        }
    }
}

impl Drop for Owned {
    fn drop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            // Waiting for it is not allowed within another runtime, and nothing of it is needed any more.
            runtime.shutdown_background();
        }
    }
}
