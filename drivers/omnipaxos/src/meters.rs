use std::collections::BTreeMap;

use tsoracle_core::series::{self, Counter, Gauge};
use tsoracle_replica::Cluster;

use crate::{leadership::Role, node::Node};

/// What a node shows of its log and its peers.
pub(crate) struct Meters {
    index: Gauge,
    applied: Gauge,
    peers: BTreeMap<u32, Gauge>,
}

impl Meters {
    pub(crate) fn new(cluster: &Cluster) -> Self {
        series::MEMBERS.gauge_of(&["true"]).set(cluster.members.len() as f64);
        let others = cluster.members.keys().filter(|node| **node != cluster.node);
        for node in others.clone() {
            series::PEER_VOTES.gauge_of(&[&node.to_string()]).set(1.0);
        }
        let lag = |node: &u32| (*node, series::PEER_LAG.gauge_of(&[&node.to_string()]));
        Self {
            index: series::LOG_INDEX.gauge(),
            applied: series::LOG_APPLIED.gauge(),
            peers: others.map(lag).collect(),
        }
    }
}

/// How often a state was sent to a peer.
pub(crate) fn snapshots(node: u32) -> Counter {
    series::PEER_SNAPSHOTS.counter_of(&[&node.to_string()])
}

impl Node {
    /// Shows how far this node is, and if it leads how far the others are that have accepted up to these indexes.
    pub(crate) fn show(&self, accepted: &[usize]) {
        let end = self.log.borrow().end();
        self.meters.index.set(end as f64);
        self.meters.applied.set(self.applied as f64);
        for (peer, lag) in &self.meters.peers {
            let behind = match (self.role, accepted.get(*peer as usize)) {
                (Role::Leader { .. }, Some(at)) => end.saturating_sub(*at) as f64,
                // Not a number: it is not shown.
                _ => f64::NAN,
            };
            lag.set(behind);
        }
    }
}
