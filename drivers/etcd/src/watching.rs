use std::time::Duration;

use etcd_client::{Client, Error as EtcdError, EventType, WatchResponse};
use tokio::sync::watch::Receiver;
use tsoracle_core::{Clock, Error, ErrorKind, News, Result, SystemClock, Version};

use crate::etcd::Etcd;

/// The pause before another watch is begun.
const PAUSE: Duration = Duration::from_millis(100);

/// Has etcd report writes of the election key and of the state's version.
///
/// No claim and no commit rests on it. What it misses is found by looking, which the elector does all
/// the same, though seldom; and each look notices a member that is silent, which is then left.
pub(crate) async fn watch(etcd: &Etcd, news: &News) {
    loop {
        // From here on, so that it is noticed if the member that reports is left.
        let mut left = etcd.members.left();
        if let Err(error) = listen(etcd, news, &mut left).await {
            tracing::debug!(error = %format_args!("{error:#}"), "the watch has ended; beginning another");
        }
        // Events may be lost until another watch begins, after which the elector reads.
        SystemClock.sleep(PAUSE).await;
    }
}

/// Listens to one member for as long as it reports, and is not left for another one.
async fn listen(etcd: &Etcd, news: &News, left: &mut Receiver<usize>) -> Result<()> {
    let keys = &etcd.keys;
    let opening = |client: Client| async move {
        let mut stream = client.watch_client().watch(keys.leader.as_str(), None).await?;
        stream.watch(keys.version.as_slice(), None).await?;
        Ok(stream)
    };
    let mut stream = etcd.members.attempt(opening).await?;
    loop {
        let reported = tokio::select! {
            reported = stream.message() => reported,
            _ = left.changed() => return Ok(()),
        };
        match reported.map_err(ended)? {
            Some(reported) => take(etcd, news, &reported)?,
            None => return Ok(()),
        }
    }
}

fn take(etcd: &Etcd, news: &News, reported: &WatchResponse) -> Result<()> {
    if reported.canceled() {
        return Err(ended(EtcdError::WatchError(reported.cancel_reason().into())));
    }
    // Where a watch begins, something may have happened before.
    let mut has_news = reported.created();
    for event in reported.events() {
        let Some(entry) = event.kv() else { continue };
        let is_version = entry.key() == etcd.keys.version.as_slice();
        match Version::decode(Some(entry.value())) {
            Ok(version) if is_version && event.event_type() == EventType::Put => {
                news.version(version);
            }
            // The election key, or a version that is damaged or deleted, which looking finds out.
            _ => has_news = true,
        }
    }
    if has_news {
        news.look();
    }
    Ok(())
}

fn ended(error: EtcdError) -> Error {
    Error::new(ErrorKind::Unavailable, "etcd no longer reports what is written").with_source(error)
}
