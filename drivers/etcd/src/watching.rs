use std::time::Duration;

use etcd_client::{Client, Error as EtcdError, KeyValue, WatchResponse, WatchStream};
use tokio::sync::watch::Receiver;
use tsoracle_core::{Clock, Error, ErrorKind, Result, SystemClock, state::REIGN};

use crate::shared::Shared;

/// The pause before another watch is begun.
const PAUSE: Duration = Duration::from_millis(100);

/// Has etcd tell what is written to the election key and the reign record, until the driver is done
/// for.
///
/// No claim and no commit rests on it. What it misses is found by looking, which the elector does all
/// the same, though seldom; and each look notices a member that is silent, which is then left.
pub(crate) async fn watch(shared: &Shared) {
    while !shared.is_closed() {
        // From here on, so that it is noticed whenever the member that tells is left.
        let mut left = shared.etcd.members.left();
        if let Err(error) = listen(shared, &mut left).await {
            tracing::debug!(error = %shared.latch(error), "the watch has ended; beginning another");
        }
        // Something may be missed from here on until there is another one, which has it looked for.
        SystemClock.sleep(PAUSE).await;
    }
}

/// Listens to one member for as long as it tells, and is not left for another one.
async fn listen(shared: &Shared, left: &mut Receiver<usize>) -> Result<()> {
    let keys = &shared.etcd.keys;
    let opening = |client: Client| async move {
        let mut stream = client.watch_client().watch(keys.leader.as_str(), None).await?;
        stream.watch(keys.state(REIGN), None).await?;
        Ok(stream)
    };
    let mut stream = shared.etcd.members.attempt(opening, |_: &WatchStream| None).await?;
    loop {
        let told = tokio::select! {
            told = stream.message() => told,
            _ = left.changed() => return Ok(()),
        };
        match told.map_err(ended)? {
            Some(told) => hear(shared, &told)?,
            None => return Ok(()),
        }
    }
}

fn hear(shared: &Shared, told: &WatchResponse) -> Result<()> {
    if let Some(header) = told.header() {
        // A member may tell what it knows later than others have told more.
        shared.etcd.members.check(header, 0)?;
    }
    if told.canceled() {
        return Err(ended(EtcdError::WatchError(told.cancel_reason().into())));
    }
    let is_of_reign = |entry: &&KeyValue| entry.key() != shared.etcd.keys.leader.as_bytes();
    // Where a watch begins, something may have happened before; else it is about the election key.
    let mut news = told.created();
    for entry in told.events().iter().filter_map(|event| event.kv()) {
        match is_of_reign(&entry) {
            true => shared.etcd.seen.note(entry.mod_revision()),
            false => news = true,
        }
    }
    if news {
        shared.look.notify_one();
    }
    Ok(())
}

fn ended(error: EtcdError) -> Error {
    Error::new(ErrorKind::Unavailable, "etcd tells no more what is written").with_source(error)
}
