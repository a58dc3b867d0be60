//! Nodes: machines with a disk and clocks, and the processes that run on them one after the other.

use std::sync::{
    Arc, Mutex,
    atomic::{AtomicI64, Ordering},
};
use std::time::Duration;

use tokio::{sync::mpsc, task::JoinSet, time::Instant};
use tsoracle_core::{
    BootTime, Clock, ConsensusDriver, Error, ErrorKind, Oracle, OracleOptions, Phase, RETENTION,
    Random, Result,
};

use crate::{
    clock::{NodeClock, pass},
    disk::Disk,
    flaw::Flaw,
    forgetful,
    gate::Gate,
    keyvalue, omnipaxos, openraft,
    raft::{self, Event},
    rng::Rng,
    store_disk,
    world::{System, World},
};

/// How long names are kept, unless they are to expire.
const MONTH: Duration = Duration::from_secs(30 * 24 * 3_600);

/// A machine.
pub(crate) struct Node {
    pub(crate) disk: Arc<Mutex<Disk>>,
    /// The disk of a node whose store is a real one.
    pub(crate) store: Mutex<store_disk::Disk>,
    /// For a sabotage.
    pub(crate) places: Mutex<omnipaxos::Places>,
    rate_ppm: u64,
    wall_error_ms: Arc<AtomicI64>,
    /// What the boot clock shows when the first process starts.
    boot: BootTime,
    /// Until then, its disk ends no sync.
    disk_hangs_until: Mutex<Option<Instant>>,
    /// Until then, its commits hang.
    commits_hang_until: Mutex<Option<Instant>>,
    running: Mutex<Option<Process>>,
    last_clock: Mutex<Option<NodeClock>>,
}

/// A process.
struct Process {
    gate: Gate,
    clock: NodeClock,
    inbox: Inbox,
    oracle: Oracle,
    /// Whatever runs in it, but for the engine's own tasks: those stop at the gate.
    tasks: JoinSet<()>,
}

/// Where a node hears of the others.
enum Inbox {
    /// Nowhere.
    None,
    Log(mpsc::UnboundedSender<Event>),
    Omnipaxos(mpsc::UnboundedSender<omnipaxos::Input>),
    Openraft(Arc<openraft::Listener>),
}

impl Process {
    /// Ends it at once.
    fn end(&self) {
        self.gate.kill();
        if let Inbox::Openraft(listener) = &self.inbox {
            listener.end();
        }
    }
}

impl Node {
    pub(crate) fn new(rng: &mut Rng, flaw: Option<Flaw>) -> Self {
        // Two such clocks run less than 10 % apart, which is all that is promised of them.
        let rate_ppm = *rng.pick(&[953_500, 975_000, 1_000_000, 1_000_000, 1_020_000, 1_048_500]);
        let rate_ppm = if flaw == Some(Flaw::ClocksRunFast) { 2_000_000 } else { rate_ppm };
        let hour = 3_600_000;
        let wall_error_ms = *rng.pick(&[0, 0, 0, 40, -40, 5_000, -5_000, hour, -hour]);
        Self {
            disk: Arc::new(Mutex::new(Disk::new(flaw))),
            store: Mutex::default(),
            places: Mutex::default(),
            rate_ppm,
            wall_error_ms: Arc::new(AtomicI64::new(wall_error_ms)),
            boot: BootTime::from_nanos(rng.between(1..=1 << 50)),
            disk_hangs_until: Mutex::default(),
            commits_hang_until: Mutex::default(),
            running: Mutex::default(),
            last_clock: Mutex::default(),
        }
    }

    /// Passes something on to the node's replica, if it runs.
    pub(crate) fn tell(&self, event: Event) {
        if let Some(Process { inbox: Inbox::Log(inbox), .. }) = &*self.running.lock().unwrap() {
            // A replica that has stopped hears nothing.
            let _ = inbox.send(event);
        }
    }

    /// As [`tell`](Self::tell), where nodes keep connections.
    pub(crate) fn hear(&self, input: omnipaxos::Input) {
        if let Some(Process { inbox: Inbox::Omnipaxos(inbox), .. }) = &*self.running.lock().unwrap()
        {
            // One that has stopped hears nothing.
            let _ = inbox.send(input);
        }
    }

    /// What listens to the others, where they call each other.
    pub(crate) fn listener(&self) -> Option<Arc<openraft::Listener>> {
        match &self.running.lock().unwrap().as_ref()?.inbox {
            Inbox::Openraft(listener) => Some(listener.clone()),
            _ => None,
        }
    }

    pub(crate) fn set_wall_error(&self, millis: i64) {
        self.wall_error_ms.store(millis, Ordering::Relaxed);
    }

    /// Has the disk end no sync until then, or as before.
    pub(crate) fn hang_disk(&self, until: Option<Instant>) {
        *self.disk_hangs_until.lock().unwrap() = until;
    }

