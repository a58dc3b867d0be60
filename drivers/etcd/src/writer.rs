use std::sync::Arc;

use tokio::sync::{mpsc, oneshot};
use tsoracle_core::{
    BootTime, Committed, Epoch, Error, ErrorKind, NodeId, Reject, Result,
    state::{self, Command, Effect, REIGN, Reads, Reply},
};

use crate::{
    etcd::Outcome,
    members::again,
    shared::Shared,
    snapshot::Snapshot,
    version::{Version, created},
};

/// What a caller has the writer do.
pub(crate) enum Job {
    Commit { epoch: Epoch, commands: Vec<Command>, reply: oneshot::Sender<Result<Committed>> },
    Stop,
}

/// Makes commits, one after another, in the order in which they come.
///
/// It remembers what it has read and written. That is no authority: each transaction compares the
/// version of the state with the one that its reads were of, and goes through only if nobody has
/// written since.
pub(crate) struct Writer {
    shared: Arc<Shared>,
    node: NodeId,
    commits: u64,
    snapshot: Snapshot,
    /// The revision that last wrote the reign record.
    reign: i64,
    /// The next version, but for the name of its commit.
    next: Version,
}

/// What storing an effect came to.
enum Stored {
    In(i64),
    /// Somebody has written since it was worked out, and certainly not this.
    Moved,
}

impl Writer {
    pub(crate) fn new(shared: Arc<Shared>, node: NodeId) -> Self {
        let (snapshot, reign, next) = Default::default();
        Self { shared, node, commits: 0, snapshot, reign, next }
    }

    /// Works until told to stop. What comes behind that is refused.
    pub(crate) async fn run(mut self, mut queue: mpsc::Receiver<Job>) {
        while let Some(Job::Commit { epoch, commands, reply }) = queue.recv().await {
            let outcome = match self.shared.check() {
                Ok(()) => self.commit(epoch, &commands).await,
                Err(error) => Err(error),
            };
            // A caller that has gone does not undo what was done for it.
            let _ = reply.send(outcome);
        }
        queue.close();
        while let Some(job) = queue.recv().await {
            if let Job::Commit { reply, .. } = job {
                let stopped = Error::new(ErrorKind::Unavailable, "the driver has stopped");
                let _ = reply.send(Err(stopped));
            }
        }
    }

    async fn commit(&mut self, epoch: Epoch, commands: &[Command]) -> Result<Committed> {
        self.shared.leads(epoch)?;
        if commands.is_empty() {
            return Ok(Committed { results: vec![], replaced_seen: None });
        }
        if matches!(commands[0], Command::Fence { .. }) {
            // What an earlier claim of this process knew is of no use to this one.
            self.snapshot.clear();
        }
        let until = self.shared.etcd.members.patience();
        loop {
            let (results, effect) = match self.work_out(epoch, commands, until).await {
                Ok(worked_out) => worked_out,
                Err(error) => return Err(self.shared.latch(error)),
            };
            // Before the write that replaces it is seen as well.
            let seen = self.shared.etcd.seen.since(self.reign);
            let stored = self.store(epoch, &effect, until).await;
            if stored.is_err() {
                self.snapshot.clear();
            }
            let revision = match stored.map_err(|error| self.shared.latch(error))? {
                Stored::In(revision) => revision,
                Stored::Moved => {
                    self.snapshot.clear();
                    continue;
                }
            };
            if effect.iter().any(|(key, _)| key == REIGN) {
                self.reign = revision;
            }
            if !effect.is_empty() {
                self.snapshot.follow(revision, effect);
            }
            let fenced = matches!(results.first(), Some(Ok(Reply::Fenced { .. })));
            return Ok(Committed { results, replaced_seen: seen.filter(|_| fenced) });
        }
    }

    /// Applies commands to the state, fetching what they read of it and is not known yet.
    async fn work_out(
        &mut self,
        epoch: Epoch,
        commands: &[Command],
        until: BootTime,
    ) -> Result<(Vec<Result<Reply, Reject>>, Effect)> {
        let reads: Vec<_> = commands.iter().map(Command::reads).collect();
        let mut lacking = self.snapshot.lacks(reads.iter());
        loop {
            if self.snapshot.of.is_none() || lacking != Reads::default() {
                let fetching = self.shared.etcd.fetch(lacking.clone(), 0, &mut self.snapshot);
                match fetching.await {
                    Ok(found) => (self.reign, self.next) = (found.reign, found.next),
                    Err(error) => {
                        again(error, until).await?;
                        continue;
                    }
                }
            }
            match state::apply(&self.snapshot, epoch, commands) {
                Ok(worked_out) => return Ok(worked_out),
                Err(error) => lacking = self.snapshot.take_missing().ok_or(error)?,
            }
        }
    }

    /// Makes the writes of `effect` if this epoch still leads and nobody has written since.
    ///
    /// A transaction that got no answer is sent again as it was: at most one of both goes through,
    /// since the first changes the version that the other compares, and puts its name there.
    async fn store(&mut self, epoch: Epoch, effect: &Effect, until: BootTime) -> Result<Stored> {
        let (created, modified) = (created(epoch), self.snapshot.of.unwrap_or(0));
        self.commits += 1;
        let commit = format!("{:032x}-{}", self.node.0, self.commits);
        let version = Version { commit, ..self.next.clone() };
        let version = (!effect.is_empty()).then_some(version);
        let writes = self.snapshot.writes(effect);
        let mut may_be_stored = false;
        loop {
            let etcd = &self.shared.etcd;
            match etcd.commit(created, modified, version.as_ref(), &writes).await {
                Ok(Outcome::Done(revision)) => {
                    self.next.revision = revision;
                    return Ok(Stored::In(revision));
                }
                Ok(Outcome::Refused(found)) => {
                    if version.as_ref().is_some_and(|version| version.commit == found.commit) {
                        return Ok(Stored::In(found.modified));
                    }
                    if found.holder.is_some_and(|holder| holder.created == created) {
                        return Ok(Stored::Moved);
                    }
                    self.shared.end_claim(epoch);
                    if may_be_stored && found.modified != modified {
                        return Err(uncertain("this node was deposed while etcd did not answer"));
                    }
                    let context = format!("this node no longer leads under epoch {epoch}");
                    return Err(Error::new(ErrorKind::NotLeader(None), context));
                }
                Err(error) => {
                    may_be_stored |= version.is_some() && *error.kind() == ErrorKind::Uncertain;
                    let Err(error) = again(error, until).await else { continue };
                    let is_open =
                        matches!(error.kind(), ErrorKind::Unavailable | ErrorKind::Config);
                    return Err(match may_be_stored && is_open {
                        true => uncertain("the commit may or may not be stored").with_source(error),
                        false => error,
                    });
                }
            }
        }
    }
}

fn uncertain(context: &str) -> Error {
    Error::new(ErrorKind::Uncertain, context)
}
