//! What goes wrong in a run.

use std::{sync::Arc, time::Duration};

use tokio::time::Instant;

use crate::{clock::pass, network::Quality, world::World};

/// Does one bad thing after the other until then, then mends everything.
pub(crate) async fn rage(world: Arc<World>, until: Instant) {
    world.trouble(true);
    while Instant::now() < until {
        strike(&world);
        pass(world.draw(|rng| rng.millis(20..=1_200))).await;
    }
    world.trouble(false);
    world.network.heal();
    world.nodes.iter().for_each(|node| node.hang_disk(None));
}

fn strike(world: &Arc<World>) {
    let victim = victim(world);
    let (what, long) = world.draw(|rng| (rng.between(0..=99), rng.millis(50..=4_000)));
    match what {
        0..=29 if world.leads_too_early() => orphan(world, victim),
        0..=19 => world.pause(victim, long),
        20..=31 => world.crash(victim, world.draw(|rng| rng.millis(5..=2_500))),
        32..=34 => hang_disk(world, victim, long),
        35..=38 => orphan(world, victim),
        39..=44 => world.stop(victim, world.draw(|rng| rng.millis(5..=1_000))),
        45..=59 => isolate(world, victim),
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
    match (leader, world.draw(|rng| rng.chance(600))) {
        (Some(leader), true) => leader,
        _ => any,
    }
}

/// Cuts a node off from its peers: in both directions, or so that it is not heard, or does not hear.
fn isolate(world: &World, victim: usize) {
    let (hears, is_heard) = world
        .draw(|rng| *rng.pick(&[(false, false), (false, false), (true, false), (false, true)]));
    for peer in world.ends().filter(|&peer| peer != victim) {
        world.network.cut(peer, victim, !hears);
        world.network.cut(victim, peer, !is_heard);
    }
}

/// Breaks single links, any of them.
fn split(world: &World) {
    for from in world.ends() {
        for to in world.ends().filter(|&to| to != from) {
            world.network.cut(from, to, world.draw(|rng| rng.chance(300)));
        }
    }
}

/// The disk of a node ends no sync for a while, and perhaps the node loses its power meanwhile.
fn hang_disk(world: &Arc<World>, victim: usize, long: Duration) {
    world.nodes[victim].hang_disk(Some(Instant::now() + long));
    if world.draw(|rng| rng.chance(500)) {
        let world = world.clone();
        tokio::spawn(async move {
            pass(world.draw(|rng| rng.millis(5..=500))).await;
            world.nodes[victim].hang_disk(None);
            world.crash(victim, world.draw(|rng| rng.millis(5..=100)));
        });
    }
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
    world.nodes[victim].hang_disk(Some(Instant::now() + TROUBLE));
    let world = world.clone();
    tokio::spawn(async move {
        pass(world.draw(|rng| rng.millis(20..=300))).await;
        (0..nodes)
            .filter(|&node| knows(node))
            .for_each(|node| isolate(&world, node, &|_| true, true));
        isolate(&world, victim, &|peer| !knows(peer), false);
        world.nodes[victim].hang_disk(None);
        world.crash(victim, world.draw(|rng| rng.millis(5..=100)));
        pass(world.draw(|rng| rng.millis(500..=2_500))).await;
        world.network.heal();
    });
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

/// How long a run is troubled.
pub(crate) const TROUBLE: Duration = Duration::from_secs(20);
