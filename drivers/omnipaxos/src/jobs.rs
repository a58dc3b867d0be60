//! What callers ask of the node.

use tokio::sync::oneshot;
use tsoracle_core::{BootTime, Error, ErrorKind, Reads, Result, Snapshot};

use crate::{
    entry::{Commit, Entry},
    node::Node,
    stop::Leaving,
};

/// What a caller asks for.
pub(crate) enum Job {
    /// It waits among the [`Waiters`].
    Commit(Commit),
    Read {
        wanted: Reads,
        reply: oneshot::Sender<Result<Snapshot>>,
    },
    Resign {
        claim: u64,
    },
    Stop,
}

impl Node {
    pub(crate) fn refuse(&mut self, job: Job, error: &Error) {
        match job {
            Job::Commit(commit) => self.waiters.refuse(&commit.next(), error.clone()),
            // The caller may have gone.
            Job::Read { reply, .. } => drop(reply.send(Err(error.clone()))),
            Job::Resign { .. } => {}
            Job::Stop => self.leaving = Some(Leaving::at_once()),
        }
    }

    pub(crate) fn submit(&mut self, job: Job, now: BootTime) -> Result<()> {
        match job {
            Job::Commit(commit) => match self.admit(now) {
                Ok(()) => self.append(commit, now),
                Err(error) => {
                    self.waiters.refuse(&commit.next(), error);
                    Ok(())
                }
            },
            Job::Read { wanted, reply } => {
                // The caller may have gone.
                let _ = reply.send(Ok(self.replica.read(&wanted)?));
                Ok(())
            }
            Job::Resign { claim } => {
                self.resign(claim, now);
                Ok(())
            }
            Job::Stop => {
                self.leaving.get_or_insert_with(|| Leaving::begin(now));
                Ok(())
            }
        }
    }

    /// Appends to the log of the leader, which this node is.
    fn append(&mut self, commit: Commit, now: BootTime) -> Result<()> {
        self.waiters.begun(&commit.next());
        self.replica.evidence().logged(commit.next(), now);
        self.paxos.append(Entry::Commit(commit)).map_err(|refused| {
            Error::new(ErrorKind::Fatal, format!("OmniPaxos refused an entry: {refused:?}"))
        })
    }
}
