//! What goes wrong in a run.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{
    clock::pass,
    flaw::Flaw,
    network::Quality,
    raft::Event,
    reached::Reached,
    world::{System, World},
};

/// For ever, as far as a run is concerned.
const FOR_GOOD: Duration = Duration::from_secs(100_000);

/// How long all machines sleep: longer than sessions are kept unused.
const SLEEP_MS: (u64, u64) = (700_000, 900_000);

/// Does one bad thing after the other, for so long.
pub(crate) async fn rage(world: &Arc<World>, lasting: Duration) {
    world.trouble(true);
    let until = Instant::now() + lasting;
    while Instant::now() < until {
        if world.sees_the_undecided() {
            forget(world).await;
        } else {
            strike(world);
        }
        pass(world.draw(|rng| rng.millis(20..=1_200))).await;
    }
    world.trouble(false);
}

/// Mends everything.
pub(crate) fn mend(world: &Arc<World>) {
    world.network.heal();
    for (number, node) in world.nodes.iter().enumerate() {
        node.hang_disk(None);
        node.hang_commits(None);
        world.wake(number);
        world.start(number);
    }
}

/// Mends everything but a minority of nodes, each of which has a fault that stays. Returns what these are.
pub(crate) fn leave_a_minority_broken(world: &Arc<World>) -> Vec<(usize, Fault)> {
    world.network.heal();
    let count = world.nodes.len();
    let leader = (0..count).find(|&node| world.nodes[node].leads());
    let mut victims: Vec<usize> = leader.filter(|_| world.chance(800)).into_iter().collect();
    while victims.len() < (count - 1) / 2 {
        let victim = world.draw(|rng| rng.between(0..=count as u64 - 1)) as usize;
        if !victims.contains(&victim) {
            victims.push(victim);
        }
    }
    for node in (0..count).filter(|node| !victims.contains(node)) {
        world.nodes[node].hang_disk(None);
        world.nodes[node].hang_commits(None);
        world.wake(node);
        world.start(node);
    }
    // Several with the same fault may keep leadership among themselves.
    let is_real = matches!(world.system, System::Omnipaxos | System::Openraft);
    let same = is_real && world.chance(300);
    let same = same.then(|| Fault::draw(world));
    let strike = |victim| {
        let fault = same.unwrap_or_else(|| Fault::draw(world));
        fault.strike(world, victim);
        (victim, fault)
    };
    victims.into_iter().map(strike).collect()
}

/// What may be wrong with a node for good.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Fault {
    Crashed,
    Paused,
    /// No sync ends.
    DiskHangs,
    /// Commits hang, while heartbeats go on.
    CommitsHang,
    CutOff,
    /// It does not hear, but is heard.
    IsDeaf,
    /// It hears, but is not heard.
    IsMute,
}

impl Fault {
    fn draw(world: &World) -> Self {
        let mut faults = vec![
            Self::Crashed,
            Self::Paused,
            Self::CutOff,
            Self::IsMute,
            Self::CommitsHang,
            Self::CommitsHang,
        ];
        match world.system {
            System::Log => faults.push(Self::DiskHangs),
            System::Omnipaxos | System::Openraft => {
                faults.extend([Self::DiskHangs, Self::IsDeaf]);
            }
            // In a log without pre-votes a deaf node stands for election all the time, and so keeps others
            // from being elected.
            System::KeyValue => faults.push(Self::IsDeaf),
        }
        world.draw(|rng| *rng.pick(&faults))
    }

    fn strike(self, world: &Arc<World>, victim: usize) {
        let until = Some(Instant::now() + FOR_GOOD);
        match self {
            Self::Crashed => world.crash(victim, FOR_GOOD),
            Self::Paused => world.pause(victim, FOR_GOOD),
            Self::DiskHangs => world.nodes[victim].hang_disk(until),
            Self::CommitsHang => world.nodes[victim].hang_commits(until),
            Self::CutOff => isolate(world, victim, false, false),
            Self::IsDeaf => isolate(world, victim, false, true),
            Self::IsMute => isolate(world, victim, true, false),
        }
    }
}

