//! The oracle's commits on their way through the service's log.

use std::{sync::Arc, time::Duration};

use openraft::{BasicNode, error::ClientWriteError, raft::ClientWriteResponse};
use tokio::{sync::oneshot, time::timeout};
use tsoracle_core::{
    Clock as _, Effect, Error, ErrorKind, Leadership, Outcome, Result, SystemClock, Version,
};
use tsoracle_replica::LogEntry;

use crate::{
    node::Shared,
    types::{Command, TypeConfig},
};

/// How long a commit may take.
pub(crate) const DEADLINE: Duration = Duration::from_secs(3);

/// How long raft has to say what became of a commit when this node leads no more.
const GRACE: Duration = Duration::from_millis(100);

type Response =
    oneshot::Receiver<Result<ClientWriteResponse<TypeConfig>, ClientWriteError<u64, BasicNode>>>;

/// Commits `effect` on `base`, in a task that goes on if the caller does not.
pub(crate) async fn commit(shared: &Arc<Shared>, base: Version, effect: Effect) -> Result<Outcome> {
    let own = shared.clone();
    let committing = shared.runtime.spawn(async move { propose(&own, base, effect).await });
    committing.await.map_err(|_| uncertain("the driver stopped before it knew the outcome"))?
}

async fn propose(shared: &Shared, base: Version, effect: Effect) -> Result<Outcome> {
    let claim = shared.admit()?;
    let entry = LogEntry::new(base, effect)?;
    let (next, command) = (entry.next(), Command::Oracle(entry.encode()?));
    let lost = |_| uncertain("the outcome of the commit was not noted");
    let (mut answer, is_first) = shared.waiters.wait(next, SystemClock.now().boot);
    if is_first {
        match shared.raft.client_write_ff(command).await {
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

/// Sees to it that the commit is answered, though raft may never apply it.
async fn watch_over(shared: &Shared, next: &Version, claim: u64, response: Response) {
    let mut leadership = shared.leadership.clone();
    let deposed = async {
        let claim = Leadership::Leader { claim };
        let _ = leadership.wait_for(|now| *now != claim).await;
        SystemClock.sleep(GRACE).await;
    };
    let answered = async {
        tokio::select! {
            response = response => Some(response),
            () = deposed => None,
        }
    };
    match timeout(DEADLINE, answered).await {
        // It was answered when it was applied.
        Ok(Some(Ok(Ok(_)))) => {}
        Ok(Some(Ok(Err(ClientWriteError::ForwardToLeader(_))))) => {
            shared.waiters.refuse(next, shared.not_leader());
        }
        Ok(Some(Ok(Err(error)))) => shared.waiters.give_up(next, &error.to_string()),
        Ok(Some(Err(_))) => shared.waiters.give_up(next, &shared.lifecycle.gone().to_string()),
        Ok(None) | Err(_) => {
            shared.waiters.give_up(next, "no majority of the nodes took it in time");
        }
    }
}

pub(crate) fn uncertain(context: &str) -> Error {
    Error::new(ErrorKind::Uncertain, context)
}
