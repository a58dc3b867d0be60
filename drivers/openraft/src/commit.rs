//! Commits on their way through raft.

use std::{sync::Arc, time::Duration};

use openraft::{error::ClientWriteError, raft::ClientWriteResponse};
use tokio::sync::oneshot;
use tsoracle_core::{Effect, Error, ErrorKind, Leadership, Outcome, Result, Version};
use tsoracle_replica::{Addresses, LogEntry};

use crate::{
    shared::Shared,
    types::{Metrics, Payload, TypeConfig},
};

/// How long no other node may have answered before this one is taken to be cut off: longer than any
/// lease it could be serving under.
const CUT_OFF: Duration = Duration::from_millis(1_500);

/// How long a commit has to be answered all the same: the others may be about to answer.
const CHANCE: Duration = Duration::from_millis(100);

/// How long a commit may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long raft has to say what became of a commit when this node leads no more.
const GRACE: Duration = Duration::from_millis(100);

type Response =
    oneshot::Receiver<Result<ClientWriteResponse<TypeConfig>, ClientWriteError<u64, Addresses>>>;

/// Commits `effect` on `base`, in a task that goes on if the caller does not.
pub(crate) async fn commit(shared: &Arc<Shared>, base: Version, effect: Effect) -> Result<Outcome> {
    shared.lifecycle.check()?;
    let own = shared.clone();
    let committing = shared.tasks.spawn(async move { propose(&own, base, effect).await });
    committing.await.map_err(|_| {
        Error::new(ErrorKind::Uncertain, "the driver stopped before it knew the outcome")
    })?
}

async fn propose(shared: &Shared, base: Version, effect: Effect) -> Result<Outcome> {
    admit(shared)?;
    let entry = LogEntry::new(base, effect)?;
    let (next, payload) = (entry.next(), Payload(entry.encode()?.into()));
    let lost = |_| Error::new(ErrorKind::Uncertain, "the outcome of the commit was not noted");
    let (mut answer, is_first) = shared.waiters.wait(next, shared.clock.now().boot);
    if is_first {
        match shared.raft.client_write_ff(payload).await {
            Ok(response) => tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(lost)?,
                () = refused(shared, &next, response) => {}
            },
            Err(_) => shared.waiters.refuse(&next, shared.lifecycle.gone()),
        }
    }
    answer.await.map_err(lost)?
}

/// Whether a commit may be begun.
fn admit(shared: &Shared) -> Result<()> {
    if shared.is_leaving() {
        let context = "leadership is being handed over";
        return Err(Error::new(ErrorKind::NotLeader(None), context));
    }
    match *shared.leadership.borrow() {
        Leadership::Leader { .. } => Ok(()),
        _ => Err(shared.not_leader()),
    }
}

/// Answers the commit with what raft says, unless that is that it was applied.
async fn refused(shared: &Shared, next: &Version, response: Response) {
    match response.await {
        // It was answered when it was applied.
        Ok(Ok(_)) => {}
        Ok(Err(ClientWriteError::ForwardToLeader(_))) => {
            shared.waiters.refuse(next, shared.not_leader());
        }
        Ok(Err(error)) => shared.waiters.give_up(next, &format!("{error:#}")),
        Err(_) => shared.waiters.give_up(next, &shared.lifecycle.gone().to_string()),
    }
}

/// Gives up the commits that raft may never answer, though this node leads.
pub(crate) fn give_up_the_hopeless(shared: &Shared, metrics: &Metrics) {
    let now = shared.clock.now().boot;
    let cut_off = u64::try_from(CUT_OFF.as_millis()).unwrap_or(u64::MAX);
    let is_cut_off = metrics.millis_since_quorum_ack.is_some_and(|since| since > cut_off);
    let limit = if is_cut_off { CHANCE } else { DEADLINE };
    shared.waiters.expire(now - limit, "no majority of the nodes took it in time");
}

/// Gives up the commits that were begun under a claim which is over now, if raft does not say what became of
/// them: it may never.
pub(crate) fn give_up_later(shared: &Arc<Shared>) {
    let over = shared.clock.now().boot + Duration::from_nanos(1);
    let own = shared.clone();
    shared.tasks.spawn(async move {
        own.clock.sleep(GRACE).await;
        own.waiters.expire(over, "this node leads no more");
    });
}
