//! Everything of a run that its parts share.

use std::{
    collections::BTreeMap,
    fmt,
    ops::{Range, RangeInclusive},
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use tempfile::TempDir;
use tokio::{sync::Notify, task::yield_now, time::Instant};
use tsoracle_conformance::history::Operation;
use tsoracle_core::{CommitLimits, state::Limits};
use tsoracle_omnipaxos::simulation::Sabotage;
use tsoracle_openraft::simulation as openraft;

use crate::{
    clock::pass,
    evidence::Evidence,
    flaw::Flaw,
    keyvalue,
    ledger::Ledger,
    network::{MOST_NODES, Network},
    node::Node,
    omnipaxos::Links,
    raft::{Event, Message},
    reached::Reached,
    refusals::Refusals,
    rng::Rng,
    stamping::Stamping,
};

/// So little that groups have to be split.
pub(crate) const LIMITS: CommitLimits = CommitLimits { writes: 32, bytes: 1 << 14 };

/// A place in a node's work where it may be paused or die at the worst moment.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Point {
    /// Before what was written is synced.
    Sync,
    /// After a first sync, and before the next one.
    BetweenSyncs,
    /// After a vote was answered.
    Voted,
    /// Before a commit is submitted, or a resignation.
    Submitted,
    /// After a commit was answered, before its caller knows.
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
    /// A log that they replicate with the code of the omnipaxos driver.
    Omnipaxos,
    /// The same with that of the openraft driver.
    Openraft,
}

/// How the nodes of a run elect their leaders, and how they read and remember.
#[derive(Debug)]
pub(crate) struct Temper {
    /// How long a node that hears of no leader waits before it stands for election.
    pub(crate) stand_ms: RangeInclusive<u64>,
    /// A leader that has not heard of a majority for so long gives up.
    pub(crate) deaf: Duration,
    /// A leader sends entries at once, and counts its own vote for them, while its disk still syncs them.
    pub(crate) is_early: bool,
    /// Nodes that hear of a leader vote for no other one.
    pub(crate) is_loyal: bool,
    /// Reads are answered from what a node has, and may be stale.
    pub(crate) reads_locally: bool,
    /// A transaction compares the election key's creation as well.
    pub(crate) compares_election: bool,
    /// A node of a log claims leadership once, and leads under that claim whenever it is elected.
    pub(crate) keeps_claims: bool,
    /// How many of the newest commits a node remembers.
    pub(crate) memory: usize,
    /// All machines sleep in the middle of the run.
    pub(crate) sleeps: bool,
    /// Names are kept no longer than sessions.
    pub(crate) forgets_names: bool,
    /// How often nodes show that they are there, and how long without a leader before an election.
    pub(crate) beats: (Duration, Duration),
    /// How much longer than what is kept of it a log gets before it is shortened, and how much is kept.
    pub(crate) keeps: (u64, u64),
}

pub(crate) struct World {
    pub(crate) system: System,
    /// What nodes share, if they share anything.
    pub(crate) store: keyvalue::Store,
    pub(crate) temper: Temper,
    pub(crate) nodes: Vec<Node>,
    pub(crate) network: Network,
    /// Connections between nodes that keep some.
    pub(crate) links: Links,
    /// For what nodes keep in files while they run.
    pub(crate) directory: TempDir,
    pub(crate) start: Instant,
    flaw: Option<Flaw>,
    rng: Mutex<Rng>,
    troubled: AtomicBool,
    closed: AtomicBool,
    stamp_ns: AtomicU64,
    history: Mutex<Vec<Operation>>,
    pub(crate) ledger: Mutex<Ledger>,
    findings: Mutex<Vec<String>>,
    reached: Mutex<BTreeMap<Reached, u64>>,
    asleep: AtomicBool,
    /// Wakes in order, which a watch does not.
    woken: Notify,
    /// On what the state may hold.
    pub(crate) caps: Limits,
    pub(crate) refusals: Refusals,
    pub(crate) stamping: Stamping,
}

