use std::{sync::Arc, time::Duration};

use tsoracle_core::{BootTime, Clock, Elected, Election, Error, ErrorKind, Result, SystemClock};

use crate::{
    config::Config,
    etcd::{Etcd, Found, Holder},
    probe::Probe,
};

/// How often a contender reads which node leads, in case the watch has lost an event.
const LOOK: Duration = Duration::from_secs(1);

/// How often the leader looks whether it still is one, within the time its etcd lease takes to run out.
const LOOKS_PER_TTL: u32 = 5;

/// Takes part in the election: takes the election key whenever no node has it, keeps its lease, and deposes a
/// leader whose service does not answer.
pub(crate) struct Elector {
    etcd: Arc<Etcd>,
    probe: Arc<Probe>,
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
    /// Until then this node, having led, lets the others go first.
    stands_back: BootTime,
    first_look: bool,
}

impl Elector {
    pub(crate) fn new(
        etcd: Arc<Etcd>,
        probe: Arc<Probe>,
        config: &Config,
        endpoint: String,
    ) -> Self {
        Self {
            etcd,
            probe,
            ttl: config.ttl,
            max_silence: config.probe,
            endpoint,
            lease: None,
            created: None,
            abandoned: vec![],
            stands_back: BootTime::default(),
            first_look: true,
        }
    }

    /// Looks which node leads, and does what is to be done about it.
    pub(crate) async fn elect(&mut self, may_lead: bool) -> Result<Election> {
        let began = SystemClock.now().boot;
        self.end_abandoned().await?;
        let Found { holder, version } = self.etcd.look().await?;
        let (elected, again) = match holder {
            None => {
                self.lose();
                (Elected::None, self.stand(may_lead, began).await?)
            }
            Some(holder) if self.is_ours(&holder) => {
                self.created = Some(holder.created);
                self.probe.stop();
                (Elected::This(holder.created), self.keep().await?)
            }
            Some(holder) => {
                self.lose();
                let again = self.follow(&holder).await?;
                (Elected::Other(holder.endpoint), again)
            }
        };
        self.first_look = false;
        Ok(Election { version, elected, again })
    }

    /// Whether this node created the election key, and has not lost it since.
    fn is_ours(&self, holder: &Holder) -> bool {
        match self.created {
            Some(created) => created == holder.created,
            None => self.lease.is_some_and(|(lease, _)| lease == holder.lease),
        }
    }

    /// Gives up what this node holds, so that another can lead at once.
    pub(crate) async fn give_up(&mut self) -> Result<()> {
        self.lose();
        self.abandoned.extend(self.lease.take().map(|(lease, _)| lease));
        self.end_abandoned().await.map_err(|source| {
            let context = format!(
                "etcd does not know that this node leads no more; others can lead once its lease of \
                 {:?} has run out",
                self.ttl
            );
            Error::new(ErrorKind::Unavailable, context).with_source(source)
        })
    }

    async fn end_abandoned(&mut self) -> Result<()> {
        while let Some(&lease) = self.abandoned.last() {
            self.etcd.revoke(lease).await?;
            self.abandoned.pop();
        }
        Ok(())
    }

    /// Keeps the lease alive. Whether this node still leads, the next look shows.
    async fn keep(&self) -> Result<Duration> {
        let Some((lease, _)) = self.lease else { return Ok(Duration::ZERO) };
        if self.etcd.keep_alive(lease).await? {
            return Ok(self.ttl / LOOKS_PER_TTL);
        }
        tracing::warn!("etcd says that the lease of this leader is over");
        Ok(Duration::ZERO)
    }

    /// Stands for election, if this node may. Another look shows which node has won.
    async fn stand(&mut self, may_lead: bool, began: BootTime) -> Result<Duration> {
        match self.stands_back.since(began) {
            _ if !may_lead => return Ok(LOOK),
            Duration::ZERO => {}
            stands_back => return Ok(stands_back.min(LOOK)),
        }
        // One that was asked for long ago would run out soon.
        let lease = match self.lease {
            Some((lease, granted)) if began.since(granted) < self.ttl / 2 => lease,
            _ => {
                let lease = self.etcd.grant(self.ttl).await?;
                self.lease = Some((lease, began));
                lease
            }
        };
        self.etcd.campaign(lease, &self.endpoint).await?;
        Ok(Duration::ZERO)
    }

    /// Has the leader watched over, or deposes it.
    async fn follow(&self, holder: &Holder) -> Result<Duration> {
        let Holder { endpoint, created, .. } = holder;
        // No other process can be serving where this one does: it is the one that ran here before.
        let is_known = !endpoint.is_empty();
        let is_predecessor = is_known && self.first_look && *endpoint == self.endpoint;
        if is_predecessor || self.probe.is_dead(*created) {
            tracing::warn!(%endpoint, "the leader does not answer, and is deposed");
            self.etcd.depose(*created).await?;
            return Ok(Duration::ZERO);
        }
        self.probe.watch_over(holder);
        Ok(LOOK)
    }

    /// Ends the claim, if there is one: its key is not this node's any more, or will not be for long.
    /// For some time the other nodes may go first.
    fn lose(&mut self) {
        if self.created.take().is_some() {
            self.stands_back = SystemClock.now().boot + self.max_silence;
            self.abandoned.extend(self.lease.take().map(|(lease, _)| lease));
        }
    }
}
