//! Everything of a run that its parts share.

use std::{
    fmt,
    ops::{Range, RangeInclusive},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tokio::{task::yield_now, time::Instant};
use tsoracle_conformance::history::Operation;
use tsoracle_core::Epoch;

use crate::{
    clock::pass,
    disk::Entry,
    flaw::Flaw,
    keyvalue,
    network::{MOST_NODES, Network},
    node::Node,
    raft::{Event, Message},
    rng::Rng,
};

/// A place in a node's work where it may be paused or die at the worst moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    /// Before what was written is synced.
    Sync,
    /// After a vote was answered.
    Voted,
    /// After a commit was submitted.
    Submitted,
    /// After it was answered, before its caller knows.
    Committed,
    /// After the engine has answered, before that leaves the node.
    Answered,
}

/// What the nodes agree by.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum System {
    /// A log that they replicate among themselves.
    Log,
    /// A key-value store that they share, as etcd is one.
    KeyValue,
}

/// How the nodes of a run elect their leaders.
#[derive(Debug)]
pub(crate) struct Temper {
    /// How long a node that hears of no leader waits before it stands for election.
    pub(crate) stand_ms: RangeInclusive<u64>,
    /// A leader that has not heard of a majority for so long gives up.
    pub(crate) deaf: Duration,
    /// A leader sends entries at once, and counts its own vote for them, while its disk still syncs them.
    pub(crate) early: bool,
}

pub(crate) struct World {
    pub(crate) system: System,
    /// What nodes share, if they share anything.
    pub(crate) store: keyvalue::Store,
    pub(crate) temper: Temper,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    pub(crate) start: Instant,
    flaw: Option<Flaw>,
    rng: Mutex<Rng>,
    troubled: AtomicBool,
    closed: AtomicBool,
    stamp_ns: AtomicU64,
    history: Mutex<Vec<Operation>>,
    ledger: Mutex<Ledger>,
    findings: Mutex<Vec<String>>,
}

/// What was committed, as seen from outside.
#[derive(Default)]
struct Ledger {
    entries: Vec<Entry>,
    epoch: Epoch,
}

impl World {
    pub(crate) fn new(system: System, seed: u64, flaw: Option<Flaw>) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let stand_ms = rng.pick(&[150..=300, 150..=160]).clone();
        let deaf = *rng.pick(&[400, 1_500, 4_000].map(Duration::from_millis));
        let early = rng.chance(500) || flaw.is_some_and(Flaw::is_about_early_leaders);
        let temper = Temper { stand_ms, deaf, early };
        let count = *rng.pick(&[3, 3, 3, 4, MOST_NODES]);
        Arc::new(Self {
            system,
            store: keyvalue::Store::default(),
            temper,
            nodes: (0..count).map(|_| Node::new(&mut rng, flaw)).collect(),
            network: Network::new(rng.fork()),
            start: Instant::now(),
            flaw,
            rng: Mutex::new(rng),
            troubled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stamp_ns: AtomicU64::new(0),
            history: Mutex::default(),
            ledger: Mutex::default(),
            findings: Mutex::default(),
        })
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Whether the sabotage is about leaders that do not wait for their own disk.
    pub(crate) fn leads_too_early(&self) -> bool {
        self.flaw.is_some_and(Flaw::is_about_early_leaders)
    }

    pub(crate) fn draw<T>(&self, draw: impl FnOnce(&mut Rng) -> T) -> T {
        draw(&mut self.rng.lock().unwrap())
    }

    /// The ends of links: the nodes, and behind them the store that they share, if they do.
    pub(crate) fn ends(&self) -> Range<usize> {
        0..self.nodes.len() + usize::from(self.system == System::KeyValue)
    }

    /// Lets faults happen, or no more.
    pub(crate) fn trouble(&self, on: bool) {
        self.troubled.store(on, Ordering::Relaxed);
    }

    pub(crate) fn is_troubled(&self) -> bool {
        self.troubled.load(Ordering::Relaxed)
    }

    /// Has callers ask no more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// A reading of a clock that never repeats: what happens first has the lower one.
    pub(crate) fn stamp_ns(&self) -> u64 {
        let now_ns = self.start.elapsed().as_nanos() as u64;
        let last_ns = self.stamp_ns.load(Ordering::Relaxed);
        let stamp_ns = now_ns.max(last_ns + 1);
        self.stamp_ns.store(stamp_ns, Ordering::Relaxed);
        stamp_ns
    }

    pub(crate) fn record(&self, operation: Operation) {
        self.history.lock().unwrap().push(operation);
    }

