//! Commits on their way through raft.

use std::{sync::Arc, time::Duration};

use openraft::{error::ClientWriteError, raft::ClientWriteResponse};
use tokio::{sync::oneshot, time::timeout};
use tsoracle_core::{
    Clock as _, Effect, Error, ErrorKind, Leadership, Outcome, Result, SystemClock, Version,
};
use tsoracle_replica::{Addresses, LogEntry};

use crate::{
    shared::Shared,
    types::{Payload, TypeConfig},
};

/// How long no other node may have answered before this one is taken to be cut off: longer than any
/// lease it could be serving under.
const CUT_OFF: Duration = Duration::from_millis(1_500);

/// How often to look whether it is.
const LOOK: Duration = Duration::from_millis(100);

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
    let committing = shared.runtime.spawn(async move { propose(&own, base, effect).await });
    committing.await.map_err(|_| {
        Error::new(ErrorKind::Uncertain, "the driver stopped before it knew the outcome")
    })?
}

async fn propose(shared: &Shared, base: Version, effect: Effect) -> Result<Outcome> {
    let claim = admit(shared)?;
    let entry = LogEntry::new(base, effect)?;
    let (next, payload) = (entry.next(), Payload(entry.encode()?.into()));
    let lost = |_| Error::new(ErrorKind::Uncertain, "the outcome of the commit was not noted");
    let (mut answer, is_first) = shared.waiters.wait(next, SystemClock.now().boot);
    if is_first {
        match shared.raft.client_write_ff(payload).await {
            Ok(response) => tokio::select! {
                biased;
                answer = &mut answer => return answer.map_err(lost)?,
                () = watch_over(shared, &next, claim, response) => {}
            },
            Err(_) => shared.waiters.refuse(&next, shared.lifecycle.gone()),
        }
    }
    answer.await.map_err(lost)?
}

/// The claim under which a commit may be begun.
fn admit(shared: &Shared) -> Result<u64> {
    if shared.is_leaving() {
        let context = "leadership is being handed over";
        return Err(Error::new(ErrorKind::NotLeader(None), context));
    }
    match *shared.leadership.borrow() {
        Leadership::Leader { claim } => Ok(claim),
        _ => Err(shared.not_leader()),
    }
}

/// Sees to it that the commit is answered, though raft may never apply it.
async fn watch_over(shared: &Shared, next: &Version, claim: u64, response: Response) {
    let lost = async {
        let mut leadership = shared.leadership.clone();
        let claim = Leadership::Leader { claim };
        let _ = leadership.wait_for(|now| *now != claim).await;
        SystemClock.sleep(GRACE).await;
    };
    let cut_off = async {
        let limit = u64::try_from(CUT_OFF.as_millis()).unwrap_or(u64::MAX);
        // Looked at now and then: raft's metrics change several times with each commit.
        loop {
            SystemClock.sleep(LOOK).await;
            let since = shared.raft.metrics().borrow().millis_since_quorum_ack;
            if since.is_some_and(|since| since > limit) {
                return;
            }
        }
    };
    let answered = async {
        tokio::select! {
            response = response => Some(response),
            () = lost => None,
            () = cut_off => None,
        }
    };
    match timeout(DEADLINE, answered).await {
        // It was answered when it was applied.
        Ok(Some(Ok(Ok(_)))) => {}
        Ok(Some(Ok(Err(ClientWriteError::ForwardToLeader(_))))) => {
            shared.waiters.refuse(next, shared.not_leader());
        }
        Ok(Some(Ok(Err(error)))) => shared.waiters.give_up(next, &format!("{error:#}")),
        Ok(Some(Err(_))) => shared.waiters.give_up(next, &shared.lifecycle.gone().to_string()),
        Ok(None) | Err(_) => {
            shared.waiters.give_up(next, "no majority of the nodes took it in time");
        }
    }
}
