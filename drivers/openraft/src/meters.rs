use std::{collections::BTreeMap, time::Duration};

use openraft::ServerState;
use tsoracle_core::{
    BootTime,
    series::{self, Gauge, Series},
};

use crate::types::Metrics;

/// How often the cluster is shown as this node sees it.
const EVERY: Duration = Duration::from_secs(1);

/// What a node shows of its log and its peers.
pub(crate) struct Meters {
    index: Gauge,
    applied: Gauge,
    voters: Gauge,
    learners: Gauge,
    votes: BTreeMap<u64, Gauge>,
    lags: BTreeMap<u64, Gauge>,
    next: BootTime,
}

impl Meters {
    pub(crate) fn new() -> Self {
        Self {
            index: series::LOG_INDEX.gauge(),
            applied: series::LOG_APPLIED.gauge(),
            voters: series::MEMBERS.gauge_of(&["true"]),
            learners: series::MEMBERS.gauge_of(&["false"]),
            votes: BTreeMap::new(),
            lags: BTreeMap::new(),
            next: BootTime::default(),
        }
    }

    /// Shows what raft says, if it is time to.
    pub(crate) fn show(&mut self, metrics: &Metrics, now: BootTime) {
        if now < self.next {
            return;
        }
        self.next = now + EVERY;
        let last = metrics.last_log_index.unwrap_or_default();
        self.index.set(last as f64);
        let applied = metrics.last_applied.map_or(0, |applied| applied.index);
        self.applied.set(applied as f64);
        let membership = metrics.membership_config.membership();
        self.voters.set(membership.voter_ids().count() as f64);
        self.learners.set(membership.learner_ids().count() as f64);
        let peers: BTreeMap<u64, bool> = membership
            .nodes()
            .filter(|(id, _)| **id != metrics.id)
            .map(|(id, _)| (*id, membership.voter_ids().any(|voter| voter == *id)))
            .collect();
        keep(&mut self.votes, |peer| peers.contains_key(peer));
        for (peer, votes) in &peers {
            of_peer(&mut self.votes, &series::PEER_VOTES, *peer).set(f64::from(*votes));
        }
        let replication = metrics.replication.as_ref();
        let replication = replication.filter(|_| metrics.state == ServerState::Leader);
        let is_known = |peer: &u64| replication.is_some_and(|known| known.contains_key(peer));
        keep(&mut self.lags, is_known);
        for (peer, matched) in
            replication.into_iter().flatten().filter(|(id, _)| **id != metrics.id)
        {
            let has = matched.as_ref().map_or(0, |matched| matched.index + 1);
            let lag = of_peer(&mut self.lags, &series::PEER_LAG, *peer);
            lag.set((last + 1).saturating_sub(has) as f64);
        }
    }
}

fn of_peer<'a>(gauges: &'a mut BTreeMap<u64, Gauge>, series: &Series, peer: u64) -> &'a Gauge {
    gauges.entry(peer).or_insert_with(|| series.gauge_of(&[&peer.to_string()]))
}

/// Of a peer that was removed, or that another node leads by now, nothing is shown.
fn keep(gauges: &mut BTreeMap<u64, Gauge>, is_known: impl Fn(&u64) -> bool) {
    gauges.retain(|peer, gauge| {
        let stays = is_known(peer);
        if !stays {
            gauge.set(f64::NAN);
        }
        stays
    });
}