    pub(crate) fn history(&self) -> Vec<Operation> {
        std::mem::take(&mut *self.history.lock().unwrap())
    }

    /// Notes that something is wrong which callers may not see.
    pub(crate) fn found(&self, what: String) {
        let at_ms = self.start.elapsed().as_millis();
        self.findings.lock().unwrap().push(format!("at {at_ms} ms: {what}"));
    }

    pub(crate) fn findings(&self) -> Vec<String> {
        std::mem::take(&mut *self.findings.lock().unwrap())
    }

    pub(crate) fn send(self: &Arc<Self>, from: usize, to: usize, message: Message) {
        for delay in self.network.copies() {
            let (world, message) = (self.clone(), message.clone());
            tokio::spawn(async move {
                pass(delay).await;
                if !world.network.is_cut(from, to) {
                    world.nodes[to].tell(Event::Message { from, message });
                }
            });
        }
    }

    /// A node may be paused, or crash, right here.
    pub(crate) async fn hazard(self: &Arc<Self>, node: usize, point: Point) {
        if !self.is_troubled() {
            return;
        }
        let (pauses, crashes) = match point {
            Point::Sync => (3, 6),
            // There is something to lose.
            Point::Voted if self.has(Flaw::VotesAreNotSynced) => (0, 400),
            Point::Voted => (0, 50),
            Point::Submitted | Point::Committed => (4, 3),
            Point::Answered => (2, 1),
        };
        let (paused, crashed) = self.draw(|rng| (rng.chance(pauses), rng.chance(crashes)));
        if paused {
            self.pause(node, self.draw(|rng| rng.millis(50..=3_000)));
        }
        if crashed {
            let longest_ms = if point == Point::Voted { 8 } else { 1_500 };
            self.crash(node, self.draw(|rng| rng.millis(1..=longest_ms)));
        }
        if paused || crashed {
            // What comes after it passes the gate again.
            yield_now().await;
        }
    }

    /// Now and then nobody hears a new leader at first.
    pub(crate) fn elected(self: &Arc<Self>, node: usize) {
        let permille = if self.has(Flaw::VotesAreNotSynced) { 500 } else { 30 };
        if !self.is_troubled() || !self.draw(|rng| rng.chance(permille)) {
            return;
        }
        let cut = move |world: &Self, cut| {
            (0..world.nodes.len()).for_each(|peer| world.network.cut(node, peer, cut));
        };
        cut(self, true);
        let (world, muted) = (self.clone(), self.draw(|rng| rng.millis(20..=300)));
        tokio::spawn(async move {
            pass(muted).await;
            cut(&world, false);
        });
    }

    pub(crate) fn sync_time(&self) -> Duration {
        let slow = if self.is_troubled() { 5 } else { 0 };
        self.draw(|rng| match rng.chance(slow) {
            true => rng.millis(20..=1_500),
            false => rng.millis(0..=2),
        })
    }

    /// How long a node's engine takes to learn who leads.
    pub(crate) fn rumour_time(&self) -> Duration {
        let slow = if self.is_troubled() { 100 } else { 0 };
        self.draw(|rng| match rng.chance(slow) {
            true => rng.millis(0..=1_500),
            false => rng.millis(0..=10),
        })
    }

    /// Whether somebody who follows takes the leader for dead.
    pub(crate) fn takes_the_leader_for_dead(&self) -> bool {
        self.is_troubled() && self.draw(|rng| rng.chance(10))
    }

    /// Whether a leader says for a moment that it does not lead.
    pub(crate) fn flaps(&self) -> bool {
        self.is_troubled() && self.draw(|rng| rng.chance(3))
    }

    /// Notes what a node has applied: it must be what all others apply there, and nothing of an epoch
    /// that is over.
    pub(crate) fn applied(&self, place: u64, entry: &Entry, took_effect: Option<Epoch>) {
        let mut ledger = self.ledger.lock().unwrap();
        if let Some(before) = ledger.entries.get(place as usize - 1) {
            if !Arc::ptr_eq(&before.payload, &entry.payload) {
                self.found(format!("two entries were committed at {place}"));
            }
            return;
        }
        ledger.entries.push(entry.clone());
        drop(ledger);
        if let Some(epoch) = took_effect {
            self.took_effect(epoch);
        }
    }

    /// Notes that something of this epoch was written: of an older one, nothing may be any more.
    pub(crate) fn took_effect(&self, epoch: Epoch) {
        let mut ledger = self.ledger.lock().unwrap();
        if epoch < ledger.epoch {
            self.found(format!("G5 fenced: epoch {epoch} wrote after {}", ledger.epoch));
        }
        ledger.epoch = ledger.epoch.max(epoch);
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
