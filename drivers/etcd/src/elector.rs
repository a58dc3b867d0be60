use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tsoracle_core::{
    BootTime, Clock, Epoch, Error, ErrorKind, LeaderHint, Leadership, Result, SystemClock,
};

use crate::{
    etcd::{Found, Holder},
    inspect::inspect,
    members::again,
    probe::watch_over,
    shared::Shared,
    version::{created, epoch},
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
    claim: Option<Epoch>,
    /// Leases of claims that were given up, to be ended when etcd can be reached.
    abandoned: Vec<i64>,
    /// The claim whose leader's service is asked whether it lives, and the one who asks it.
    probed: i64,
    probe: JoinSet<()>,
    /// The claim whose leader does not answer any more.
    dead: i64,
    /// Until then this node, having led, lets the others go first.
    steps_back: BootTime,
    /// The last time that etcd was asked something which it then answered.
    answered: BootTime,
    inspected: bool,
    first_look: bool,
    trouble: Option<String>,
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
            probed: 0,
            probe: JoinSet::new(),
            dead: 0,
            steps_back: BootTime::default(),
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
                Some(_) = self.probe.join_next() => {
                    self.dead = self.probed;
                }
            }
        }
    }

    /// Gives up what this node holds, so that another can lead at once.
    pub(crate) async fn resign(mut self) -> Result<()> {
        self.abandoned.extend(self.lease.take().map(|(lease, _)| lease));
        let until = self.shared.etcd.members.patience();
        while let Err(error) = self.end_abandoned().await {
            again(error, until).await.map_err(|source| {
                let context = format!(
                    "etcd could not be told that this node has stopped; others can lead once its \
                     lease of {:?} has run out",
                    self.ttl
                );
                Error::new(ErrorKind::Unavailable, context).with_source(source)
            })?;
        }
        Ok(())
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
        let found = self.shared.etcd.look().await?;
        let Some(holder) = &found.holder else {
            self.give_up();
            return match began < self.steps_back {
                true => Ok(()),
                false => self.campaign(began).await,
            };
        };
        let ours = self.lease.is_some_and(|(lease, _)| lease == holder.lease);
        match self.claim {
            Some(claim) if created(claim) == holder.created => self.keep(claim).await,
            None if ours => self.lead(holder, &found),
            _ => {
                self.give_up();
                self.follow(holder, &found).await
            }
        }
    }

    /// Keeps the lease going. Whether it still does, the next look tells.
    async fn keep(&mut self, epoch: Epoch) -> Result<()> {
        let Some((lease, _)) = self.lease else { return Ok(()) };
        if !self.shared.etcd.keep_alive(lease).await? {
            tracing::warn!(%epoch, "etcd says that the lease of this leader is over");
            self.shared.look.notify_one();
        }
        Ok(())
    }

    async fn campaign(&mut self, began: BootTime) -> Result<()> {
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
        let epoch = epoch(found.next.era, holder.created);
        tracing::info!(%epoch, "elected");
        self.probe = JoinSet::new();
        self.claim = Some(epoch);
        self.shared.lead(Leadership::Leader { epoch });
        Ok(())
    }

    /// Says who leads, and sees to it that it lives.
    async fn follow(&mut self, holder: &Holder, found: &Found) -> Result<()> {
        let endpoint = holder.endpoint.clone();
        let leader = (!endpoint.is_empty()).then(|| LeaderHint {
            endpoint: endpoint.clone(),
            epoch: Some(epoch(found.next.era, holder.created)),
        });
        self.shared.lead(Leadership::Follower { leader });
        // Nobody else can be serving where this process does: it is what ran here before.
        let known = !endpoint.is_empty();
        let predecessor = known && self.first_look && endpoint == self.endpoint;
        if predecessor || self.dead == holder.created {
            tracing::warn!(%endpoint, "the leader does not answer, and is deposed");
            self.shared.etcd.depose(holder.created).await?;
            // Whoever was first stands for election at once.
            self.shared.look.notify_one();
        } else if self.probed != holder.created {
            (self.probed, self.probe) = (holder.created, JoinSet::new());
            if known {
                self.probe.spawn(watch_over(endpoint, self.patience));
            }
        }
        Ok(())
    }

    /// Ends the claim, if there is one: its key is not this node's any more, or will not be for long.
    fn give_up(&mut self) {
        if let Some(epoch) = self.claim.take() {
            tracing::warn!(%epoch, "no longer elected");
            // It may be lost to who cannot reach this node, though this node reaches etcd.
            self.steps_back = SystemClock.now().boot + self.patience;
            self.shared.end_claim(epoch);
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
