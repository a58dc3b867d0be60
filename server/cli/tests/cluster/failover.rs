//! How long a client waits while a node of three is killed, paused, cut off or restarted, transfers
//! leadership, or can commit no more.
//!
//! Two callers ask through our client, one for timestamps and one for sequence values, each again as
//! soon as it is answered. Whatever happens to a node, the call that takes longest is the one that
//! was caught by it: measured are how long after the fault it was answered, and how long it took.

use std::{
    env,
    process::ExitCode,
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use anyhow::{Context, Result, ensure};
use tokio::task::JoinSet;
use tsoracle_conformance::{Cluster, Service};
use tsoracle_core::{BootTime, Clock, ErrorKind, SeqKey, SeqRequest, SystemClock};
use tsoracle_testbed::{Processes, enter_sandbox};

use crate::table::{Outage, Row, table};

/// How often each fault is made, if it is set: the program measures then, and tests nothing.
const ROUNDS: &str = "TSORACLE_FAILOVER";

const NODES: usize = 3;

/// How long a cluster may take to be as it was. It is there for what never is.
const PATIENCE: Duration = Duration::from_secs(60);

/// How long nothing is done between two faults, so that each begins from rest.
const REST: Duration = Duration::from_millis(1_500);

/// How long a caller waits between two calls: they are to see, not to make a load.
const PAUSE: Duration = Duration::from_millis(1);

/// What can happen.
#[derive(Clone, Copy)]
enum Fault {
    Kill,
    Pause,
    CutOff,
    SlowDisk,
    HungDisk,
    SlowLink,
    Stop,
    Transfer,
    RollingRestart,
    KillAll,
}

/// How long each sync of a slow disk takes.
const SYNC: Duration = Duration::from_millis(1_500);

/// How long there and back takes on a slow link: more than the heartbeats' interval.
const ROUND_TRIP: Duration = Duration::from_millis(300);

const FAULTS: [(Fault, &str); 10] = [
    (Fault::Kill, "kill -9 of the leader"),
    (Fault::Pause, "the leader paused"),
    (Fault::CutOff, "the leader cut off from its peers"),
    (Fault::SlowDisk, "each sync of the leader takes 1.5 s"),
    (Fault::HungDisk, "the disk of the leader hangs"),
    (Fault::SlowLink, "a round trip to the leader takes 0.3 s"),
    (Fault::Stop, "the leader stopped (SIGTERM)"),
    (Fault::Transfer, "leadership transferred"),
    (Fault::RollingRestart, "rolling restart of all nodes"),
    (Fault::KillAll, "all killed; from the last start on"),
];

pub(crate) fn rounds() -> Option<usize> {
    env::var(ROUNDS).ok()?.parse().ok()
}

/// Measures every driver, or what has the argument of this program in its name, and prints a table.
pub(crate) fn measure(rounds: usize, drivers: Vec<Processes>) -> ExitCode {
    enter_sandbox();
    let filter = env::args().nth(1).unwrap_or_default();
    let runtime = tokio::runtime::Runtime::new().expect("a runtime starts");
    let mut rows = vec![];
    for driver in drivers {
        for (fault, name) in FAULTS {
            let is_possible = is_possible(&driver.cluster(), fault);
            if !is_possible || !format!("{}, {name}", driver.name()).contains(&filter) {
                continue;
            }
            let outages = runtime.block_on(outages(&driver, fault, rounds));
            match outages {
                Ok(outages) => rows.push(Row::new(driver.name(), name, &outages)),
                Err(error) => rows.push(Row::failed(driver.name(), name, &error)),
            }
            eprintln!("{}", rows.last().expect("one was pushed"));
        }
    }
    println!("{}", table(&rows));
    ExitCode::SUCCESS
}

/// Whether a fault can be made where the driver has that, at all.
fn is_possible(cluster: &Cluster, fault: Fault) -> bool {
    match fault {
        Fault::Transfer => cluster.transfer.is_some(),
        Fault::SlowDisk => cluster.slow_disk.is_some(),
        Fault::HungDisk => !cluster.hung_files.is_empty(),
        Fault::SlowLink => cluster.slow_link.is_some(),
        _ => true,
    }
}

/// A cluster that runs, and its nodes.
struct Nodes {
    cluster: Cluster,
    services: Vec<Arc<dyn Service>>,
}

/// What this system does not let be done.
const IMPOSSIBLE: &str = "this system does not let that be done";

/// Makes the same fault again and again.
async fn outages(driver: &Processes, fault: Fault, rounds: usize) -> Result<Vec<Outage>> {
    let cluster = driver.cluster();
    let services = cluster.launch.run(NODES).await?;
    let nodes = Nodes { cluster, services };
    let client = nodes.cluster.client.as_ref().context(IMPOSSIBLE)?.run(()).await?;
    let calls = Callers::start(client);
    let mut outages = vec![];
    for round in 0..rounds {
        leader(&nodes).await?;
        for node in 0..NODES {
            rejoined(&nodes, node).await?;
        }
        SystemClock.sleep(REST).await;
        match (outage(&nodes, &calls, fault).await, &nodes.cluster.report) {
            (Ok(outage), _) => outages.push(outage),
            (Err(error), Some(report)) => {
                let report = report.run(()).await?;
                return Err(error.context(format!("round {round}\n{report}")));
            }
            (Err(error), None) => return Err(error),
        }
    }
    Ok(outages)
}

async fn outage(nodes: &Nodes, callers: &Callers, fault: Fault) -> Result<Outage> {
    let cluster = &nodes.cluster;
    let old = leader(nodes).await?;
    callers.forget();
    let mut began = SystemClock.now().boot;
    match fault {
        Fault::Kill => cluster.kill.run(old).await?,
        Fault::Pause => cluster.pause.as_ref().context(IMPOSSIBLE)?.begin.run(old).await?,
        Fault::CutOff => {
            cluster.partition.as_ref().context(IMPOSSIBLE)?.node.begin.run(old).await?
        }
        Fault::SlowDisk => {
            cluster.slow_disk.as_ref().context(IMPOSSIBLE)?.begin.run((old, SYNC)).await?
        }
        Fault::HungDisk => {
            cluster.hung_files.last().context(IMPOSSIBLE)?.hang.begin.run(old).await?
        }
        Fault::SlowLink => {
            cluster.slow_link.as_ref().context(IMPOSSIBLE)?.begin.run((old, ROUND_TRIP)).await?
        }
        Fault::Stop => cluster.stop.run(old).await?,
        Fault::Transfer => cluster.transfer.as_ref().context(IMPOSSIBLE)?.run(old).await?,
        Fault::RollingRestart => {
            for node in 0..NODES {
                cluster.stop.run(node).await?;
                cluster.start.run(node).await?;
                rejoined(nodes, node).await?;
            }
        }
        Fault::KillAll => {
            for node in 0..NODES {
                cluster.kill.run(node).await?;
            }
            for node in 0..NODES {
                began = SystemClock.now().boot;
                cluster.start.run(node).await?;
            }
        }
    }
    // Behind a slow link it may go on, slowly, and rightly so.
    if !matches!(fault, Fault::RollingRestart | Fault::KillAll | Fault::SlowLink) {
        // Its lease may let the old one serve on for a while, and rightly so.
        leader_besides(nodes, Some(old)).await?;
    }
    callers.go_on().await?;
    let mut outage = callers.outage(began)?;
    match fault {
        // It is several faults, one after the other; or the leader goes on, and each call takes long.
        Fault::RollingRestart | Fault::SlowLink => {
            (outage.timestamps, outage.sequences) = (None, None)
        }
        // It began before the last start.
        Fault::KillAll => outage.longest_call = None,
        _ => {}
    }
    match fault {
        Fault::Kill | Fault::Stop => cluster.start.run(old).await?,
        Fault::Pause => cluster.pause.as_ref().context(IMPOSSIBLE)?.end.run(old).await?,
        Fault::CutOff => cluster.partition.as_ref().context(IMPOSSIBLE)?.node.end.run(old).await?,
        Fault::SlowDisk => {
            cluster.slow_disk.as_ref().context(IMPOSSIBLE)?.end.run((old, SYNC)).await?
        }
        Fault::HungDisk => cluster.hung_files.last().context(IMPOSSIBLE)?.hang.end.run(old).await?,
        Fault::SlowLink => {
            cluster.slow_link.as_ref().context(IMPOSSIBLE)?.end.run((old, ROUND_TRIP)).await?
        }
        Fault::Transfer | Fault::RollingRestart | Fault::KillAll => {}
    }
    Ok(outage)
}

async fn leader(nodes: &Nodes) -> Result<usize> {
    leader_besides(nodes, None).await
}

async fn leader_besides(nodes: &Nodes, old: Option<usize>) -> Result<usize> {
    let until = SystemClock.now().boot + PATIENCE;
    loop {
        for node in (0..NODES).filter(|&node| Some(node) != old) {
            let service = &nodes.services[node];
            let asked = tokio::time::timeout(Duration::from_millis(100), service.get_ts(1));
            if let Ok(Ok(_)) = asked.await {
                return Ok(node);
            }
        }
        ensure!(SystemClock.now().boot < until, "no node serves");
        SystemClock.sleep(PAUSE).await;
    }
}

/// Waits until a node leads, or knows who does.
async fn rejoined(nodes: &Nodes, node: usize) -> Result<()> {
    let until = SystemClock.now().boot + PATIENCE;
    loop {
        match nodes.services[node].get_ts(1).await {
            Ok(_) => return Ok(()),
            Err(error) if matches!(error.kind(), ErrorKind::NotLeader(Some(_))) => return Ok(()),
            Err(error) => {
                ensure!(SystemClock.now().boot < until, "node {node} does not rejoin: {error}");
            }
        }
        SystemClock.sleep(PAUSE).await;
    }
}

/// An answered call.
#[derive(Clone, Copy)]
struct Call {
    began: BootTime,
    ended: BootTime,
}

/// The answered calls of one caller, since they were last forgotten, and why one was not.
type Calls = Arc<Mutex<(Vec<Call>, Option<String>)>>;

/// Asks for timestamps, and for sequence values.
struct Callers {
    stop: Arc<AtomicBool>,
    timestamps: Calls,
    sequences: Calls,
    _tasks: JoinSet<()>,
}

impl Callers {
    fn start(client: Arc<dyn Service>) -> Self {
        let (stop, timestamps, sequences) =
            (Arc::<AtomicBool>::default(), Calls::default(), Calls::default());
        let mut tasks = JoinSet::new();
        let of_sequences = client.clone();
        tasks.spawn(ask(stop.clone(), timestamps.clone(), async move || {
            client.get_ts(1).await.map(drop).map_err(|error| error.to_string())
        }));
        tasks.spawn(ask(stop.clone(), sequences.clone(), async move || {
            let key = SeqKey::new("orders").map_err(|error| error.to_string())?;
            let request = SeqRequest::single(key, 1).map_err(|error| error.to_string())?;
            of_sequences.get_seq(request).await.map(drop).map_err(|error| error.to_string())
        }));
        Self { stop, timestamps, sequences, _tasks: tasks }
    }

    fn forget(&self) {
        for calls in [&self.timestamps, &self.sequences] {
            lock(calls).0.clear();
        }
    }

    /// Waits until some calls of each caller have begun and ended from now on.
    async fn go_on(&self) -> Result<()> {
        let (now, until) = (SystemClock.now().boot, SystemClock.now().boot + PATIENCE);
        for calls in [&self.timestamps, &self.sequences] {
            while lock(calls).0.iter().filter(|call| call.began >= now).count() < 20 {
                ensure!(SystemClock.now().boot < until, "the client is not answered");
                SystemClock.sleep(PAUSE).await;
            }
        }
        Ok(())
    }

    /// What the callers noticed of what happened at `fault`.
    fn outage(&self, fault: BootTime) -> Result<Outage> {
        let noticed = |calls: &Calls| {
            let calls = lock(calls);
            ensure!(calls.1.is_none(), "a call failed: {:?}", calls.1);
            let after = calls.0.iter().filter(|call| call.ended >= fault);
            let longest = after.max_by_key(|call| call.ended.since(call.began));
            let longest = longest.context("no call was answered")?;
            Ok((longest.ended.since(fault), longest.ended.since(longest.began)))
        };
        let (timestamps, sequences) = (noticed(&self.timestamps)?, noticed(&self.sequences)?);
        Ok(Outage {
            timestamps: Some(timestamps.0),
            sequences: Some(sequences.0),
            longest_call: Some(timestamps.1.max(sequences.1)),
        })
    }
}

impl Drop for Callers {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
    }
}

async fn ask(stop: Arc<AtomicBool>, calls: Calls, call: impl AsyncFn() -> Result<(), String>) {
    while !stop.load(Ordering::Relaxed) {
        let began = SystemClock.now().boot;
        let answer = call().await;
        let ended = SystemClock.now().boot;
        match answer {
            Ok(()) => lock(&calls).0.push(Call { began, ended }),
            Err(error) => lock(&calls).1 = Some(error),
        }
        SystemClock.sleep(PAUSE).await;
    }
}

fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
