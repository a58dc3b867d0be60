use std::{sync::Arc, time::Duration};

use tokio::task::JoinHandle;
use tsoracle_core::{
    BootTime, Clock, Epoch, Error, ErrorKind, LeaderHint, Leadership, Result, SystemClock,
};

use crate::{
    etcd::{Found, Holder, Look},
    inspect::inspect,
    probe::watch_over,
    shared::Shared,
    version::epoch,
};

/// How often a contender looks who leads, in case that the watch has missed something.
const LOOK: Duration = Duration::from_secs(1);

/// When it looks again after it has failed to.
const AGAIN: Duration = Duration::from_millis(100);

/// The leader looks whether it still is one so often within the time its lease takes to run out.
const LOOKS_PER_TTL: u32 = 5;

/// Takes part in the election: leads whenever this node is elected, keeps its lease, and deposes a
/// leader that does not answer.
pub(crate) struct Elector {
    shared: Arc<Shared>,
    ttl: Duration,
    patience: Duration,
    /// Where this node serves; empty if that is not known.
    endpoint: String,
    /// A lease to stand for election with, and when it was asked for.
    lease: Option<(i64, BootTime)>,
    claim: Option<Claim>,
    /// Leases of claims that were given up, to be ended when etcd can be reached.
    abandoned: Vec<i64>,
    watched: Option<Watched>,
    /// The last time that etcd was asked something which it then answered.
    answered: BootTime,
    inspected: bool,
    first_look: bool,
    trouble: Option<String>,
}

#[derive(Clone, Copy)]
struct Claim {
    created: i64,
    epoch: Epoch,
}

/// A leader whose service is asked whether it lives.
struct Watched {
    created: i64,
    dead: JoinHandle<()>,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.dead.abort();
    }
}

impl Elector {
    pub(crate) fn new(
        shared: Arc<Shared>,
        (ttl, patience): (Duration, Duration),
        endpoint: String,
        inspected: bool,
    ) -> Self {
        Self {
            shared,
            ttl,
            patience,
            endpoint,
            lease: None,
            claim: None,
            abandoned: vec![],
            watched: None,
            answered: SystemClock.now().boot,
            inspected,
            first_look: true,
            trouble: None,
        }
    }

    /// Takes part until the driver is done for.
    pub(crate) async fn run(&mut self) {
        while !self.shared.is_closed() {
            let began = SystemClock.now().boot;
            let pause = match self.round(began).await {
                Ok(()) => {
                    self.recovered(began);
                    self.claim.map_or(LOOK, |_| self.ttl / LOOKS_PER_TTL)
                }
                Err(error) => {
                    self.failed(began, &self.shared.latch(error));
                    AGAIN
                }
            };
            let shared = self.shared.clone();
            tokio::select! {
                () = SystemClock.sleep(pause) => {}
                () = shared.look.notified() => {}
                () = died(&mut self.watched) => {}
            }
        }
    }

    /// Gives up what this node holds, so that another can lead at once.
    pub(crate) async fn resign(mut self) -> Result<()> {
        self.abandoned.extend(self.lease.take().map(|(lease, _)| lease));
        for _ in 0..=self.shared.etcd.members.count() {
            match self.end_abandoned().await {
                Ok(()) => return Ok(()),
                Err(error) => tracing::debug!(%error, "cannot end the lease yet"),
            }
        }
        let context = format!(
            "etcd could not be told that this node has stopped; others can lead once its lease of \
             {:?} has run out",
            self.ttl
        );
        Err(Error::new(ErrorKind::Unavailable, context))
    }

    async fn end_abandoned(&mut self) -> Result<()> {
        while let Some(&lease) = self.abandoned.last() {
            self.shared.etcd.revoke(lease).await?;
            self.abandoned.pop();
        }
        Ok(())
    }

    /// Looks who leads, and does what is to be done about it.
    async fn round(&mut self, began: BootTime) -> Result<()> {
        if !self.inspected {
            inspect(&self.shared.etcd).await?;
            self.inspected = true;
        }
        self.end_abandoned().await?;
        let Look { holder, found, reign } = self.shared.etcd.look().await?;
        self.shared.saw_reign(reign);
        let Some(holder) = holder else {
            self.give_up();
            return self.campaign(began).await;
        };
        let ours = self.lease.is_some_and(|(lease, _)| lease == holder.lease);
        match self.claim {
            Some(claim) if claim.created == holder.created => self.keep(claim).await,
            None if ours => self.lead(&holder, &found),
            _ => {
                self.give_up();
                self.follow(&holder, &found).await
            }
        }
    }