impl Temper {
    fn of_a_real_driver(self, rng: &mut Rng, flaw: Option<Flaw>) -> Self {
        let millis =
            |(beat, election)| (Duration::from_millis(beat), Duration::from_millis(election));
        let beats = millis(*rng.pick(&[(100, 300), (50, 150), (30, 200)]));
        let keeps = match flaw {
            Some(Flaw::Within(Sabotage::InstallsInTwoWrites)) => (1, 1),
            _ => *rng.pick(&[(1, 1), (8, 4), (8, 40), (1_000, 1_000)]),
        };
        Self { beats, keeps, ..self }
    }
}

impl World {
    pub(crate) fn new(system: System, seed: u64, flaw: Option<Flaw>) -> Arc<Self> {
        let mut rng = Rng::new(seed);
        let stand_ms = rng.pick(&[150..=300, 150..=160]).clone();
        let deaf = *rng.pick(&[400, 1_500, 4_000].map(Duration::from_millis));
        let is_early = rng.chance(500) || flaw.is_some_and(Flaw::is_about_early_leaders);
        let is_sabotaged = flaw.is_some();
        let temper = Temper {
            stand_ms,
            deaf,
            is_early,
            is_loyal: rng.chance(500) && flaw != Some(Flaw::EvidenceOfUndecided),
            reads_locally: rng.chance(500),
            compares_election: rng.chance(500) && flaw != Some(Flaw::IgnoresTheVersion),
            keeps_claims: rng.chance(200) || flaw == Some(Flaw::EvidenceOfUndecided),
            memory: if is_sabotaged || rng.chance(500) { 1 << 16 } else { 4 },
            sleeps: rng.chance(200),
            forgets_names: rng.chance(500),
            beats: (Duration::default(), Duration::default()),
            keeps: (0, 0),
        };
        let caps = Limits { keys: 8, sessions: 12, open_requests: 4, leases: 4, named: 12 };
        let count = *rng.pick(&[3, 3, 3, 4, MOST_NODES]);
        let count = if flaw == Some(Flaw::EvidenceOfUndecided) { MOST_NODES } else { count };
        let temper = match system {
            System::Omnipaxos | System::Openraft => temper.of_a_real_driver(&mut rng, flaw),
            System::Log | System::KeyValue => temper,
        };
        Arc::new(Self {
            system,
            store: keyvalue::Store::default(),
            temper,
            nodes: (0..count).map(|_| Node::new(&mut rng, flaw)).collect(),
            network: Network::new(rng.fork()),
            links: Links::default(),
            directory: tempfile::tempdir().unwrap(),
            start: Instant::now(),
            flaw,
            rng: Mutex::new(rng),
            troubled: AtomicBool::new(false),
            closed: AtomicBool::new(false),
            stamp_ns: AtomicU64::new(0),
            history: Mutex::default(),
            ledger: Mutex::default(),
            findings: Mutex::default(),
            reached: Mutex::default(),
            asleep: AtomicBool::new(false),
            woken: Notify::new(),
            caps,
            refusals: Refusals::default(),
            stamping: Stamping::default(),
        })
    }

    pub(crate) fn has(&self, flaw: Flaw) -> bool {
        self.flaw == Some(flaw)
    }

    /// Whether the sabotage is about leaders that do not wait for their own disk.
    pub(crate) fn leads_too_early(&self) -> bool {
        self.flaw.is_some_and(Flaw::is_about_early_leaders)
    }

    /// Whether the sabotage is about followers that do not wait for their own disk.
    pub(crate) fn acknowledges_too_early(&self) -> bool {
        self.openraft_sabotage() == Some(openraft::Sabotage::AcknowledgesAheadOfItsDisk)
    }

    /// Whether something happens that does so in `permille` of 1,000 cases.
    pub(crate) fn chance(&self, permille: u64) -> bool {
        self.draw(|rng| rng.chance(permille))
    }

    /// Whether names expire while all machines sleep.
    pub(crate) fn names_expire(&self) -> bool {
        self.temper.sleeps && self.temper.forgets_names
    }

    /// What is done wrong, if anything is.
    pub(crate) fn flaw(&self) -> Option<Flaw> {
        self.flaw
    }

    pub(crate) fn evidence(&self) -> Arc<Mutex<Evidence>> {
        Arc::new(Mutex::new(Evidence::new(self.temper.memory, self.flaw)))
    }

    /// Notes that a run has come to something.
    pub(crate) fn reached(&self, what: Reached) {
        *self.reached.lock().unwrap().entry(what).or_default() += 1;
    }

