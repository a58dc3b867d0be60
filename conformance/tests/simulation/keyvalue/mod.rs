//! Nodes that keep nothing, over a key-value store that they share, as etcd is one: an election key on a
//! lease, and transactions that compare the version and then write.

mod commits;
mod driver;
mod elector;
mod store;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use tokio::{
    sync::{Notify, RwLock, mpsc, watch},
    task::JoinSet,
    time::timeout,
};
use tsoracle_core::{Clock, ConsensusDriver, Leadership, NodeId, Version};

use crate::{
    clock::{NodeClock, pass},
    evidence::Evidence,
    gate::Gate,
    herald::{self, Herald},
    world::World,
};

pub(crate) use store::Store;
use store::{Answer, Request, Versioned};

/// How long one attempt at the store may take, and the pause before the next one.
const ATTEMPT: Duration = Duration::from_millis(500);
const PAUSE: Duration = Duration::from_millis(50);

/// What the tasks of a node share.
struct Shared {
    world: Arc<World>,
    me: usize,
    /// Every process is a node of its own: nothing keeps another one out.
    node: NodeId,
    clock: NodeClock,
    herald: Mutex<Herald>,
    claim: Mutex<Option<Claim>>,
    evidence: Arc<Mutex<Evidence>>,
    /// The newest version that was read or stored.
    newest: Mutex<Version>,
    /// The election has to be looked at.
    look: Notify,
    /// A claim that this node cannot serve under.
    resigned: Mutex<Option<u64>>,
    stopped: AtomicBool,
    /// Read while a commit is in flight.
    in_flight: RwLock<()>,
}

/// The election key as this node has created it, on a lease.
#[derive(Clone, Copy)]
struct Claim {
    number: u64,
    created: u64,
    lease: u64,
}

/// Starts a node.
pub(crate) fn start(
    world: &Arc<World>,
    me: usize,
    gate: &Gate,
    clock: &NodeClock,
    tasks: &mut JoinSet<()>,
) -> Arc<dyn ConsensusDriver> {
    let (known, leadership) = watch::channel(Leadership::Unknown);
    let (herald, told) = Herald::new();
    let shared = Arc::new(Shared {
        world: world.clone(),
        me,
        node: NodeId(world.draw(|rng| rng.next()).into()),
        clock: clock.clone(),
        herald: Mutex::new(herald),
        claim: Mutex::default(),
        evidence: world.evidence(),
        newest: Mutex::default(),
        look: Notify::new(),
        resigned: Mutex::default(),
        stopped: AtomicBool::new(false),
        in_flight: RwLock::default(),
    });
    let elector = elector::Elector::new(shared.clone());
    let (working, telling) = (gate.clone(), gate.clone());
    tasks.spawn(async move { working.run(elector.run()).await });
    let spreading = herald::spread(world.clone(), told, known);
    tasks.spawn(async move { telling.run(spreading).await });
    Arc::new(driver::KeyValueDriver { shared, gate: gate.clone(), leadership })
}

impl Shared {
    /// Asks the store once. `None` if there is no answer: whether it was done is not known.
    async fn ask(&self, request: Request) -> Option<Answer> {
        let (reply, mut answers) = mpsc::unbounded_channel();
        let (me, store) = (self.me, self.world.nodes.len());
        for delay in self.world.network.copies() {
            let (world, request, reply) = (self.world.clone(), request.clone(), reply.clone());
            tokio::spawn(async move {
                pass(delay).await;
                if world.network.is_cut(me, store) {
                    return;
                }
                let answer = world.store.answer(&world, request);
                for delay in world.network.copies() {
                    pass(delay).await;
                    if !world.network.is_cut(store, me) {
                        // The caller may wait no more.
                        let _ = reply.send(answer.clone());
                    }
                }
            });
        }
        drop(reply);
        let answer = timeout(ATTEMPT, answers.recv()).await.ok().flatten()?;
        self.observed(&answer.state);
        Some(answer)
    }

    /// Notes that the state was observed at this version.
    fn observed(&self, state: &Versioned) {
        let now = self.clock.now().boot;
        self.evidence.lock().unwrap().decided(state.version, now, state.reign);
    }

    /// Notes a version that was read or stored. False if it is older than what is known.
    fn advance(&self, version: Version) -> bool {
        let mut newest = self.newest.lock().unwrap();
        let is_new = version.position() >= newest.position();
        if is_new {
            *newest = version;
        }
        is_new
    }

    fn tell(&self, news: Leadership) {
        self.herald.lock().unwrap().tell(news);
    }

    fn is_stopped(&self) -> bool {
        self.stopped.load(Ordering::Relaxed)
    }
}
