//! What the engine does while a commit is in flight: it goes on with what it knows, and reads what the next commit needs.

use std::{
    future::{Future, poll_fn},
    pin::pin,
    task::Poll,
};

use futures::{StreamExt as _, stream::FuturesUnordered};
use tokio::sync::mpsc;

use super::{
    Shared,
    backlog::{Backlog, MOST_COMMANDS},
    group::Planner,
    pending::Pending,
};
use crate::{Reads, Snapshot, Version, state::Writes};

/// What was read, each of one version.
type ReadAhead = Vec<(Reads, Snapshot)>;

impl Planner<'_> {
    /// Awaits the commit that makes these writes and that version, and lays them over what is known. Unless it is stored,
    /// the caller forgets everything, and what was planned on it.
    ///
    /// What arrives meanwhile is worked out if `plans_ahead`. Where the last commits needed reads, what it needs and is not
    /// known is read instead.
    pub(super) async fn committed<T>(
        &mut self,
        (next, writes): (Version, Writes),
        requests: &mut mpsc::UnboundedReceiver<Pending>,
        backlog: &mut Backlog,
        plans_ahead: bool,
        committing: impl Future<Output = T>,
    ) -> T {
        let mut committing = pin!(committing);
        if !self.reads_ahead {
            // The disk is busy already while the working set is brought up to date.
            let begun = poll_fn(|context| Poll::Ready(committing.as_mut().poll(context))).await;
            self.known.advance(next, writes);
            if let Poll::Ready(committed) = begun {
                return committed;
            }
            loop {
                tokio::select! {
                    biased;
                    committed = &mut committing => return committed,
                    Some(arrived) = requests.recv(), if plans_ahead => {
                        backlog.push(arrived);
                        while let Ok(arrived) = requests.try_recv() {
                            backlog.push(arrived);
                        }
                        self.plan_ahead(backlog);
                    }
                }
            }
        }
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
        // Read before the commit was made, or after it.
        let later = self.learn(found);
        self.known.advance(next, writes);
        self.learn(later);
        committed
    }

    /// Takes in what was read of the version that is known, and returns the rest.
    fn learn(&mut self, read: ReadAhead) -> ReadAhead {
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
