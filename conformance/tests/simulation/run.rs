//! One run, from a seed to what is known of it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    sync::Arc,
    time::Duration,
};

use tokio::{task::JoinSet, time::Instant};
use tsoracle_conformance::history::{self, Call, Operation};
use tsoracle_core::Epoch;

use crate::{
    callers::{Caller, KEYS, PROBE},
    clock::pass,
    flaw::Flaw,
    nemesis,
    node::Node,
    owning::OWNED,
    reached::Reached,
    stamping::HOLDERS,
    world::{System, World},
};

/// Within this the service serves again once everything is mended: an election, a lease that is waited out,
/// and the pauses and slow answers that were under way.
const RECOVERY: Duration = Duration::from_secs(12);

/// Within this it does with a minority broken for good. These may be leaders, one after the other, which
/// cannot commit and have just resigned while no other node could lead: each does so again after eight leases.
const REPLACEMENT: Duration = Duration::from_secs(30);

/// The longest lease has certainly run out after that, so that only a leader that can commit serves.
const LONGEST_LEASE: Duration = Duration::from_secs(2);

/// How long a run is troubled, each time.
const TROUBLE: Duration = Duration::from_secs(5);

/// How long callers go on when all is well, at the beginning and at the end.
const PEACE: Duration = Duration::from_secs(1);

/// How often a sequence is read at the end.
const PERSEVERANCE: usize = 200;

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) history: Vec<Operation>,
    /// The promises that were broken, with an example each.
    pub(crate) broken: Vec<String>,
    pub(crate) reached: BTreeMap<Reached, u64>,
    /// How long it took until the service served again, all but a minority mended, and then everything.
    pub(crate) recoveries: Vec<Duration>,
}

pub(crate) fn run(system: System, seed: u64, flaw: Option<Flaw>) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(simulate(system, seed, flaw))
}

async fn simulate(system: System, seed: u64, flaw: Option<Flaw>) -> Outcome {
    let world = World::new(system, seed, flaw);
    (0..world.nodes.len()).for_each(|node| world.start(node));
    let mut callers = start_callers(&world);
    pass(PEACE).await;
    nemesis::rage(&world, TROUBLE).await;
    if world.temper.sleeps {
        nemesis::sleep(&world).await;
    }
    nemesis::rage(&world, TROUBLE).await;
    let mut prober = Caller::new(&world, "prober");
    let mut recoveries = Vec::new();
    let broken = nemesis::leave_a_minority_broken(&world);
    pass(LONGEST_LEASE).await;
    let when = format!("with {broken:?} broken for good");
    recoveries.extend(recover(&world, &mut prober, REPLACEMENT, &when).await);
    nemesis::rage(&world, TROUBLE).await;
    nemesis::mend(&world);
    let recovered = recover(&world, &mut prober, RECOVERY, "after all was mended").await;
    recoveries.extend(recovered);
    pass(PEACE).await;
    world.close();
    // Calls under way are waited for, since they may take effect.
    while let Some(ended) = callers.join_next().await {
        ended.expect("callers do not panic");
    }
    for key in KEYS {
        let mut attempts = 0..PERSEVERANCE;
        while recovered.is_some() && attempts.next().is_some() && !prober.read_seq(key).await {}
    }
    world.nodes.iter().for_each(Node::reap);
    let outcome = conclude(&world, recoveries);
    // Nodes and callers hold each other, and the world, for as long as the process runs.
    world.nodes.iter().for_each(Node::scrap);
    let _ = fs::remove_dir_all(world.directory.path());
    outcome
}

fn start_callers(world: &Arc<World>) -> JoinSet<()> {
    let mut callers = JoinSet::new();
    for number in 0..2 {
        let caller = |what: &str| Caller::new(world, &format!("{what} {number}"));
        callers.spawn(caller("timestamps").ask_timestamps());
        callers.spawn(caller("more timestamps").ask_timestamps());
        callers.spawn(caller("exactly once").ask_exactly_once());
        callers.spawn(caller("plain").ask_plainly());
    }
    for number in 0..HOLDERS {
        callers.spawn(Caller::new(world, &format!("leases {number}")).hold_leases(number));
    }
    for key in OWNED {
        callers.spawn(Caller::new(world, &format!("owner of {key}")).own(key));
    }
    if world.names_expire() {
        let caller = Caller::new(world, "under a name that expires");
        callers.spawn(caller.ask_under_a_name_that_expires());
    } else {
        for number in 0..2 {
            callers.spawn(Caller::new(world, &format!("by name {number}")).ask_by_name());
        }
    }
    callers.spawn(Caller::new(world, "frontier").read_frontiers());
    callers.spawn(Caller::new(world, "late").ask_after_a_while());
    callers
}

/// Waits until the service serves again, and returns how long that took. That it does not breaks a promise.
async fn recover(
    world: &Arc<World>,
    prober: &mut Caller,
    limit: Duration,
    when: &str,
) -> Option<Duration> {
    let mended = Instant::now();
    while mended.elapsed() < limit {
        if prober.finds_service().await {
            return Some(mended.elapsed());
        }
        pass(PROBE).await;
    }
    let phases = world.nodes.iter().map(Node::phase).collect::<Vec<_>>().join("\n  ");
    world.found(format!("G6 live: it did not serve within {limit:?} {when}\n  {phases}"));
    None
}

fn conclude(world: &World, recoveries: Vec<Duration>) -> Outcome {
    let history = world.history();
    let report = history::check(&history);
    let violated = report.checks.iter().filter(|check| !check.held());
    let mut broken: Vec<_> = violated.map(|check| check.to_string()).collect();
    broken.extend(world.findings());
    broken.extend(world.stamping.findings());
    Outcome { history, broken, reached: world.what_was_reached(), recoveries }
}

impl Outcome {
    pub(crate) fn answered(&self) -> usize {
        self.history.iter().filter(|operation| epoch(operation).is_some()).count()
    }

    /// Under how many epochs something was answered.
    pub(crate) fn epochs(&self) -> usize {
        self.history.iter().filter_map(epoch).collect::<BTreeSet<_>>().len()
    }
}

fn epoch(operation: &Operation) -> Option<Epoch> {
    match &operation.call {
        Call::GetTs { outcome: history::Outcome::Answered(answer), .. } => answer.epoch,
        Call::GetSeq { outcome: history::Outcome::Answered(answer), .. } => answer.epoch,
        _ => None,
    }
}
