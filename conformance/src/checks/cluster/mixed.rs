//! Faults of every kind that the fixture offers, drawn from a seed, while callers ask all nodes.

use std::{collections::BTreeMap, env, time::Duration};

use anyhow::{Context, Result, ensure};
use tsoracle_core::{BootTime, Clock, SystemClock};

use super::loaded::{Loaded, NODES};
use crate::{Direction, Double, fixture::the, model::Random};

cluster_checks!(NODES; whatever_fails_at_random_is_survived);

/// How long faults are made for, in seconds, and the seed that they are drawn from, if these are set.
const SECONDS: &str = "TSORACLE_CHAOS_SECONDS";
const SEED: &str = "TSORACLE_SEED";

/// Otherwise.
const DEFAULT_SECONDS: u64 = 45;

/// How long a fault lasts at least, and what is added at most.
const LASTS_MS: (u64, usize) = (200, 3_000);

/// What can fail.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Fault {
    Kill,
    Stop,
    Pause,
    CutOff,
    CutLink {
        other: usize,
    },
    OneWay(Direction),
    SlowDisk {
        sync_ms: u64,
    },
    HungFiles {
        kind: usize,
    },
    SlowLink {
        round_trip_ms: u64,
    },
    /// It runs over an empty directory for a while.
    Stray,
    Double(Double),
    /// It is taken out of the cluster, and another one comes in its place.
    Replacement,
    Transfer,
    BackingService {
        number: usize,
    },
}

impl Fault {
    /// Whether both can be there at once: those of links would undo each other, and so would two of a kind.
    fn is_apart_from(self, other: Self) -> bool {
        let is_of_links =
            |fault| matches!(fault, Self::CutOff | Self::CutLink { .. } | Self::OneWay(_));
        let are_alike = std::mem::discriminant(&self) == std::mem::discriminant(&other);
        // Of two nodes that are left, the cluster needs both.
        let is_change = |fault| fault == Self::Replacement;
        let is_either = is_change(self) || is_change(other);
        !(are_alike || is_either || is_of_links(self) && is_of_links(other))
    }
}

/// Which faults of a fixture's there are, and what is drawn of them.
struct Dice {
    random: Random,
    kinds: Vec<fn(&mut Dice, &Loaded, usize) -> Fault>,
}

impl Dice {
    fn new(seed: u64, loaded: &Loaded) -> Self {
        let cluster = &loaded.cluster;
        let mut kinds: Vec<fn(&mut Self, &Loaded, usize) -> Fault> =
            vec![|_, _, _| Fault::Kill, |_, _, _| Fault::Stop];
        let mut offer = |is_offered: bool, kind| {
            if is_offered {
                kinds.push(kind);
            }
        };
        offer(cluster.pause.is_some(), |_, _, _| Fault::Pause);
        offer(cluster.partition.is_some(), |_, _, _| Fault::CutOff);
        offer(cluster.partition.is_some(), |dice, _, node| Fault::CutLink {
            other: (node + 1 + dice.random.below(NODES - 1)) % NODES,
        });
        offer(cluster.one_way.is_some(), |dice, _, _| {
            Fault::OneWay(*dice.random.pick(&[Direction::In, Direction::Out]))
        });
        offer(cluster.slow_disk.is_some(), |dice, _, _| Fault::SlowDisk {
            sync_ms: 100 + dice.random.below(2_900) as u64,
        });
        offer(!cluster.hung_files.is_empty(), |dice, loaded, _| Fault::HungFiles {
            kind: dice.random.below(loaded.cluster.hung_files.len()),
        });
        offer(cluster.slow_link.is_some(), |dice, _, _| Fault::SlowLink {
            round_trip_ms: 20 + dice.random.below(480) as u64,
        });
        offer(cluster.stray.is_some(), |_, _, _| Fault::Stray);
        offer(cluster.doubles.is_some(), |dice, _, _| {
            Fault::Double(*dice.random.pick(&[Double::Copy, Double::Empty, Double::Foreign]))
        });
        offer(cluster.replacement.is_some(), |_, _, _| Fault::Replacement);
        offer(cluster.transfer.is_some(), |_, _, _| Fault::Transfer);
        offer(cluster.backing_services.is_some(), |dice, loaded, _| Fault::BackingService {
            number: loaded
                .cluster
                .backing_services
                .as_ref()
                .map_or(0, |services| dice.random.below(services.count)),
        });
        Self { random: Random::new(seed), kinds }
    }

    fn fault(&mut self, loaded: &Loaded, node: usize) -> Fault {
        let kind = *self.random.pick(&self.kinds);
        kind(self, loaded, node)
    }
}

fn setting(name: &str) -> Result<Option<u64>> {
    let set = env::var(name).ok();
    set.map(|set| set.parse().with_context(|| format!("{name}={set}"))).transpose()
}