    /// Has commits hang until then, or as before, while all else goes on.
    pub(crate) fn hang_commits(&self, until: Option<Instant>) {
        *self.commits_hang_until.lock().unwrap() = until;
    }

    /// Returns once the disk does not hang.
    pub(crate) async fn disk_answers(&self) {
        over(&self.disk_hangs_until).await;
    }

    /// Returns once commits do not hang.
    pub(crate) async fn commits_go_on(&self) {
        over(&self.commits_hang_until).await;
    }

    pub(crate) fn is_running(&self) -> bool {
        self.running.lock().unwrap().is_some()
    }

    /// Drops what has ended in its process.
    pub(crate) fn reap(&self) {
        if let Some(process) = &mut *self.running.lock().unwrap() {
            reap(&mut process.tasks);
        }
    }

    /// Drops what runs on it and what its disk holds, when all is over.
    pub(crate) fn scrap(&self) {
        drop(self.running.lock().unwrap().take());
        self.store.lock().unwrap().scrap();
    }

    fn gate(&self) -> Option<Gate> {
        self.running.lock().unwrap().as_ref().map(|process| process.gate.clone())
    }

    /// What its engine is doing.
    pub(crate) fn phase(&self) -> String {
        match &*self.running.lock().unwrap() {
            Some(process) => format!("{:?}", process.oracle.status()),
            None => "down".into(),
        }
    }

    /// Whether it serves, as far as it knows.
    pub(crate) fn leads(&self) -> bool {
        let running = self.running.lock().unwrap();
        running.as_ref().is_some_and(|process| {
            matches!(*process.oracle.phase().borrow(), Phase::Serving { .. })
        })
    }

    /// Does something in the node's process, for as long as that lives.
    pub(crate) fn within<F>(&self, work: impl FnOnce(Within) -> F) -> Result<()>
    where
        F: Future<Output = ()> + Send + 'static,
    {
        let mut running = self.running.lock().unwrap();
        let Some(process) = &mut *running else {
            return Err(Error::new(ErrorKind::Unavailable, "the node is down"));
        };
        let Process { gate, clock, oracle, tasks, .. } = process;
        let within = Within { gate: gate.clone(), clock: clock.clone(), oracle: oracle.clone() };
        let (gate, work) = (gate.clone(), work(within));
        reap(tasks);
        tasks.spawn(async move { gate.run(work).await });
        Ok(())
    }
}

/// Returns once it is past that time, if there is one.
async fn over(until: &Mutex<Option<Instant>>) {
    const LOOK: Duration = Duration::from_millis(10);
    while until.lock().unwrap().is_some_and(|until| Instant::now() < until) {
        pass(LOOK).await;
    }
}

/// Drops tasks that have ended. One that panicked panics here, too.
fn reap(tasks: &mut JoinSet<()>) {
    while let Some(ended) = tasks.try_join_next() {
        assert!(!ended.is_err_and(|error| error.is_panic()), "a task of a node panicked");
    }
}

/// What there is in a process.
pub(crate) struct Within {
    pub(crate) gate: Gate,
    pub(crate) clock: NodeClock,
    pub(crate) oracle: Oracle,
}

impl World {
    /// Starts a process on a node, unless one is running.
    pub(crate) fn start(self: &Arc<Self>, me: usize) {
        let node = &self.nodes[me];
        if node.is_running() {
            return;
        }
        let gate = Gate::default();
        if self.is_asleep() {
            gate.pause(Instant::now());
        }
        // Either only the process was started again, or the machine was.
        let before = node.last_clock.lock().unwrap().take();
        let rebooted =
            self.draw(|rng| rng.chance(300)).then(|| self.draw(|rng| rng.millis(1_000..=60_000)));
        let boot = match (before, rebooted) {
            (None, _) => node.boot,
            (Some(_), Some(since)) => BootTime::default() + since,
            (Some(clock), None) => clock.now().boot,
        };
        let wall_error_ms = node.wall_error_ms.clone();
        let clock = NodeClock::new(gate.clone(), self.start, node.rate_ppm, boot, wall_error_ms);
        *node.last_clock.lock().unwrap() = Some(clock.clone());
        let mut tasks = JoinSet::new();
        let started = self.start_driver(me, &gate, &clock, &mut tasks);
        let (driver, inbox) = match started {
            Ok(started) => started,
            Err(error) => return self.found(format!("node {me} does not start: {error}")),
        };
        let lease = self.draw(|rng| *rng.pick(&[300, 1_000, 1_000, 1_500]));
        let lease = if self.sees_the_undecided() { 1_500 } else { lease };
        let options = OracleOptions {
            lease: Duration::from_millis(lease),
            window_ahead: Duration::from_millis(self.draw(|rng| rng.between(lease..=3_000))),
            max_waiting: self.draw(|rng| *rng.pick(&[4, 1 << 10, 1 << 10])),
            lease_ttl: (Duration::from_millis(100), Duration::from_secs(60)),
            limits: self.caps,
            name_retention: if self.names_expire() { RETENTION } else { MONTH },
            shutdown_timeout: Duration::from_secs(2),
            clock: Arc::new(clock.clone()),
            random: self.random(),
            ..OracleOptions::default()
        };
        let driver = forgetful::over(driver, self.flaw());
        let oracle = Oracle::start(driver, options).expect("the options are valid");
        let (mut phase, world, watching) = (oracle.phase(), self.clone(), gate.clone());
        tasks.spawn(async move {
            let failed = phase.wait_for(|phase| matches!(phase, Phase::Failed(_)));
            let reason = watching.run(failed).await.map(|phase| format!("{:?}", *phase));
            if let Ok(reason) = reason {
                world.found(format!("the engine of node {me} gave up: {reason}"));
                world.crash(me, Duration::from_millis(100));
            }
        });
        *node.running.lock().unwrap() = Some(Process { gate, clock, inbox, oracle, tasks });
    }

