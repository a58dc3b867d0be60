use std::{
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use openraft::ServerState;
use tokio::sync::watch;
use tsoracle_core::{Clock, Error, ErrorKind, LeaderHint, Leadership, Random};
use tsoracle_replica::{Cluster, Lifecycle, StoreThread, Tasks, Waiters, transport::Connections};

use crate::{
    elections::Contact,
    types::{Committed, Metrics, Raft},
};

/// What the parts of a running node have in common.
pub(crate) struct Shared {
    /// Those of the node's own thread.
    pub(crate) tasks: Tasks,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) random: Random,
    pub(crate) cluster: Cluster,
    pub(crate) store: StoreThread,
    pub(crate) transport: Arc<dyn Connections>,
    pub(crate) raft: Raft,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) contact: Arc<Contact>,
    /// When this node was last elected, or a little later.
    pub(crate) elected: Contact,
    pub(crate) leadership: watch::Receiver<Leadership>,
    pub(crate) lifecycle: Lifecycle,
    /// How many transfers of leadership, and shutdowns, are under way: meanwhile no commit is begun.
    pub(crate) leaving: AtomicUsize,
    /// That of the network.
    pub(crate) is_silent: Arc<AtomicBool>,
    /// How many transfers have ended.
    pub(crate) transfers: watch::Sender<u64>,
    /// One change of membership at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// The members as of what is applied.
    pub(crate) committed: Arc<watch::Sender<Committed>>,
    /// Set once this node knows that it was removed.
    pub(crate) removed: Arc<watch::Sender<bool>>,
}

impl Shared {
    pub(crate) fn node(&self) -> u64 {
        self.cluster.node.into()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// That this node does not lead, with where the leader serves.
    pub(crate) fn not_leader(&self) -> Error {
        let hint = self.hint();
        let context = match &hint {
            Some(hint) => format!("the leader is at {}", hint.endpoint),
            None => "no leader is known at the moment".into(),
        };
        Error::new(ErrorKind::NotLeader(hint), context)
    }

    /// The other node that leads, as far as this one knows.
    pub(crate) fn leader(&self, metrics: &Metrics) -> Option<u64> {
        let leader = self.contact.later_leader(metrics.vote).or(metrics.current_leader);
        leader.filter(|leader| *leader != metrics.id)
    }

    /// Where it serves.
    pub(crate) fn hint(&self) -> Option<LeaderHint> {
        let metrics = self.metrics();
        let leader = self.leader(&metrics)?;
        let leader = metrics.membership_config.membership().get_node(&leader)?;
        Some(LeaderHint { endpoint: leader.service.clone(), epoch: None })
    }

    /// From now on no commit is begun.
    pub(crate) fn leave(&self) {
        self.leaving.fetch_add(1, Ordering::AcqRel);
    }

    /// From now on neither heartbeats nor entries are sent: who hears of a leader votes for no other node.
    pub(crate) fn fall_silent(&self) {
        self.raft.runtime_config().heartbeat(false);
        self.is_silent.store(true, Ordering::Release);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) > 0
    }

    pub(crate) fn leads(&self) -> bool {
        let metrics = self.metrics();
        metrics.state == ServerState::Leader && metrics.running_state.is_ok()
    }
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.node()).finish_non_exhaustive()
    }
}
