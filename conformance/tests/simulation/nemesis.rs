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
}

fn strike(world: &Arc<World>) {
    let victim = victim(world);
    let (what, long) = world.draw(|rng| (rng.between(0..=99), rng.millis(50..=4_000)));
    match what {
        0..=19 => world.pause(victim, long),
        20..=34 => world.crash(victim, world.draw(|rng| rng.millis(5..=2_500))),
        35..=44 => world.stop(victim, world.draw(|rng| rng.millis(5..=1_000))),
        45..=59 => isolate(world, victim),
        60..=66 => split(world),
        67..=74 => world.network.heal(),
        75..=83 => step_clock(world, victim),
        84..=86 => lose_power(world),
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
    for peer in (0..world.nodes.len()).filter(|&peer| peer != victim) {
        world.network.cut(peer, victim, !hears);
        world.network.cut(victim, peer, !is_heard);
    }
}

/// Breaks single links, any of them.
fn split(world: &World) {
    for from in 0..world.nodes.len() {
        for to in (0..world.nodes.len()).filter(|&to| to != from) {
            world.network.cut(from, to, world.draw(|rng| rng.chance(300)));
        }
    }
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
