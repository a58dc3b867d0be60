use std::{
    fmt,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicUsize, Ordering},
    },
};

use openraft::{ServerState, error::ForwardToLeader};
use tokio::{runtime::Handle, sync::watch};
use tsoracle_core::{Error, ErrorKind, LeaderHint, Result, versioned::Leadership};
use tsoracle_replica::{Addresses, Cluster, StoreThread, Waiters, transport::Transport};

use crate::{
    elections::Contact,
    types::{Metrics, Raft},
};

/// What the parts of a running node have in common.
pub(crate) struct Shared {
    /// That of the node's own thread.
    pub(crate) runtime: Handle,
    pub(crate) cluster: Cluster,
    pub(crate) store: StoreThread,
    pub(crate) transport: Transport,
    pub(crate) raft: Raft,
    pub(crate) waiters: Arc<Waiters>,
    pub(crate) contact: Arc<Contact>,
    /// When this node was last elected, or a little later.
    pub(crate) elected: Contact,
    pub(crate) leadership: watch::Receiver<Leadership>,
    /// Set when the node is told to stop.
    pub(crate) stopping: watch::Sender<bool>,
    /// Set by the first caller that stops the node.
    pub(crate) is_told_to_stop: AtomicBool,
    /// How many transfers of leadership, and shutdowns, are under way: meanwhile no commit is begun.
    pub(crate) leaving: AtomicUsize,
    /// How many transfers have ended.
    pub(crate) transfers: watch::Sender<u64>,
    /// Why this node has failed, once it has.
    pub(crate) failure: Mutex<Option<Error>>,
    /// One change of membership at a time.
    pub(crate) changing: tokio::sync::Mutex<()>,
    /// How stopping went, once it has.
    pub(crate) ended: watch::Sender<Option<Result<(), String>>>,
}

impl Shared {
    pub(crate) fn node(&self) -> u64 {
        self.cluster.node.into()
    }

    pub(crate) fn metrics(&self) -> Metrics {
        self.raft.metrics().borrow().clone()
    }

    /// Notes why this node has failed. The first reason stays.
    pub(crate) fn fail(&self, error: Error) {
        let mut failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.get_or_insert(error);
    }

    /// Whether calls are of any use.
    ///
    /// # Errors
    /// The reason why this node has failed.
    pub(crate) fn check(&self) -> Result<()> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner);
        failure.as_ref().map_or(Ok(()), |error| Err(error.duplicate()))
    }

    /// The error of a call that comes too late.
    pub(crate) fn gone(&self) -> Error {
        let stopped = Error::new(ErrorKind::Unavailable, "the driver has stopped");
        self.check().err().unwrap_or(stopped)
    }

    /// That this node does not lead, with who does.
    pub(crate) fn not_leader(&self) -> Error {
        let metrics = self.metrics();
        let hint = hint(&metrics).filter(|_| metrics.current_leader != Some(self.node()));
        not_leader(hint)
    }

    /// That another node leads, as raft says.
    pub(crate) fn forwarded(&self, forward: &ForwardToLeader<u64, Addresses>) -> Error {
        match &forward.leader_node {
            Some(node) if forward.leader_id != Some(self.node()) => {
                not_leader(Some(LeaderHint { endpoint: node.service.clone(), epoch: None }))
            }
            _ => self.not_leader(),
        }
    }

    /// From now on no commit is begun.
    pub(crate) fn leave(&self) {
        self.leaving.fetch_add(1, Ordering::AcqRel);
    }

    pub(crate) fn is_leaving(&self) -> bool {
        self.leaving.load(Ordering::Acquire) > 0
    }

    /// Whether the node is being stopped already; from now on it is.
    pub(crate) fn is_stopping(&self) -> bool {
        self.is_told_to_stop.swap(true, Ordering::AcqRel)
    }

    pub(crate) fn has_ended(&self) -> bool {
        self.ended.borrow().is_some()
    }

    pub(crate) fn leads(&self) -> bool {
        let metrics = self.metrics();
        metrics.state == ServerState::Leader && metrics.running_state.is_ok()
    }
}

/// Where the leader serves, if it is known.
pub(crate) fn hint(metrics: &Metrics) -> Option<LeaderHint> {
    let leader = metrics.membership_config.membership().get_node(&metrics.current_leader?)?;
    Some(LeaderHint { endpoint: leader.service.clone(), epoch: None })
}

fn not_leader(hint: Option<LeaderHint>) -> Error {
    let context = match &hint {
        Some(hint) => format!("the leader is at {}", hint.endpoint),
        None => "no leader is known at the moment".into(),
    };
    Error::new(ErrorKind::NotLeader(hint), context)
}

impl fmt::Debug for Shared {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Shared").field("node", &self.node()).finish_non_exhaustive()
    }
}
