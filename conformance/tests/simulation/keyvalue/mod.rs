//! Nodes that keep nothing, over a key-value store that they share, as etcd is one: an election key on a
//! lease, and transactions that compare and then write.

mod driver;
mod elector;
mod store;
mod writer;

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::JoinSet,
    time::timeout,
};
use tsoracle_core::{BootTime, Clock, ConsensusDriver, Epoch, Leadership, NodeId};

use crate::{
    clock::{NodeClock, pass},
    flaw::Flaw,
    gate::Gate,
    herald::{self, Herald},
    world::World,
};

pub(crate) use store::Store;
use store::{Answer, Request};

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
    /// The newest one.
    seen: Mutex<Seen>,
    /// The election has to be looked at.
    look: Notify,
}

/// A write of the reign record, and when it was seen.
#[derive(Default)]
struct Seen {
    revision: u64,
    epoch: Epoch,
    at: BootTime,
}

/// The election key as this node has created it, on a lease.
#[derive(Clone, Copy)]
struct Claim {
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
    let (known, leadership) = tokio::sync::watch::channel(Leadership::Unknown);
    let (herald, told) = Herald::new();
    let shared = Arc::new(Shared {
        world: world.clone(),
        me,
        node: NodeId(world.draw(|rng| rng.next()).into()),
        clock: clock.clone(),
        herald: Mutex::new(herald),
        claim: Mutex::default(),
        seen: Mutex::default(),
        look: Notify::new(),
    });
    let (jobs, queue) = mpsc::unbounded_channel();
    let writer = writer::Writer::new(shared.clone());
    let elector = elector::Elector::new(shared.clone());
    let (working, telling) = (gate.clone(), gate.clone());
    tasks.spawn(async move {
        // The election ends with the writer, which is told to stop.
        let work = async {
            tokio::select! {
                biased;
                () = writer.run(queue) => {}
                () = elector.run() => {}
            }
        };
        working.run(work).await;
    });
    let spreading = herald::spread(world.clone(), told, known);
    tasks.spawn(async move { telling.run(spreading).await });
    Arc::new(driver::KeyValueDriver { shared, gate: gate.clone(), jobs, leadership })
}

impl Shared {
    /// Asks the store once. `None` if there is no answer: whether it was done, nobody knows.
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
                        // Whoever asked may wait no more.
                        let _ = reply.send(answer.clone());
                    }
                }
            });
        }
        drop(reply);
        timeout(ATTEMPT, answers.recv()).await.ok().flatten()
    }

    fn tell(&self, news: Leadership) {
        self.herald.lock().unwrap().tell(news);
    }

    fn leads(&self, epoch: Epoch) -> Option<Claim> {
        self.claim.lock().unwrap().filter(|claim| claim.epoch() == epoch)
    }

    /// Notes that the reign record was seen as this revision wrote it.
    fn saw_reign(&self, (revision, epoch): (u64, Epoch)) {
        let now = self.clock.now().boot;
        let mut seen = self.seen.lock().unwrap();
        if revision > seen.revision {
            let is_first = epoch != seen.epoch || !self.world.has(Flaw::EvidenceOfAnotherWrite);
            *seen = Seen { revision, epoch, at: if is_first { now } else { seen.at } };
        }
    }

    /// When the write that a fence replaced was first seen.
    fn evidence(&self, replaced: u64) -> Option<BootTime> {
        let seen = self.seen.lock().unwrap();
        (seen.revision == replaced && replaced > 0).then_some(seen.at)
    }
}

impl Claim {
    /// The revision in which the key was created: every claim creates it anew.
    fn epoch(self) -> Epoch {
        Epoch(u128::from(self.created) << 32)
    }
}
