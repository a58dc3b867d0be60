//! Stopping: what is under way ends, leadership is handed over, and the directory is released.

use std::{sync::Arc, time::Duration};

use tsoracle_core::Result;

use crate::{give_way, shared::Shared};

/// How long commits under way may take to end.
const DRAIN: Duration = Duration::from_secs(2);

/// Stops the node, in a task that goes on if the caller does not; waits until it has.
pub(crate) async fn shutdown(shared: &Arc<Shared>) -> Result<()> {
    if shared.lifecycle.is_first_to_stop() {
        let shared = shared.clone();
        shared.tasks.clone().spawn(async move {
            shared.leave();
            shared.waiters.drained(&*shared.clock, DRAIN).await;
            if shared.leads()
                && let Err(error) = give_way::hand_over(&shared, None).await
            {
                tracing::info!(error = %format_args!("{error:#}"), "leadership is not handed over");
            }
            stop(&shared).await;
        });
    }
    shared.lifecycle.ended().await
}

/// Stops everything, in the order in which it depends on each other.
pub(crate) async fn stop(shared: &Shared) {
    shared.leave();
    shared.lifecycle.stop();
    let _ = shared.raft.shutdown().await;
    shared.waiters.give_up_all("the driver stopped before it knew the outcome");
    shared.transport.shutdown().await;
    shared.lifecycle.end(shared.store.stop().await);
}
