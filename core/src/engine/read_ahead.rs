//! Reads for the next commit while one is in flight, so that a store whose keys do not fit into the working set is not
//! waited for twice for each commit.

use std::{future::Future, pin::pin};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    Shared,
    backlog::{Backlog, MOST_COMMANDS},
    group::Planner,
    pending::Pending,
};
use crate::{Reads, Snapshot};

/// What was read, each of one version.
pub(super) type ReadAhead = Vec<(Reads, Snapshot)>;

impl Planner<'_> {
    /// Awaits a commit. Where the last ones needed reads, what arrives meanwhile goes to the backlog, and what it
    /// needs and is not known is read.
    pub(super) async fn reading_ahead<T>(
        &mut self,
        requests: &mut mpsc::UnboundedReceiver<Pending>,
        backlog: &mut Backlog,
        committing: impl Future<Output = T>,
    ) -> (T, ReadAhead) {
        if !self.reads_ahead {
            return (committing.await, vec![]);
        }
        let mut committing = pin!(committing);
        let mut reading = FuturesUnordered::new();
        let (mut asked, mut found) = (false, vec![]);
        let committed = loop {
            tokio::select! {
                biased;
                committed = &mut committing => break committed,
                Some(read) = reading.next() => found.extend(read),
                Some(arrived) = requests.recv() => {
                    if let Some(reads) = self.unknown(&arrived) {
                        asked = true;
                        reading.push(read(self.shared, reads));
                    }
                    backlog.push(arrived);
                }
            }
        };
        while let Some(read) = reading.next().await {
            found.extend(read);
        }
        drop(reading);
        self.reads_ahead = asked;
        (committed, found)
    }

    /// Takes in what was read of the version that is known, and returns the rest.
    pub(super) fn learn(&mut self, read: ReadAhead) -> ReadAhead {
        let mut rest = vec![];
        for (reads, snapshot) in read {
            if snapshot.version != self.known.version() {
                rest.push((reads, snapshot));
            } else if self.known.learn(reads, snapshot).is_err() {
                // It is met again when it is needed.
                self.forget();
            }
        }
        rest
    }

    /// What the commands of a call need, as far as it is not known.
    fn unknown(&self, call: &Pending) -> Option<Reads> {
        let most = self.shared.guard.driver().limits().writes;
        let mut reads = Reads::default();
        for command in call.commands().take(MOST_COMMANDS) {
            if reads.keys.len() >= most {
                break;
            }
            command.add_unknown(&self.known, &mut reads);
        }
        reads.settle();
        Some(reads).filter(|reads| !reads.is_empty())
    }
}

/// What cannot be read now is read again when the next commit is planned, which reports it.
async fn read(shared: &Shared, reads: Reads) -> Option<(Reads, Snapshot)> {
    let snapshot = shared.guard.read(&reads, shared.options.lease).await.ok()?;
    Some((reads, snapshot))
}
