//! Commits on their way into raft, one after the other.

use std::{sync::Arc, time::Duration};

use openraft::error::ClientWriteError;
use tokio::{
    sync::{mpsc, oneshot},
    time::timeout,
};
use tsoracle_cluster::{EntryId, Identity, LogEntry};
use tsoracle_core::{
    Clock as _, Committed, Epoch, Error, ErrorKind, Leadership, Result, SystemClock, state::Command,
};

use crate::{
    shared::Shared,
    types::{Payload, TypeConfig},
};

/// How long nobody but this node may have answered before it is taken to be cut off: longer than any
/// lease it could be serving under.
const CUT_OFF: Duration = Duration::from_millis(1_500);

/// How often to look whether it is.
const LOOK: Duration = Duration::from_millis(100);

/// How long a commit may take.
const DEADLINE: Duration = Duration::from_secs(10);

/// How long raft has to say what became of a commit when this node leads no more.
const GRACE: Duration = Duration::from_millis(100);

/// Commands that somebody wants to be committed.
pub(crate) struct Proposal {
    pub(crate) epoch: Epoch,
    pub(crate) commands: Vec<Command>,
    pub(crate) reply: oneshot::Sender<Result<Committed>>,
}

type Response = oneshot::Receiver<
    Result<
        openraft::raft::ClientWriteResponse<TypeConfig>,
        ClientWriteError<u64, tsoracle_cluster::Addresses>,
    >,
>;

/// Puts proposals into raft in their order, until nobody makes any or the node stops.
pub(crate) async fn run(
    shared: Arc<Shared>,
    mut identity: Identity,
    mut proposals: mpsc::Receiver<Proposal>,
) {
    while let Some(Proposal { epoch, commands, reply }) = proposals.recv().await {
        if let Err(error) = check(&shared, epoch) {
            let _ = reply.send(Err(error));
            continue;
        }
        let entry = LogEntry { id: identity.next_entry(), epoch, commands };
        let payload = match entry.encode() {
            Ok(bytes) => Payload(bytes.into()),
            Err(error) => {
                let _ = reply.send(Err(error));
                continue;
            }
        };
        shared.waiting.wait(entry.id, reply);
        match shared.raft.client_write_ff(payload).await {
            Ok(response) => {
                tokio::spawn(watch_over(shared.clone(), entry.id, epoch, response));
            }
            Err(_) => shared.waiting.refuse(entry.id, shared.gone()),
        }
    }
}

fn check(shared: &Shared, epoch: Epoch) -> Result<()> {
    if shared.is_leaving() {
        let context = "leadership is being handed over";
        return Err(Error::new(ErrorKind::NotLeader(None), context));
    }
    match *shared.leadership.borrow() {
        Leadership::Leader { epoch: now } if now == epoch => Ok(()),
        _ => Err(shared.not_leader()),
    }
}

/// Sees to it that whoever waits for the entry is answered, though raft may never apply it.
async fn watch_over(shared: Arc<Shared>, entry: EntryId, epoch: Epoch, response: Response) {
    let lost = async {
        let mut leadership = shared.leadership.clone();
        let claim = Leadership::Leader { epoch };
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
    let unanswered = "no majority of the nodes took it in time";
    match timeout(DEADLINE, answered).await {
        // Whoever waited was answered when it was applied.
        Ok(Some(Ok(Ok(_)))) => {}
        Ok(Some(Ok(Err(ClientWriteError::ForwardToLeader(forward))))) => {
            shared.waiting.refuse(entry, shared.forwarded(&forward));
        }
        Ok(Some(Ok(Err(error)))) => shared.waiting.give_up(entry, &error.to_string()),
        Ok(Some(Err(_))) => shared.waiting.give_up(entry, &shared.gone().to_string()),
        Ok(None) | Err(_) => shared.waiting.give_up(entry, unanswered),
    }
}
