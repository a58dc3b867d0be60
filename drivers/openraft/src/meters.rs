use std::{collections::BTreeMap, time::Duration};

use openraft::ServerState;
use tsoracle_core::{
    BootTime,
    series::{self, Gauge},
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
        let replication = metrics.replication.as_ref();
        let replication = replication.filter(|_| metrics.state == ServerState::Leader);
        let is_known = |peer: &u64| replication.is_some_and(|known| known.contains_key(peer));
        // Of a peer that was removed, or once another node leads, nothing is shown.
        self.lags.retain(|peer, lag| {
            let stays = is_known(peer);
            if !stays {
                lag.set(f64::NAN);
            }
            stays
        });
        for (peer, matched) in
            replication.into_iter().flatten().filter(|(id, _)| **id != metrics.id)
        {
            let has = matched.as_ref().map_or(0, |matched| matched.index + 1);
            let made = || series::PEER_LAG.gauge_of(&[&peer.to_string()]);
            let lag = self.lags.entry(*peer).or_insert_with(made);
            lag.set((last + 1).saturating_sub(has) as f64);
        }
    }
}