/// All machines sleep at once, as when a whole cloud is suspended: boot clocks run on.
pub(crate) async fn sleep(world: &Arc<World>) {
    world.reached(Reached::Slept);
    world.refusals.slept();
    world.set_asleep(true);
    let sleep = world.draw(|rng| rng.millis(SLEEP_MS.0..=SLEEP_MS.1));
    let leads = |node: &usize| world.nodes[*node].leads();
    let (leaders, others): (Vec<_>, Vec<_>) = (0..world.nodes.len()).partition(leads);
    leaders.iter().chain(&others).for_each(|&node| world.pause(node, FOR_GOOD));
    pass(sleep).await;
    world.store.extend_leases();
    world.set_asleep(false);
    leaders.into_iter().for_each(|node| world.wake(node));
    pass(Duration::from_millis(10)).await;
    others.into_iter().for_each(|node| world.wake(node));
}

fn strike(world: &Arc<World>) {
    let victim = victim(world);
    let (what, long) = world.draw(|rng| (rng.between(0..=99), rng.millis(50..=4_000)));
    match what {
        0..=29 if world.leads_too_early() => orphan(world, victim),
        0..=29 if world.acknowledges_too_early() => unlearn(world, victim),
        0..=49 if world.has(Flaw::AnswersByIndex) => depose(world, victim),
        0..=14 => world.pause(victim, long),
        15..=18 => {
            isolate(world, victim, false, false);
            world.pause(victim, long);
        }
        19..=29 => world.crash(victim, world.draw(|rng| rng.millis(5..=2_500))),
        30..=32 => hang_disk(world, victim, long),
        33..=35 => world.nodes[victim].hang_commits(Some(Instant::now() + long)),
        36..=38 => orphan(world, victim),
        39..=44 => world.stop(victim, world.draw(|rng| rng.millis(5..=1_000))),
        45..=59 => {
            let (hears, is_heard) = world.draw(|rng| {
                *rng.pick(&[(false, false), (false, false), (true, false), (false, true)])
            });
            isolate(world, victim, hears, is_heard);
        }
        60..=66 => split(world),
        67..=74 => world.network.heal(),
        75..=83 => step_clock(world, victim),
        84..=86 => lose_power(world),
        87..=89 => world.store.extend_leases(),
        _ => degrade(world),
    }
}

/// A node, as a rule one that leads.
fn victim(world: &World) -> usize {
    let leader = (0..world.nodes.len()).find(|&node| world.nodes[node].leads());
    let any = world.draw(|rng| rng.between(0..=world.nodes.len() as u64 - 1)) as usize;
    match (leader, world.chance(600)) {
        (Some(leader), true) => leader,
        _ => any,
    }
}

/// Cuts a node off from its peers: in both directions, or so that it is not heard, or does not hear.
fn isolate(world: &World, victim: usize, hears: bool, is_heard: bool) {
    for peer in world.ends().filter(|&peer| peer != victim) {
        world.network.cut(peer, victim, !hears);
        world.network.cut(victim, peer, !is_heard);
    }
}

/// Breaks single links, any of them.
fn split(world: &World) {
    for from in world.ends() {
        for to in world.ends().filter(|&to| to != from) {
            world.network.cut(from, to, world.chance(300));
        }
    }
}

/// The disk of a node ends no sync for a while, and perhaps the node loses its power meanwhile.
fn hang_disk(world: &Arc<World>, victim: usize, long: Duration) {
    world.nodes[victim].hang_disk(Some(Instant::now() + long));
    if world.chance(500) {
        let world = world.clone();
        tokio::spawn(async move {
            pass(world.draw(|rng| rng.millis(5..=500))).await;
            if world.is_troubled() {
                world.nodes[victim].hang_disk(None);
                world.crash(victim, world.draw(|rng| rng.millis(5..=100)));
            }
        });
    }
}

/// A node is cut off for so long that another one leads, and is there again.
fn depose(world: &Arc<World>, victim: usize) {
    isolate(world, victim, false, false);
    let world = world.clone();
    tokio::spawn(async move {
        pass(world.draw(|rng| rng.millis(800..=2_500))).await;
        world.network.heal();
    });
}