    fn start_driver(
        self: &Arc<Self>,
        me: usize,
        gate: &Gate,
        clock: &NodeClock,
        tasks: &mut JoinSet<()>,
    ) -> Result<(Arc<dyn ConsensusDriver>, Inbox)> {
        Ok(match self.system {
            System::Log => {
                let (driver, inbox) = raft::start(self, me, gate, clock, tasks);
                (driver, Inbox::Log(inbox))
            }
            System::KeyValue => (keyvalue::start(self, me, gate, clock, tasks), Inbox::None),
            System::Omnipaxos => {
                let (driver, inbox) = omnipaxos::start(self, me, gate, clock, tasks)?;
                (driver, Inbox::Omnipaxos(inbox))
            }
            System::Openraft => {
                let (driver, listener) = openraft::start(self, me, gate, clock, tasks)?;
                (driver, Inbox::Openraft(listener))
            }
        })
    }

    /// Ends the process on a node as a power loss would, and starts another one later.
    pub(crate) fn crash(self: &Arc<Self>, me: usize, down: Duration) {
        let Some(mut process) = self.nodes[me].running.lock().unwrap().take() else { return };
        reap(&mut process.tasks);
        process.end();
        self.draw(|rng| self.nodes[me].disk.lock().unwrap().crash(rng));
        self.draw(|rng| self.nodes[me].store.lock().unwrap().crash(rng));
        self.disconnect(me);
        drop(process);
        self.start_later(me, down);
    }

    /// Stops the process on a node as an operator would, and starts another one later.
    pub(crate) fn stop(self: &Arc<Self>, me: usize, down: Duration) {
        let world = self.clone();
        // A node that is down need not be stopped.
        let _ = self.nodes[me].within(|within| async move {
            // It stops all the same.
            let _ = within.oracle.shutdown().await;
            if let Some(process) = world.nodes[me].running.lock().unwrap().take() {
                process.end();
            }
            // A process that ends takes nothing with it that it has written.
            world.nodes[me].disk.lock().unwrap().sync_all();
            world.nodes[me].store.lock().unwrap().sync_all();
            world.disconnect(me);
            world.start_later(me, down);
        });
    }

    fn start_later(self: &Arc<Self>, me: usize, down: Duration) {
        let world = self.clone();
        tokio::spawn(async move {
            pass(down).await;
            world.start(me);
        });
    }

    /// Pauses everything on a node but its clocks.
    pub(crate) fn pause(self: &Arc<Self>, me: usize, pause: Duration) {
        let Some(gate) = self.nodes[me].gate() else { return };
        gate.pause(Instant::now() + pause);
        let world = self.clone();
        tokio::spawn(async move {
            pass(pause).await;
            world.resume(me, &gate);
        });
    }

    /// Lets a node go on at once, however long it was to be paused.
    pub(crate) fn wake(&self, me: usize) {
        if let Some(gate) = self.nodes[me].gate() {
            gate.end_pause();
            self.resume(me, &gate);
        }
    }

    /// Lets what passes a gate go on, if its pause is over.
    fn resume(&self, me: usize, gate: &Gate) {
        gate.resume(|paused| {
            if self.has(Flaw::ClockStandsStill)
                && let Some(process) = &*self.nodes[me].running.lock().unwrap()
            {
                process.clock.lose(paused);
            }
        });
    }

    /// Randomness for one process.
    pub(crate) fn random(&self) -> Random {
        let rng = Mutex::new(self.draw(Rng::fork));
        Random::new(move || {
            let mut rng = rng.lock().unwrap();
            u128::from(rng.next()) << 64 | u128::from(rng.next())
        })
    }
}