    /// Keeps the lease going. Whether it still does, the next look tells.
    async fn keep(&mut self, claim: Claim) -> Result<()> {
        let Some((lease, _)) = self.lease else { return Ok(()) };
        if !self.shared.etcd.keep_alive(lease).await? {
            tracing::warn!(epoch = %claim.epoch, "etcd says that the lease of this leader is over");
            self.shared.look.notify_one();
        }
        Ok(())
    }

    async fn campaign(&mut self, began: BootTime) -> Result<()> {
        self.watched = None;
        // One that was asked for long ago would run out soon.
        let lease = match self.lease {
            Some((lease, granted)) if began.since(granted) < self.ttl / 2 => lease,
            _ => {
                let lease = self.shared.etcd.grant(self.ttl).await?;
                self.lease = Some((lease, began));
                lease
            }
        };
        self.shared.etcd.campaign(lease, &self.endpoint).await?;
        // Who has won is looked at anew: only what is read then is of that claim.
        self.shared.look.notify_one();
        Ok(())
    }

    fn lead(&mut self, holder: &Holder, found: &Found) -> Result<()> {
        let epoch = epoch(found.era, holder.created);
        tracing::info!(%epoch, "elected");
        self.watched = None;
        self.claim = Some(Claim { created: holder.created, epoch });
        self.shared.lead(Leadership::Leader { epoch });
        Ok(())
    }

    /// Says who leads, and sees to it that it lives.
    async fn follow(&mut self, holder: &Holder, found: &Found) -> Result<()> {
        let endpoint = holder.endpoint.clone();
        let leader = (!endpoint.is_empty()).then(|| LeaderHint {
            endpoint: endpoint.clone(),
            epoch: Some(epoch(found.era, holder.created)),
        });
        self.shared.lead(Leadership::Follower { leader });
        let created = holder.created;
        // Nobody else can be serving where this process does: it is what ran here before.
        let predecessor = std::mem::take(&mut self.first_look) && endpoint == self.endpoint;
        let known = self.watched.as_ref().is_some_and(|watched| watched.created == created);
        if endpoint.is_empty() {
            self.watched = None;
        } else if predecessor || (known && self.is_dead()) {
            tracing::warn!(%endpoint, "the leader does not answer, and is deposed");
            self.watched = None;
            self.shared.etcd.depose(created).await?;
            // Whoever was first stands for election at once.
            self.shared.look.notify_one();
        } else if !known {
            let dead = tokio::spawn(watch_over(endpoint, self.patience));
            self.watched = Some(Watched { created, dead });
        }
        Ok(())
    }

    fn is_dead(&self) -> bool {
        self.watched.as_ref().is_some_and(|watched| watched.dead.is_finished())
    }

    /// Ends the claim, if there is one: its key is not this node's any more, or will not be for long.
    fn give_up(&mut self) {
        if let Some(claim) = self.claim.take() {
            tracing::warn!(epoch = %claim.epoch, "no longer elected");
            self.shared.end_claim(claim.epoch);
            self.abandoned.extend(self.lease.take().map(|(lease, _)| lease));
        }
    }

    fn recovered(&mut self, began: BootTime) {
        self.answered = began;
        self.first_look = false;
        if self.trouble.take().is_some() {
            tracing::info!("etcd answers again");
        }
    }

    /// Once etcd has been silent for as long as leases last, nobody knows who leads.
    fn failed(&mut self, began: BootTime, error: &Error) {
        let text = error.to_string();
        if self.trouble.as_ref() != Some(&text) {
            tracing::warn!(%error, "cannot take part in the election; trying again");
            self.trouble = Some(text);
        }
        if began.since(self.answered) >= self.ttl {
            self.give_up();
            self.shared.lead(Leadership::Unknown);
        }
    }
}

/// Returns once the leader that is watched is dead.
async fn died(watched: &mut Option<Watched>) {
    match watched {
        Some(watched) if !watched.dead.is_finished() => drop((&mut watched.dead).await),
        _ => std::future::pending().await,
    }
}
