//! Stopping: what is under way ends, leadership is handed over, and the directory is released.

use std::{sync::Arc, time::Duration};

use tokio::time::timeout;
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

use crate::{members, shared::Shared};

/// How long commits under way may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// How often to look whether they have.
const LOOK: Duration = Duration::from_millis(2);

/// Stops the node, in a task that goes on if the caller does not; waits until it has.
pub(crate) async fn shutdown(shared: &Arc<Shared>) -> Result<()> {
    let mut ended = shared.ended.subscribe();
    if !shared.is_stopping() {
        let shared = shared.clone();
        shared.runtime.clone().spawn(async move {
            shared.leave();
            drain(&shared).await;
            if shared.leads()
                && let Err(error) = members::hand_over(&shared, None).await
            {
                tracing::info!(%error, "leadership is not handed over");
            }
            stop(&shared).await;
        });
    }
    let outcome = ended.wait_for(Option::is_some).await.ok().and_then(|outcome| outcome.clone());
    match outcome {
        Some(Err(error)) => Err(Error::new(ErrorKind::Fatal, error)),
        _ => Ok(()),
    }
}

async fn drain(shared: &Shared) {
    let empty = async {
        while !shared.waiters.is_empty() {
            SystemClock.sleep(LOOK).await;
        }
    };
    let _ = timeout(DRAIN, empty).await;
}

/// Stops everything, in the order in which it depends on each other.
pub(crate) async fn stop(shared: &Shared) {
    shared.leave();
    shared.stopping.send_replace(true);
    let _ = shared.raft.shutdown().await;
    shared.waiters.give_up_all("the driver stopped before it knew the outcome");
    shared.transport.shutdown().await;
    let stopped = shared.store.stop().await;
    shared.ended.send_replace(Some(stopped.map_err(|error| error.to_string())));
}
