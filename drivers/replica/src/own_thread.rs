//! A node's own thread and runtime.

use std::thread;

use tokio::{runtime::Builder, sync::oneshot};
use tsoracle_core::{Error, ErrorKind, Result};

/// Runs a node to its end in a thread of its own, and returns what it sends when it has started, without
/// waiting for its end. A message and a commit pass through many tasks, which wake each other at no cost
/// where they share a thread.
///
/// If the receiver is gone by the time it has started, the node MUST stop.
///
/// # Errors
/// Those that the node sends, and `Fatal` if the thread cannot be started, or ends before.
pub async fn run<T, F>(
    name: &str,
    node: impl FnOnce(oneshot::Sender<Result<T>>) -> F + Send + 'static,
) -> Result<T>
where
    T: Send + 'static,
    F: Future<Output = ()>,
{
    let (started, starting) = oneshot::channel();
    let fatal = |source: std::io::Error| {
        Error::new(ErrorKind::Fatal, "the node's thread cannot be started").with_source(source)
    };
    let work = move || match Builder::new_current_thread().enable_all().build() {
        Ok(runtime) => runtime.block_on(node(started)),
        Err(error) => drop(started.send(Err(fatal(error)))),
    };
    thread::Builder::new().name(name.into()).spawn(work).map_err(fatal)?;
    let ended = |_| Error::new(ErrorKind::Fatal, "the node's thread ended while it started");
    starting.await.map_err(ended)?
}
