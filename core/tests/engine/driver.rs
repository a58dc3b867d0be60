//! The driver of one node of the rig.

use std::{
    collections::VecDeque,
    future::pending,
    sync::{
        Arc, Barrier, Mutex,
        atomic::{AtomicUsize, Ordering},
    },
};

use async_trait::async_trait;
use tokio::sync::watch;
use tsoracle_core::{
    BootTime, Clock, CommitLimits, ConsensusDriver, Effect, ErrorKind, Leadership, ManualClock,
    Membership, MemoryStore, NodeId, Outcome, Reads, Result, Snapshot, Version,
};

use crate::rig::{Cluster, Gate, LIMITS, Seen, Step, injected};

/// What goes wrong with one commit.
#[derive(Clone, Debug)]
pub(crate) enum Fault {
    /// It fails, and nothing is stored.
    Refuse(ErrorKind),
    /// The same, after it has waited.
    RefuseAfter(Gate, ErrorKind),
    /// It is stored, but the caller is told that it failed.
    LoseReply(ErrorKind),
    /// Its outcome is not known, and it arrives later.
    Late(Gate),
    /// It waits before it arrives.
    HoldBefore(Gate),
    /// It is stored, but the answer waits.
    HoldAfter(Gate),
    /// Every read fails from then on, besides another fault.
    Cut(Box<Fault>, ErrorKind),
    Panic,
    /// It is not stored, and something else is answered: of its base and the version that it makes.
    Lie(fn(Version, Version) -> Outcome),
}

/// What goes wrong with every read.
#[derive(Clone, Debug)]
pub(crate) enum BadRead {
    Hang,
    /// It blocks the thread, from one wait of another thread until the next.
    Block(Arc<Barrier>),
    Panic,
    Fail(ErrorKind),
    Lie(fn(Snapshot) -> Snapshot),
    /// It is read, but the answer waits.
    HoldAfter(Gate),
}

#[derive(Debug)]
pub(crate) struct Driver {
    pub(crate) cluster: Cluster,
    id: NodeId,
    pub(crate) leadership: Mutex<Option<watch::Sender<Leadership>>>,
    pub(crate) faults: Mutex<VecDeque<(Step, Fault)>>,
    reads: AtomicUsize,
    pub(crate) bad_read: Mutex<Option<BadRead>>,
    /// What is read while it is behind.
    pub(crate) behind: Mutex<Option<MemoryStore>>,
    pub(crate) limits: Mutex<CommitLimits>,
    pub(crate) seen: Mutex<Seen>,
    pub(crate) resigned: Mutex<Vec<u64>>,
    /// The clocks of the other nodes.
    pub(crate) peers: Mutex<Vec<ManualClock>>,
    pub(crate) membership: Mutex<Option<Arc<dyn Membership>>>,
}

impl Driver {
    pub(crate) fn new(cluster: Cluster, id: NodeId) -> Self {
        Self {
            cluster,
            id,
            leadership: Mutex::new(Some(watch::Sender::new(Leadership::Unknown))),
            faults: Mutex::default(),
            reads: AtomicUsize::new(0),
            bad_read: Mutex::default(),
            behind: Mutex::default(),
            limits: Mutex::new(LIMITS),
            seen: Mutex::default(),
            resigned: Mutex::default(),
            peers: Mutex::default(),
            membership: Mutex::default(),
        }
    }

    /// Whether it was not stopped.
    pub(crate) fn leads(&self) -> bool {
        self.leadership.lock().unwrap().is_some()
    }

    /// How often it was read from.
    pub(crate) fn reads(&self) -> usize {
        self.reads.load(Ordering::Relaxed)
    }

    fn fault_of(&self, effect: &Effect) -> Option<Fault> {
        let steps = self.cluster.steps(effect);
        let mut faults = self.faults.lock().unwrap();
        let meets = faults.iter().position(|(step, _)| steps.contains(step));
        meets.and_then(|index| faults.remove(index)).map(|(_, fault)| fault)
    }
}

#[async_trait]
impl ConsensusDriver for Driver {
    fn node(&self) -> NodeId {
        self.id
    }

    fn leadership(&self) -> watch::Receiver<Leadership> {
        self.leadership.lock().unwrap().as_ref().unwrap().subscribe()
    }

    async fn read(&self, wanted: &Reads) -> Result<Snapshot> {
        self.reads.fetch_add(1, Ordering::Relaxed);
        let bad = self.bad_read.lock().unwrap().clone();
        match &bad {
            Some(BadRead::Hang) => pending().await,
            Some(BadRead::Block(barrier)) => {
                barrier.wait();
                barrier.wait();
            }
            Some(BadRead::Panic) => panic!("injected"),
            Some(BadRead::Fail(kind)) => return Err(injected(kind.clone())),
            _ => {}
        }
        let behind = self.behind.lock().unwrap().clone();
        let snapshot = match &behind {
            Some(store) => wanted.read_from(store),
            None => self.cluster.read(wanted),
        };
        match bad {
            Some(BadRead::Lie(lie)) => snapshot.map(lie),
            Some(BadRead::HoldAfter(gate)) => {
                gate.pass().await;
                snapshot
            }
            _ => snapshot,
        }
    }

    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome> {
        let (mut fault, next) = (self.fault_of(&effect), effect.version()?);
        if let Some(Fault::Cut(other, kind)) = fault {
            *self.bad_read.lock().unwrap() = Some(BadRead::Fail(kind));
            fault = Some(*other);
        }
        let cluster = self.cluster.clone();
        // Work of its own, which goes on if the caller is gone.
        let committed = tokio::spawn(async move {
            match &fault {
                Some(Fault::Refuse(kind)) => return Err(injected(kind.clone())),
                Some(Fault::RefuseAfter(gate, kind)) => {
                    gate.pass().await;
                    return Err(injected(kind.clone()));
                }
                Some(Fault::HoldBefore(gate)) => gate.pass().await,
                Some(Fault::Late(gate)) => {
                    let gate = gate.clone();
                    tokio::spawn(async move {
                        gate.pass().await;
                        cluster.commit(base, effect)
                    });
                    return Err(injected(ErrorKind::Uncertain));
                }
                Some(Fault::Panic) => panic!("injected"),
                Some(Fault::Lie(lie)) => return Ok(lie(base, next)),
                _ => {}
            }
            let outcome = cluster.commit(base, effect);
            match &fault {
                Some(Fault::LoseReply(kind)) => return Err(injected(kind.clone())),
                Some(Fault::HoldAfter(gate)) => gate.pass().await,
                _ => {}
            }
            outcome
        });
        let outcome = committed.await.expect("injected panics are passed on");
        if matches!(outcome, Ok(Outcome::Stored)) {
            *self.behind.lock().unwrap() = None;
        }
        outcome
    }

    fn seen(&self, version: &Version) -> Option<BootTime> {
        self.seen.lock().unwrap().get(version).copied()
    }

    fn peer_clocks(&self, _: BootTime) -> Vec<u64> {
        self.peers.lock().unwrap().iter().map(|clock| clock.now().wall_ms).collect()
    }

    async fn resign(&self, claim: u64) {
        self.resigned.lock().unwrap().push(claim);
    }

    fn limits(&self) -> CommitLimits {
        *self.limits.lock().unwrap()
    }

    fn membership(&self) -> Option<Arc<dyn Membership>> {
        self.membership.lock().unwrap().clone()
    }

    async fn shutdown(&self) -> Result<()> {
        self.leadership.lock().unwrap().take();
        Ok(())
    }
}
