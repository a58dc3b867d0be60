use std::time::Duration;

use etcd_client::{Client, Error as EtcdError, EventType, WatchResponse};
use tokio::sync::watch::Receiver;
use tsoracle_core::{Clock, Error, ErrorKind, Result, SystemClock, Version};

use crate::shared::Shared;

/// The pause before another watch is begun.
const PAUSE: Duration = Duration::from_millis(100);

/// Has etcd report writes of the election key and of the state's version.
///
/// No claim and no commit rests on it. What it misses is found by looking, which the elector does all
/// the same, though seldom; and each look notices a member that is silent, which is then left.
pub(crate) async fn watch(shared: &Shared) {
    loop {
        // From here on, so that it is noticed if the member that reports is left.
        let mut left = shared.etcd.members.left();
        if let Err(error) = listen(shared, &mut left).await {
            tracing::debug!(error = %shared.latch(error), "the watch has ended; beginning another");
        }
        // Events may be lost until another watch begins, after which the elector reads.
        SystemClock.sleep(PAUSE).await;
    }
}

/// Listens to one member for as long as it reports, and is not left for another one.
async fn listen(shared: &Shared, left: &mut Receiver<usize>) -> Result<()> {
    let keys = &shared.etcd.keys;
    let opening = |client: Client| async move {
        let mut stream = client.watch_client().watch(keys.leader.as_str(), None).await?;
        stream.watch(keys.version.as_slice(), None).await?;
        Ok(stream)
    };
    let mut stream = shared.etcd.members.attempt(opening).await?;
    loop {
        let reported = tokio::select! {
            reported = stream.message() => reported,
            _ = left.changed() => return Ok(()),
        };
        match reported.map_err(ended)? {
            Some(reported) => take(shared, &reported)?,
            None => return Ok(()),
        }
    }
}

fn take(shared: &Shared, reported: &WatchResponse) -> Result<()> {
    if reported.canceled() {
        return Err(ended(EtcdError::WatchError(reported.cancel_reason().into())));
    }
    // Where a watch begins, something may have happened before.
    let mut has_news = reported.created();
    for event in reported.events() {
        let Some(entry) = event.kv() else { continue };
        let is_version = entry.key() == shared.etcd.keys.version.as_slice();
        match Version::decode(Some(entry.value())) {
            Ok(version) if is_version && event.event_type() == EventType::Put => {
                shared.etcd.observed.note(version);
            }
            // The election key, or a version that is damaged or deleted, which looking finds out.
            _ => has_news = true,
        }
    }
    if has_news {
        shared.look.notify_one();
    }
    Ok(())
}

fn ended(error: EtcdError) -> Error {
    Error::new(ErrorKind::Unavailable, "etcd no longer reports what is written").with_source(error)
}
