use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    Announcer, BootTime, CommitLimits, ConsensusDriver, Effect, Error, ErrorKind, Leadership,
    NodeId, OpenContext, Outcome, Reads, Report, Result, Snapshot, Version, supervised,
};

use crate::{
    config::Config,
    elector::Elector,
    etcd::{Etcd, LIMITS, draw},
    members::pause_before_retry,
    shared::{Shared, is_final, stopped},
    watching::watch,
};

/// One of any number of nodes over an etcd cluster, of which one is elected.
pub struct EtcdDriver {
    node: NodeId,
    leadership: watch::Receiver<Leadership>,
    shared: Arc<Shared>,
    /// How it stopped, once it has.
    stopped: watch::Receiver<Option<Result<(), String>>>,
}

impl EtcdDriver {
    /// Stands for election. If etcd cannot be reached, it does so once it can.
    ///
    /// # Errors
    /// `Config` for options that make no sense, or if etcd does not let this user in; `Corrupt` if
    /// the state is damaged or of an unknown format; `Fatal` if it was written in another cluster.
    pub async fn open(config: Config, context: OpenContext) -> Result<Arc<Self>> {
        config.validate()?;
        let etcd = Etcd::new(&config)?;
        let certificates = etcd.members.keep_up(context.reload);
        first_look(&etcd).await?;
        let (announcer, leadership) = Announcer::new();
        let (left, stopped) = watch::channel(None);
        // No lock keeps another process from the same prefix, so every process is a node of its own.
        let node = NodeId(draw()?);
        let shared = Arc::new(Shared::new(etcd));
        let endpoint = context.service_endpoint.unwrap_or_default();
        let elector = Elector::new(shared.clone(), announcer, (config.ttl, config.probe), endpoint);
        // One task, so that a panic anywhere in it ends everything.
        tokio::spawn(run(shared.clone(), elector, certificates, left));
        Ok(Arc::new(Self { node, leadership, shared, stopped }))
    }
}

/// Takes part in the election until the driver has failed, or is stopped or dropped.
async fn run(
    shared: Arc<Shared>,
    mut elector: Elector,
    certificates: impl Future<Output = ()>,
    left: watch::Sender<Option<Result<(), String>>>,
) {
    let working = async {
        tokio::select! {
            () = shared.ended() => {}
            () = elector.run() => {}
            () = watch(&shared) => {}
            () = shared.etcd.members.stay_connected() => {}
            () = certificates => {}
        }
    };
    if let Err(panic) = supervised("the election in etcd", working).await {
        shared.latch(panic);
    }
    let outcome = elector.leave().await;
    left.send_replace(Some(outcome.map_err(|error| format!("{error:#}"))));
}

/// Looks at the state before anything else, if etcd can be reached.
async fn first_look(etcd: &Etcd) -> Result<()> {
    let deadline = etcd.members.deadline();
    while let Err(error) = etcd.look().await {
        match pause_before_retry(error, deadline).await {
            Err(error) if *error.kind() == ErrorKind::Unavailable => {
                tracing::warn!(error = %format_args!("{error:#}"), "etcd cannot be reached yet; this node waits for it");
                break;
            }
            outcome => outcome?,
        }
    }
    Ok(())
}

/// Makes a commit. One that got no answer is sent again as it was: at most one copy is made, since it
/// changes the version that the others compare, and puts its name there.
async fn commit(etcd: &Etcd, base: Version, effect: &Effect) -> Result<Outcome> {
    let next = effect.version()?;
    etcd.check_home(base, next)?;
    let deadline = etcd.members.deadline();
    let mut was_sent = false;
    loop {
        let error = match etcd.commit(base, next, effect).await {
            Ok(None) => return Ok(Outcome::Stored),
            Ok(Some(found)) => return outcome(base, next, found, was_sent),
            Err(error) => error,
        };
        was_sent |= *error.kind() == ErrorKind::Uncertain;
        if let Err(error) = pause_before_retry(error, deadline).await {
            return Err(match was_sent && !is_final(&error) {
                true => {
                    let context = "etcd did not answer whether it has stored a commit";
                    Error::new(ErrorKind::Uncertain, context).with_source(error)
                }
                false => refused(error),
            });
        }
    }
}