    pub(crate) fn what_was_reached(&self) -> BTreeMap<Reached, u64> {
        self.reached.lock().unwrap().clone()
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

    /// Whether the sabotage is about entries that are seen before they are decided.
    pub(crate) fn sees_the_undecided(&self) -> bool {
        self.has(Flaw::EvidenceOfUndecided)
    }

    /// Has callers ask no more.
    pub(crate) fn close(&self) {
        self.closed.store(true, Ordering::Relaxed);
    }

    pub(crate) fn is_open(&self) -> bool {
        !self.closed.load(Ordering::Relaxed)
    }

    /// Has all machines sleep, or wake up.
    pub(crate) fn set_asleep(&self, asleep: bool) {
        self.asleep.store(asleep, Ordering::Relaxed);
        self.woken.notify_waiters();
    }

    pub(crate) fn is_asleep(&self) -> bool {
        self.asleep.load(Ordering::Relaxed)
    }

    /// Returns once the machines do not sleep.
    pub(crate) async fn awake(&self) {
        while self.is_asleep() {
            self.woken.notified().await;
        }
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

    /// What is done wrong within the omnipaxos driver, if anything is.
    pub(crate) fn sabotage(&self) -> Option<Sabotage> {
        match self.flaw {
            Some(Flaw::Within(sabotage)) => Some(sabotage),
            _ => None,
        }
    }

    /// The same within the openraft driver.
    pub(crate) fn openraft_sabotage(&self) -> Option<openraft::Sabotage> {
        match self.flaw {
            Some(Flaw::WithinOpenraft(sabotage)) => Some(sabotage),
            _ => None,
        }
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
            Point::BetweenSyncs => (3, 100),
            // There is something to lose.
            Point::Voted if self.has(Flaw::VotesAreNotSynced) => (0, 400),
            Point::Voted => (0, 50),
            Point::Submitted | Point::Committed => (4, 3),
            Point::Answered => (1, 1),
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

    /// Now and then no node hears a new leader at first.
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
            // What was mended meanwhile is left alone.
            if world.is_troubled() {
                cut(&world, false);
            }
        });
    }

    pub(crate) fn sync_time(&self) -> Duration {
        let slow = if self.is_troubled() { 5 } else { 0 };
        self.draw(|rng| match rng.chance(slow) {
            true => rng.millis(20..=1_500),
            false => rng.millis(0..=2),
        })
    }

    /// How long a node's engine takes to learn who leads. One that `leads` learns it late where the sabotage
    /// is about what happens meanwhile.
    pub(crate) fn rumour_time(&self, leads: bool) -> Duration {
        if leads && self.sees_the_undecided() {
            return Duration::from_millis(1_200);
        }
        let slow = if self.is_troubled() { 100 } else { 0 };
        self.draw(|rng| match rng.chance(slow) {
            true => rng.millis(0..=1_500),
            false => rng.millis(0..=10),
        })
    }

    /// Whether a follower takes the leader for dead.
    pub(crate) fn takes_the_leader_for_dead(&self) -> bool {
        self.is_troubled() && self.chance(10)
    }

    /// Whether a follower believes for a while that it leads.
    pub(crate) fn believes_to_lead(&self) -> bool {
        self.is_troubled() && self.chance(10)
    }

    /// Whether a leader says for a moment that it does not lead.
    pub(crate) fn flaps(&self) -> bool {
        self.is_troubled() && self.chance(3)
    }

    /// How long a commit is on its way after its outcome was said to be unknown, if it is.
    pub(crate) fn is_late(&self) -> Option<Duration> {
        let is_late = self.is_troubled() && self.chance(10);
        is_late.then(|| self.draw(|rng| rng.millis(1..=1_500)))
    }

    /// Whether an error is answered for what was stored.
    pub(crate) fn answer_is_lost(&self) -> bool {
        self.is_troubled() && self.chance(10)
    }

    /// Whether two copies of a commit come to the log.
    pub(crate) fn doubles_a_commit(&self) -> bool {
        self.is_troubled() && self.chance(50)
    }

    /// Whether a read is answered by a copy of the state that is behind.
    pub(crate) fn reads_a_stale_copy(&self) -> bool {
        self.temper.reads_locally && self.is_troubled() && self.chance(200)
    }
}

impl fmt::Debug for World {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("World")
    }
}
