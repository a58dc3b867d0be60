//! The connections between the nodes, one in each direction: what is sent arrives in order, or the connection
//! breaks; then some of what was on its way arrives late, and the rest never.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use tokio::time::Instant;

use super::Input;
use crate::{
    clock::pass,
    network::MOST_NODES,
    world::{System, World},
};

/// How many of 1,000 messages arrive all the same that were on their way when a connection broke.
const LATE_PERMILLE: u64 = 300;

#[derive(Default)]
pub(crate) struct Links(Mutex<State>);

#[derive(Default)]
struct State {
    links: [[Link; MOST_NODES]; MOST_NODES],
    /// How many processes of each node have ended.
    endings: [u64; MOST_NODES],
}

#[derive(Default)]
struct Link {
    /// Counts the connections.
    connection: u64,
    is_up: bool,
    is_dialed: bool,
    on_its_way: VecDeque<Vec<u8>>,
    /// When the last of that arrives.
    last: Option<Instant>,
}

impl World {
    fn link<T>(&self, from: usize, to: usize, work: impl FnOnce(&mut Link) -> T) -> T {
        work(&mut self.links.0.lock().unwrap().links[from][to])
    }

    fn endings(&self, node: usize) -> u64 {
        self.links.0.lock().unwrap().endings[node]
    }

    /// Begins to connect a node with all others.
    pub(super) fn connect(self: &Arc<Self>, from: usize) {
        for to in (0..self.nodes.len()).filter(|&to| to != from) {
            self.dial(from, to);
        }
    }

    /// Ends the connections of a node whose process has ended: nothing that was on its way to it arrives.
    pub(crate) fn disconnect(self: &Arc<Self>, node: usize) {
        if self.system != System::Omnipaxos {
            return;
        }
        self.links.0.lock().unwrap().endings[node] += 1;
        for peer in (0..self.nodes.len()).filter(|&peer| peer != node) {
            self.link(peer, node, |link| link.on_its_way.clear());
            self.cut_off(peer, node);
            self.cut_off(node, peer);
        }
    }

    pub(super) fn is_connected(&self, from: usize, to: usize) -> bool {
        self.link(from, to, |link| link.is_up)
    }

    /// Has a node connect with another one, as soon as that can be reached.
    fn dial(self: &Arc<Self>, from: usize, to: usize) {
        if self.link(from, to, |link| link.is_up || std::mem::replace(&mut link.is_dialed, true)) {
            return;
        }
        let world = self.clone();
        tokio::spawn(async move {
            loop {
                pass(world.draw(|rng| rng.millis(5..=80))).await;
                let (is_there, can_reach) =
                    (world.nodes[from].is_running(), world.reaches(from, to));
                if is_there && !can_reach {
                    continue;
                }
                world.link(from, to, |link| {
                    link.is_dialed = false;
                    link.is_up = is_there;
                    link.connection += 1;
                    link.last = None;
                });
                return world.nodes[from].hear(Input::Connected { peer: to });
            }
        });
    }

    fn reaches(&self, from: usize, to: usize) -> bool {
        let is_cut = self.network.is_cut(from, to) || self.network.is_cut(to, from);
        !is_cut && self.nodes[to].is_running()
    }

    /// Sends a part of a message, after all those sent before; it is lost where there is no connection.
    pub(super) fn send_part(self: &Arc<Self>, from: usize, to: usize, body: Vec<u8>) {
        let Some(&delay) = self.network.copies().first() else { return self.cut_off(from, to) };
        let sent = self.link(from, to, |link| {
            let at = link.last.unwrap_or_else(Instant::now).max(Instant::now() + delay);
            link.is_up.then(|| {
                link.last = Some(at);
                link.on_its_way.push_back(body);
                (link.connection, at)
            })
        });
        let Some((connection, at)) = sent else { return };
        let world = self.clone();
        tokio::spawn(async move {
            pass(at - Instant::now()).await;
            world.arrive(from, to, connection);
        });
    }

    /// The next part arrives.
    fn arrive(self: &Arc<Self>, from: usize, to: usize, connection: u64) {
        if self.network.is_cut(from, to) {
            return self.cut_off(from, to);
        }
        let next = self.link(from, to, |link| {
            let is_same = link.is_up && link.connection == connection;
            is_same.then(|| link.on_its_way.pop_front()).flatten()
        });
        if let Some(body) = next {
            self.nodes[to].hear(Input::Part { peer: from, body });
        }
    }

    /// A connection breaks, and is made again later.
    fn cut_off(self: &Arc<Self>, from: usize, to: usize) {
        let left = self.link(from, to, |link| {
            std::mem::take(&mut link.is_up).then(|| std::mem::take(&mut link.on_its_way))
        });
        for body in left.unwrap_or_default() {
            if self.chance(LATE_PERMILLE) {
                let (world, delay) = (self.clone(), self.draw(|rng| rng.millis(0..=300)));
                let endings = self.endings(to);
                tokio::spawn(async move {
                    pass(delay).await;
                    if !world.network.is_cut(from, to) && world.endings(to) == endings {
                        world.nodes[to].hear(Input::Part { peer: from, body });
                    }
                });
            }
        }
        self.dial(from, to);
    }

    /// Makes a call, which is answered or fails.
    pub(super) async fn call(self: &Arc<Self>, from: usize, to: usize, body: Vec<u8>) -> bool {
        const DEADLINE: Duration = Duration::from_secs(5);
        let way = self.network.copies();
        let Some(&delay) = way.first() else { return false };
        pass(delay).await;
        if !self.is_connected(from, to) || self.network.is_cut(from, to) {
            return false;
        }
        let (reply, answer) = tokio::sync::oneshot::channel();
        self.nodes[to].hear(Input::Call { peer: from, body, reply });
        let answered = tokio::time::timeout(DEADLINE, answer).await;
        pass(delay).await;
        matches!(answered, Ok(Ok(true))) && self.is_connected(from, to)
    }
}