/// What is new on a node comes to as few others as make a majority with it, and not to its own disk;
/// then it loses its power, and those few are out of reach when the next leader is elected.
fn orphan(world: &Arc<World>, victim: usize) {
    let nodes = world.nodes.len();
    let isolate = move |world: &World, node: usize, from: &dyn Fn(usize) -> bool, cut: bool| {
        for peer in (0..nodes).filter(|&peer| peer != node && from(peer)) {
            world.network.cut(node, peer, cut);
            world.network.cut(peer, node, cut);
        }
    };
    let knows = move |node: usize| (node + nodes - victim) % nodes <= nodes / 2;
    isolate(world, victim, &|peer| !knows(peer), true);
    world.nodes[victim].hang_disk(Some(Instant::now() + FOR_GOOD));
    let world = world.clone();
    tokio::spawn(async move {
        pass(world.draw(|rng| rng.millis(20..=300))).await;
        if !world.is_troubled() {
            return;
        }
        (0..nodes)
            .filter(|&node| knows(node))
            .for_each(|node| isolate(&world, node, &|_| true, true));
        isolate(&world, victim, &|peer| !knows(peer), false);
        world.nodes[victim].hang_disk(None);
        world.crash(victim, world.draw(|rng| rng.millis(5..=100)));
        pass(world.draw(|rng| rng.millis(500..=2_500))).await;
        if world.is_troubled() {
            world.network.heal();
        }
    });
}

/// What is new on a node comes to as few others as make a majority with it, and not to their disks; then they
/// lose their power, and the node is out of reach when the next leader is elected.
fn unlearn(world: &Arc<World>, victim: usize) {
    let nodes = world.nodes.len();
    let learns = move |node: usize| (1..=nodes / 2).contains(&((node + nodes - victim) % nodes));
    let cut = move |world: &World, node: usize| {
        world.network.cut(node, victim, true);
        world.network.cut(victim, node, true);
    };
    (0..nodes).filter(|&node| node != victim && !learns(node)).for_each(|node| cut(world, node));
    let hung = Some(Instant::now() + FOR_GOOD);
    (0..nodes).filter(|&node| learns(node)).for_each(|node| world.nodes[node].hang_disk(hung));
    let world = world.clone();
    tokio::spawn(async move {
        pass(world.draw(|rng| rng.millis(20..=300))).await;
        if !world.is_troubled() {
            return;
        }
        world.network.heal();
        (0..nodes).filter(|&node| node != victim).for_each(|node| cut(&world, node));
        for node in (0..nodes).filter(|&node| learns(node)) {
            world.nodes[node].hang_disk(None);
            world.crash(node, world.draw(|rng| rng.millis(5..=100)));
        }
        pass(world.draw(|rng| rng.millis(800..=2_500))).await;
        if world.is_troubled() {
            world.network.heal();
        }
    });
}

/// What is new on a leader comes to one other node and is not decided. The rest elects a leader whose term
/// overwrites it; then the first one leads again, renews its lease, and is replaced by the one that saw the
/// entry which was overwritten.
async fn forget(world: &Arc<World>) {
    let nodes = world.nodes.len();
    let Some(leader) = (0..nodes).find(|&node| world.nodes[node].leads()) else { return };
    let witness = (leader + 1) % nodes;
    let cut = move |world: &World, node: usize, keeps: usize| {
        for peer in (0..nodes).filter(|&peer| peer != node && peer != keeps) {
            world.network.cut(node, peer, true);
            world.network.cut(peer, node, true);
        }
    };
    cut(world, leader, witness);
    cut(world, witness, leader);
    for node in (0..nodes).filter(|&node| node != leader && node != witness) {
        world.nodes[node].hang_commits(Some(Instant::now() + Duration::from_secs(3)));
    }
    pass(Duration::from_millis(600)).await;
    world.network.heal();
    pass(Duration::from_millis(150)).await;
    world.nodes[leader].tell(Event::Stand);
    pass(world.draw(|rng| rng.millis(100..=600))).await;
    cut(world, leader, leader);
    world.nodes[witness].tell(Event::Stand);
    pass(Duration::from_millis(1_500)).await;
    world.network.heal();
}

/// All nodes crash, and come back at about the same time.
fn lose_power(world: &Arc<World>) {
    let down_ms = world.draw(|rng| rng.between(0..=1_000));
    for node in 0..world.nodes.len() {
        world.crash(node, world.draw(|rng| rng.millis(down_ms + 1..=down_ms + 20)));
    }
}

fn step_clock(world: &World, victim: usize) {
    const HOUR_MS: i64 = 3_600_000;
    let error_ms =
        world.draw(|rng| *rng.pick(&[0, HOUR_MS, -HOUR_MS, 2 * HOUR_MS, 9_000, -9_000, 500]));
    world.nodes[victim].set_wall_error(error_ms);
}

fn degrade(world: &World) {
    world.network.set_quality(world.draw(|rng| Quality {
        drop_permille: rng.between(0..=300),
        double_permille: rng.between(0..=300),
        slow_permille: rng.between(0..=900),
        slow_ms: rng.between(5..=800),
    }));
}