/// One node fails at a time, or two in a row of which the second fails while the first still does. Some node
/// serves while only one does, and after all was mended. What callers saw is judged in the end.
async fn whatever_fails_at_random_is_survived(loaded: &mut Loaded) -> Result<()> {
    let seed = setting(SEED)?.unwrap_or_else(|| tsoracle_core::Random::default().draw() as u64);
    let seconds = setting(SECONDS)?;
    let mut made = vec![];
    let time = Duration::from_secs(seconds.unwrap_or(DEFAULT_SECONDS));
    let mixed = mix(loaded, seed, time, &mut made).await;
    if seconds.is_some() {
        println!("seed {seed}: {}; {} calls were answered", tally(&made), loaded.answered());
    }
    let last = made.split_off(made.len().saturating_sub(12));
    mixed.with_context(|| format!("seed {seed}, after these faults: {last:?}"))
}

/// How often each fault was made.
fn tally(made: &[(usize, Fault)]) -> String {
    let mut counts = BTreeMap::<String, usize>::new();
    for (_, fault) in made {
        let name = format!("{fault:?}");
        let kind = name.split(['(', ' ']).next().unwrap_or(&name);
        *counts.entry(kind.into()).or_default() += 1;
    }
    let counts = counts.iter().map(|(kind, count)| format!("{kind} {count}"));
    counts.collect::<Vec<_>>().join(", ")
}

async fn mix(
    loaded: &mut Loaded,
    seed: u64,
    time: Duration,
    made: &mut Vec<(usize, Fault)>,
) -> Result<()> {
    if let Some(doubles) = &loaded.cluster.doubles {
        doubles.prepare.run(()).await?;
        loaded.serve().await.context("after another cluster was there")?;
    }
    let mut dice = Dice::new(seed, loaded);
    let until: BootTime = SystemClock.now().boot + time;
    while SystemClock.now().boot < until {
        let first = dice.random.below(NODES);
        let one = (first, dice.fault(loaded, first));
        made.push(one);
        make(loaded, one, true).await?;
        loaded.pass(Duration::from_millis(LASTS_MS.0 + dice.random.below(LASTS_MS.1) as u64)).await;
        if dice.random.one_in(3) {
            let second = (first + 1 + dice.random.below(NODES - 1)) % NODES;
            let other = (second, dice.fault(loaded, second));
            if one.1.is_apart_from(other.1) {
                made.push(other);
                make(loaded, other, true).await?;
                loaded.pass(Duration::from_millis(dice.random.below(LASTS_MS.1) as u64)).await;
                make(loaded, other, false).await?;
            }
        } else {
            loaded.serve_all_the_same().await.with_context(|| format!("in spite of {one:?}"))?;
        }
        make(loaded, one, false).await?;
        loaded.serve().await.with_context(|| format!("after {one:?}"))?;
    }
    ensure!(!made.is_empty(), "the time was too short for a fault");
    Ok(())
}

/// Begins a fault, or ends it.
async fn make(loaded: &Loaded, (node, fault): (usize, Fault), begins: bool) -> Result<()> {
    let cluster = &loaded.cluster;
    match fault {
        Fault::Kill if begins => cluster.kill.run(node).await?,
        Fault::Stop if begins => cluster.stop.run(node).await?,
        Fault::Kill | Fault::Stop => cluster.start.run(node).await?,
        Fault::Pause => turn(the(&cluster.pause)?, node, begins).await?,
        Fault::CutOff => turn(&the(&cluster.partition)?.node, node, begins).await?,
        Fault::CutLink { other } => {
            turn(&the(&cluster.partition)?.link, (node, other), begins).await?;
        }
        Fault::OneWay(way) => turn(the(&cluster.one_way)?, (node, way), begins).await?,
        Fault::SlowDisk { sync_ms } => {
            let sync = Duration::from_millis(sync_ms);
            turn(the(&cluster.slow_disk)?, (node, sync), begins).await?;
        }
        Fault::HungFiles { kind } => turn(&cluster.hung_files[kind].hang, node, begins).await?,
        Fault::SlowLink { round_trip_ms } => {
            let round_trip = Duration::from_millis(round_trip_ms);
            turn(the(&cluster.slow_link)?, (node, round_trip), begins).await?;
        }
        Fault::Stray if begins => {
            cluster.kill.run(node).await?;
            the(&cluster.stray)?.begin.run(node).await?;
        }
        Fault::Stray => {
            the(&cluster.stray)?.end.run(node).await?;
            cluster.start.run(node).await?;
        }
        Fault::Double(of) => turn(&the(&cluster.doubles)?.run, (node, of), begins).await?,
        Fault::Replacement => turn(the(&cluster.replacement)?, node, begins).await?,
        Fault::Transfer if begins => {
            let (leader, _) = loaded.leader().await?;
            // No other node may be able to lead.
            drop(the(&cluster.transfer)?.run(leader).await);
        }
        Fault::Transfer => {}
        Fault::BackingService { number } => {
            turn(&the(&cluster.backing_services)?.kill, number, begins).await?;
        }
    }
    Ok(())
}

async fn turn<I>(fault: &crate::Fault<I>, on: I, begins: bool) -> tsoracle_core::Result<()> {
    match begins {
        true => fault.begin.run(on).await,
        false => fault.end.run(on).await,
    }
}
