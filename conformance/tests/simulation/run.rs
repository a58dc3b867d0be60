//! One run, from a seed to what is known of it.

use std::{collections::BTreeSet, time::Duration};

use tokio::{task::JoinSet, time::Instant};
use tsoracle_conformance::history::{self, Call, Operation};
use tsoracle_core::Epoch;

use crate::{
    callers::{Caller, KEYS, PROBE},
    clock::pass,
    flaw::Flaw,
    nemesis,
    node::Node,
    world::{System, World},
};

/// Within this the service serves again once everything is mended: an election, a lease that is waited
/// out, and the pauses and slow answers that were under way.
const RECOVERY: Duration = Duration::from_secs(12);

/// How long callers go on after that.
const AFTERMATH: Duration = Duration::from_secs(2);

/// What came of a run.
#[derive(Debug)]
pub(crate) struct Outcome {
    pub(crate) history: Vec<Operation>,
    /// The promises that were broken, with an example each.
    pub(crate) broken: Vec<String>,
}

pub(crate) fn run(system: System, seed: u64, flaw: Option<Flaw>) -> Outcome {
    let mut runtime = tokio::runtime::Builder::new_current_thread();
    let runtime = runtime.enable_time().start_paused(true).build().unwrap();
    runtime.block_on(simulate(system, seed, flaw))
}

async fn simulate(system: System, seed: u64, flaw: Option<Flaw>) -> Outcome {
    let world = World::new(system, seed, flaw);
    (0..world.nodes.len()).for_each(|node| world.start(node));
    let mut callers = JoinSet::new();
    for number in 0..2 {
        let caller = |what: &str| Caller::new(&world, &format!("{what} {number}"));
        callers.spawn(caller("timestamps").ask_timestamps());
        callers.spawn(caller("more timestamps").ask_timestamps());
        callers.spawn(caller("exactly once").ask_exactly_once());
        callers.spawn(caller("plain").ask_plainly());
    }
    pass(Duration::from_secs(2)).await;
    nemesis::rage(world.clone(), Instant::now() + nemesis::TROUBLE).await;
    let mended = Instant::now();
    let mut prober = Caller::new(&world, "prober");
    let mut recovery = None;
    while mended.elapsed() < RECOVERY && recovery.is_none() {
        let served = prober.get_ts(1).await && prober.read_seq(KEYS[0]).await;
        recovery = served.then(|| mended.elapsed());
        pass(PROBE).await;
    }
    pass(AFTERMATH).await;
    world.close();
    // Calls under way are waited for, since they may take effect.
    while let Some(ended) = callers.join_next().await {
        ended.expect("callers do not panic");
    }
    for key in KEYS {
        while recovery.is_some() && !prober.read_seq(key).await {}
    }
    world.nodes.iter().for_each(Node::reap);
    conclude(&world, recovery)
}

fn conclude(world: &World, recovery: Option<Duration>) -> Outcome {
    let history = world.history();
    let report = history::check(&history);
    let violated = report.checks.iter().filter(|check| !check.held());
    let mut broken: Vec<_> = violated.map(|check| check.to_string()).collect();
    broken.extend(world.findings());
    if recovery.is_none() {
        let phases = world.nodes.iter().map(Node::phase).collect::<Vec<_>>().join("\n  ");
        let promise = "G6 live: it did not serve within";
        broken.push(format!("{promise} {RECOVERY:?} after all was mended\n  {phases}"));
    }
    Outcome { history, broken }
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
