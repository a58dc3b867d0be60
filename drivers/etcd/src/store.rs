use std::{fmt, sync::Arc};

use async_trait::async_trait;
use tokio::sync::Mutex;
use tsoracle_core::{
    BootTime, CommitLimits, Effect, Election, Error, ErrorKind, News, OpenContext, Reads, Reload,
    Report, Result, SharedStore, Snapshot, Version,
};

use crate::{
    config::Config,
    elector::Elector,
    etcd::{Etcd, LIMITS},
    members::pause_before_retry,
    probe::Probe,
    watching::watch,
};

/// The state and the election below one prefix in etcd.
pub(crate) struct Store {
    etcd: Arc<Etcd>,
    probe: Arc<Probe>,
    elector: Mutex<Elector>,
    reload: Reload,
}

impl Store {
    pub(crate) fn new(config: &Config, context: OpenContext) -> Result<Self> {
        config.validate()?;
        let etcd = Arc::new(Etcd::new(config)?);
        let probe = Arc::new(Probe::new(config.probe));
        let endpoint = context.service_endpoint.unwrap_or_default();
        let elector = Elector::new(etcd.clone(), probe.clone(), config, endpoint).into();
        Ok(Self { etcd, probe, elector, reload: context.reload })
    }
}

#[async_trait]
impl SharedStore for Store {
    const LIMITS: CommitLimits = LIMITS;

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        let deadline = self.etcd.members.deadline();
        loop {
            match self.etcd.read(wanted).await {
                Err(error) => pause_before_retry(error, deadline).await?,
                snapshot => return snapshot,
            }
        }
    }

    /// One that got no answer is sent again as it was: at most one copy is made, since it changes the version that
    /// the others compare, and puts its name there.
    async fn commit(&self, base: Version, next: Version, effect: &Effect) -> Result<Version> {
        self.etcd.check_home(base, next)?;
        let deadline = self.etcd.members.deadline();
        let mut was_sent = false;
        loop {
            let error = match self.etcd.commit(base, next, effect).await {
                Ok(None) => return Ok(base),
                Ok(Some(found)) => return tells(base, next, found, was_sent),
                Err(error) => error,
            };
            was_sent |= *error.kind() == ErrorKind::Uncertain;
            if let Err(error) = pause_before_retry(error, deadline).await {
                return Err(match was_sent && !error.is_final() {
                    true => {
                        let context = "etcd did not answer whether it has stored a commit";
                        Error::new(ErrorKind::Uncertain, context).with_source(error)
                    }
                    false => error,
                });
            }
        }
    }

    async fn elect(&self, may_lead: bool) -> Result<Election> {
        self.elector.lock().await.elect(may_lead).await
    }

    async fn give_up(&self) -> Result<()> {
        self.elector.lock().await.give_up().await
    }

    async fn watch(&self, news: &News) {
        tokio::select! {
            () = watch(&self.etcd, news) => {}
            () = self.probe.run(news) => {}
            () = self.etcd.members.stay_connected() => {}
            () = self.etcd.members.keep_up(self.reload.clone()) => {}
        }
    }

    fn report(&self, now: BootTime) -> Report {
        self.etcd.members.report(now)
    }
}

/// Passes on the version at which a commit was not made, if that tells what became of it. Only one commit follows a
/// base. Further on, an earlier copy of this one may have been it.
fn tells(base: Version, next: Version, found: Version, was_sent: bool) -> Result<Version> {
    let is_further = found.era != base.era || found.number > base.number + 1;
    let is_open = was_sent && found != next && is_further;
    if found != base && !is_open {
        return Ok(found);
    }
    let context =
        format!("the state has moved on from {base:?} to {found:?} while etcd did not answer");
    Err(Error::new(ErrorKind::Uncertain, context))
}

impl fmt::Debug for Store {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Store").field("prefix", &self.etcd.keys.prefix).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_commit_that_was_sent_before_conflicts_only_with_another_on_its_base() {
        let version = |era, number, name| Version { era, number, name };
        let (base, next) = (version(1, 5, 50), version(1, 6, 60));
        let kind = |told: Result<Version>| told.map_err(|error| error.kind().clone());
        for was_sent in [false, true] {
            let tells = |found| kind(tells(base, next, found, was_sent));
            for found in [next, version(1, 6, 61), version(1, 5, 51), version(1, 4, 40)] {
                assert_eq!(tells(found), Ok(found));
            }
            assert_eq!(tells(base), Err(ErrorKind::Uncertain), "there it would have been made");
            // The first copy may have been made before these.
            for found in [version(1, 7, 70), version(2, 6, 61), version(2, 0, 1), version(0, 9, 9)]
            {
                let expected = if was_sent { Err(ErrorKind::Uncertain) } else { Ok(found) };
                assert_eq!(tells(found), expected);
            }
        }
    }
}