/// What became of a commit that was not made now, since the state is at `found`.
fn outcome(base: Version, next: Version, found: Version, was_sent: bool) -> Result<Outcome> {
    let uncertain = |context| Err(Error::new(ErrorKind::Uncertain, context));
    match base.admits(next, found) {
        Some(Outcome::Stored) if found == next => Ok(Outcome::Stored),
        // Only one commit follows a base. Further on, an earlier copy may have been it.
        Some(conflict @ Outcome::Conflict { .. })
            if !was_sent || (found.era == base.era && found.number <= base.number + 1) =>
        {
            Ok(conflict)
        }
        Some(_) => uncertain(format!(
            "the state has moved on from {base:?} to {found:?} while etcd did not answer"
        )),
        None => uncertain(format!("the state is at {found:?}, which is before {base:?}")),
    }
}

/// The error of a call of which nothing was done: it may be repeated once the reason is gone.
fn refused(error: Error) -> Error {
    match is_final(&error) {
        true => error,
        false => Error::new(ErrorKind::Unavailable, format!("{error:#}")),
    }
}

#[async_trait]
impl ConsensusDriver for EtcdDriver {
    fn node(&self) -> NodeId {
        self.node
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.clone()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.shared.check()?;
        let etcd = &self.shared.etcd;
        let deadline = etcd.members.deadline();
        loop {
            match etcd.read(wanted).await {
                Err(error) => {
                    pause_before_retry(self.shared.latch(error), deadline).await.map_err(refused)?
                }
                snapshot => return snapshot,
            }
        }
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let shared = self.shared.clone();
        let permit = shared.commits.clone().try_read_owned().map_err(|_| stopped())?;
        shared.check()?;
        // In a task of its own, which goes on if this future is dropped.
        let committing = tokio::spawn(async move {
            let outcome = commit(&shared.etcd, base, &effect).await;
            drop(permit);
            outcome.map_err(|error| shared.latch(error))
        });
        let lost = |_| Error::new(ErrorKind::Uncertain, "the driver failed while it committed");
        committing.await.map_err(lost)?
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.shared.etcd.observed.seen(version)
    }

    async fn resign(&self, claim: u64) {
        // Of a claim that is over it must not be noted either: it would hide a later resignation.
        if *self.leadership.borrow() == (Leadership::Leader { claim }) {
            self.shared.resign(claim);
        }
    }

    fn limits(&self) -> CommitLimits {
        LIMITS
    }

    fn report(&self, now: BootTime) -> Report {
        self.shared.etcd.members.report(now)
    }

    async fn shutdown(&self) -> Result<()> {
        // Commits in flight end first, and no other begins.
        let commits = self.shared.commits.write().await;
        self.shared.end(stopped());
        drop(commits);
        let mut stopped = self.stopped.clone();
        match stopped.wait_for(Option::is_some).await.as_deref() {
            Ok(Some(Err(error))) => Err(Error::new(ErrorKind::Unavailable, error.clone())),
            Ok(_) => Ok(()),
            Err(_) => Err(Error::new(ErrorKind::Fatal, "the driver's task panicked")),
        }
    }
}

impl Drop for EtcdDriver {
    fn drop(&mut self) {
        self.shared.end(stopped());
    }
}

impl fmt::Debug for EtcdDriver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdDriver")
            .field("node", &self.node)
            .field("prefix", &self.shared.etcd.keys.prefix)
            .field("leadership", &*self.leadership.borrow())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_was_sent_before_conflicts_only_with_another_on_its_base() {
        let version = |era, number, name| Version { era, number, name };
        let (base, next) = (version(1, 5, 50), version(1, 6, 60));
        let kind = |outcome: Result<Outcome>| outcome.map_err(|error| error.kind().clone());
        for was_sent in [false, true] {
            let outcome = |found| kind(outcome(base, next, found, was_sent));
            assert_eq!(outcome(next), Ok(Outcome::Stored));
            for found in [version(1, 6, 61), version(1, 5, 51)] {
                assert_eq!(outcome(found), Ok(Outcome::Conflict { found }));
            }
            // The first copy may have been made before these.
            for found in [version(1, 7, 70), version(2, 6, 61), version(2, 0, 1)] {
                let expected = match was_sent {
                    false => Ok(Outcome::Conflict { found }),
                    true => Err(ErrorKind::Uncertain),
                };
                assert_eq!(outcome(found), expected);
            }
            for behind in [version(1, 4, 40), version(0, 9, 90), Version::EMPTY] {
                assert_eq!(outcome(behind), Err(ErrorKind::Uncertain));
            }
        }
    }
}
