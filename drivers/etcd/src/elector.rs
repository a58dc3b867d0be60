use std::{sync::Arc, time::Duration};

use tokio::task::JoinSet;
use tsoracle_core::{
    Announcer, BootTime, Clock, Error, ErrorKind, LeaderHint, Result, SystemClock,
};

use crate::{etcd::Holder, members::pause_before_retry, probe::watch_over, shared::Shared};

/// How often a contender reads which node leads, in case the watch has lost an event.
const LOOK: Duration = Duration::from_secs(1);

/// When it looks again after it has failed to.
const AGAIN: Duration = Duration::from_millis(100);

/// How often the leader looks whether it still is one, within the time its etcd lease takes to run out.
const LOOKS_PER_TTL: u32 = 5;

/// How long a node that has resigned leaves the election to the others: one whose watch lost the event has
/// looked by then.
const STAND_BACK: Duration = LOOK.saturating_mul(2);

/// Takes part in the election: leads whenever this node is elected, keeps its lease, and deposes a
/// leader whose service does not answer.
pub(crate) struct Elector {
    shared: Arc<Shared>,
    announcer: Announcer,
    ttl: Duration,
    max_silence: Duration,
    /// Where this node serves; empty if that is not known.
    endpoint: String,
    /// A lease to stand for election with, and when it was asked for.
    lease: Option<(i64, BootTime)>,
    /// The revision in which this node created the election key, if it should lead.
    created: Option<i64>,
    /// Leases of claims that were given up, to be ended when etcd can be reached.
    abandoned: Vec<i64>,
    /// The election key, by its creation, whose leader's service is probed, and the task that does.
    probed: i64,
    probe: JoinSet<()>,
    /// The election key whose leader does not answer any more.
    dead: i64,
    /// Until then this node, having led, lets the others go first.
    stands_back: BootTime,
    /// When etcd was last asked something that it then answered.
    answered: BootTime,
    first_look: bool,
    trouble: Option<String>,
}

impl Elector {
    pub(crate) fn new(
        shared: Arc<Shared>,
        announcer: Announcer,
        (ttl, max_silence): (Duration, Duration),
        endpoint: String,
    ) -> Self {
        Self {
            shared,
            announcer,
            ttl,
            max_silence,
            endpoint,
            lease: None,
            created: None,
            abandoned: vec![],
            probed: 0,
            probe: JoinSet::new(),
            dead: 0,
            stands_back: BootTime::default(),
            answered: SystemClock.now().boot,
            first_look: true,
            trouble: None,
        }
    }

    /// Takes part for ever.
    pub(crate) async fn run(&mut self) {
        loop {
            let began = SystemClock.now().boot;
            let pause = match self.round(began).await {
                Ok(()) => {
                    self.recovered(began);
                    self.pause(began)
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

    /// The time until the next look.
    fn pause(&self, began: BootTime) -> Duration {
        match self.stands_back.since(began) {
            _ if self.created.is_some() => self.ttl / LOOKS_PER_TTL,
            Duration::ZERO => LOOK,
            stands_back => stands_back.min(LOOK),
        }
    }

    /// Gives up what this node holds, so that another can lead at once.
    pub(crate) async fn leave(mut self) -> Result<()> {
        self.announcer.unknown();
        self.abandoned.extend(self.lease.take().map(|(lease, _)| lease));
        let deadline = self.shared.etcd.members.deadline();
        while let Err(error) = self.end_abandoned().await {
            pause_before_retry(error, deadline).await.map_err(|source| {
                let context = format!(
                    "etcd does not know that this node has stopped; others can lead once its \
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

    /// Looks which node leads, and does what is to be done about it.
    async fn round(&mut self, began: BootTime) -> Result<()> {
        if self.announcer.claim().is_some_and(|claim| self.shared.is_resigned(claim)) {
            self.give_up(STAND_BACK);
        }
        self.end_abandoned().await?;
        let Some(holder) = self.shared.etcd.look().await?.holder else {
            self.give_up(self.max_silence);
            return match began < self.stands_back {
                true => Ok(()),
                false => self.campaign(began).await,
            };
        };
        let is_ours = self.lease.is_some_and(|(lease, _)| lease == holder.lease);
        match self.created {
            Some(created) if created == holder.created => self.keep().await?,
            None if is_ours => self.lead(holder.created),
            _ => {
                self.give_up(self.max_silence);
                self.follow(&holder).await?;
            }
        }
        Ok(())
    }

    /// Keeps the lease alive. Whether this node still leads, the next look shows.
    async fn keep(&mut self) -> Result<()> {
        let Some((lease, _)) = self.lease else { return Ok(()) };
        if !self.shared.etcd.keep_alive(lease).await? {
            tracing::warn!(
                claim = self.announcer.claim(),
                "etcd says that the lease of this leader is over"
            );
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
        // Another look shows which node has won.
        self.shared.look.notify_one();
        Ok(())
    }

    fn lead(&mut self, created: i64) {
        (self.created, self.probe) = (Some(created), JoinSet::new());
        let claim = self.announcer.lead();
        tracing::info!(claim, "elected");
    }

    /// Publishes which node leads, and has it watched over.
    async fn follow(&mut self, holder: &Holder) -> Result<()> {
        let endpoint = holder.endpoint.clone();
        let is_known = !endpoint.is_empty();
        let leader = is_known.then(|| LeaderHint { endpoint: endpoint.clone(), epoch: None });
        self.announcer.follow(leader);
        // No other process can be serving where this one does: it is the one that ran here before.
        let is_predecessor = is_known && self.first_look && endpoint == self.endpoint;
        if is_predecessor || self.dead == holder.created {
            tracing::warn!(%endpoint, "the leader does not answer, and is deposed");
            self.shared.etcd.depose(holder.created).await?;
            self.shared.look.notify_one();
        } else if self.probed != holder.created {
            (self.probed, self.probe) = (holder.created, JoinSet::new());
            if is_known {
                self.probe.spawn(watch_over(endpoint, self.max_silence));
            }
        }
        Ok(())
    }

    /// Ends the claim, if there is one: its key is not this node's any more, or will not be for long.
    /// For some time the other nodes may go first.
    fn give_up(&mut self, stand_back: Duration) {
        if self.created.take().is_some() {
            tracing::warn!(claim = self.announcer.claim(), "no longer elected");
            self.stands_back = SystemClock.now().boot + stand_back;
            self.announcer.unknown();
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

    /// Once etcd has been silent for as long as leases last, it is not known which node leads.
    fn failed(&mut self, began: BootTime, error: &Error) {
        let text = format!("{error:#}");
        if self.trouble.as_ref() != Some(&text) {
            tracing::warn!(error = %format_args!("{error:#}"), "cannot take part in the election; trying again");
            self.trouble = Some(text);
        }
        if began.since(self.answered) >= self.ttl {
            self.give_up(self.max_silence);
            self.announcer.unknown();
        }
    }
}
