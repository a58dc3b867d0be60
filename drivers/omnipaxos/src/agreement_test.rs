//! Three nodes over links that lose messages, with logs so short that states stand for entries all the time:
//! after equally many entries, all have the same state, whatever crashes, and all go on in the end.

use std::collections::{BTreeMap, VecDeque};

use omnipaxos::messages::Message;
use proptest::prelude::*;
use tempfile::TempDir;
use tsoracle_core::{Effect, Version};
use tsoracle_replica::{Config, LogEntry, transfer::Received};

use crate::{
    entry::{Commit, Entry},
    inbound::Event,
    message::{self, PeerMessage},
    node::Node,
    testing::{config, node, now, receive},
};

const NODES: u32 = 3;

/// A message on its way, with the state that goes ahead of it if it names one.
type Sent = (Message<Entry>, Vec<Vec<u8>>);

struct World {
    directories: Vec<TempDir>,
    nodes: BTreeMap<u32, Node>,
    links: BTreeMap<(u32, u32), VecDeque<Sent>>,
    commits: u128,
    /// The version that the last commit of each node makes.
    tips: BTreeMap<u32, Version>,
    states_sent: u64,
    /// The version of the state after so many entries.
    versions: BTreeMap<usize, Version>,
}

#[derive(Clone, Debug)]
enum Step {
    /// Some messages of a link arrive.
    Deliver {
        link: usize,
        count: usize,
    },
    /// All messages between two nodes arrive, and those that answer them; the third hears nothing.
    Exchange {
        without: u32,
    },
    /// All messages of a link are lost, and a new session begins.
    Lose {
        link: usize,
    },
    Campaign {
        node: u32,
    },
    /// Each node that leads appends so many commits.
    Commit {
        count: usize,
    },
    Crash {
        node: u32,
    },
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let link = 0..(NODES * (NODES - 1)) as usize;
    let step = prop_oneof![
        10 => (link.clone(), 1..4_usize).prop_map(|(link, count)| Step::Deliver { link, count }),
        4 => (1..=NODES).prop_map(|without| Step::Exchange { without }),
        1 => link.prop_map(|link| Step::Lose { link }),
        1 => (1..=NODES).prop_map(|node| Step::Campaign { node }),
        5 => (1..4_usize).prop_map(|count| Step::Commit { count }),
        1 => (1..=NODES).prop_map(|node| Step::Crash { node }),
    ];
    prop::collection::vec(step, 300)
}

impl World {
    fn new() -> Self {
        let pairs = (1..=NODES).flat_map(|from| (1..=NODES).map(move |to| (from, to)));
        let links = pairs.filter(|(from, to)| from != to).map(|link| (link, VecDeque::new()));
        let mut world = Self {
            directories: (0..=NODES).map(|_| tempfile::tempdir().unwrap()).collect(),
            nodes: BTreeMap::new(),
            links: links.collect(),
            commits: 0,
            tips: BTreeMap::new(),
            states_sent: 0,
            versions: BTreeMap::new(),
        };
        (1..=NODES).for_each(|node| world.start(node));
        world
    }

    /// Starts a node over what is in its directory.
    fn start(&mut self, number: u32) {
        let path = self.directories[number as usize].path();
        let config = Config { log_keep: 2, snapshot_every: 1, ..config(path, number, NODES) };
        let (node, ..) = node(&config.check().unwrap());
        self.nodes.insert(number, node);
        for other in (1..=NODES).filter(|other| *other != number) {
            self.lose((number, other));
            self.lose((other, number));
        }
        self.end_round(number);
    }

    fn take(&mut self, step: &Step) {
        match step {
            Step::Deliver { link, count } => {
                let link = *self.links.keys().nth(*link).unwrap();
                for _ in 0..*count {
                    self.deliver(link);
                }
                self.end_round(link.1);
            }
            Step::Exchange { without } => self.exchange(Some(*without)),
            Step::Lose { link } => {
                let link = *self.links.keys().nth(*link).unwrap();
                self.lose(link);
            }
            Step::Campaign { node } => self.campaign(*node),
            Step::Commit { count } => (1..=NODES).for_each(|node| self.commit(node, *count)),
            // What is not written is lost.
            Step::Crash { node } => {
                self.nodes.remove(node);
                self.start(*node);
            }
        }
    }

    fn node(&mut self, node: u32) -> &mut Node {
        self.nodes.get_mut(&node).unwrap()
    }

    fn campaign(&mut self, node: u32) {
        self.tips.remove(&node);
        self.node(node).paxos.try_become_leader();
        self.end_round(node);
    }

    fn commit(&mut self, number: u32, count: usize) {
        for _ in 0..count {
            self.commits += 1;
            let name = self.commits;
            let node = self.nodes.get_mut(&number).unwrap();
            if !node.is_elected() {
                return;
            }
            // On what is under way, most of the time.
            let version = node.replica.version();
            let tip = self.tips.get(&number).filter(|tip| tip.number > version.number);
            let base = *tip.unwrap_or(&version);
            let mut effect = Effect::default();
            effect.put([name as u8 % 16], name.to_be_bytes());
            let next = base.next(name).unwrap();
            effect.set_version(next);
            self.tips.insert(number, next);
            let commit = Commit::new(&LogEntry::new(base, effect).unwrap()).unwrap();
            node.paxos.append(Entry::Commit(commit)).unwrap();
        }
        self.end_round(number);
    }

    /// Delivers the first message of a link; false if there is none.
    fn deliver(&mut self, (from, to): (u32, u32)) -> bool {
        let Some((mut message, chunks)) = self.links.get_mut(&(from, to)).unwrap().pop_front()
        else {
            return false;
        };
        message::check(&message, (from, to), &(1..=NODES).collect()).unwrap();
        let state = message::take_state(&mut message);
        let state = state.map(|state| (state.index, self.receive(to, chunks)));
        let event = Event::Message { peer: from, message: PeerMessage::Paxos(message), state };
        self.node(to).take(event, now()).unwrap();
        true
    }

    fn receive(&mut self, to: u32, chunks: Vec<Vec<u8>>) -> Received {
        self.states_sent += 1;
        let path = self.directories[0].path().join(format!("{to}-{}", self.states_sent));
        std::fs::create_dir(&path).unwrap();
        receive(&path, chunks)
    }

    fn lose(&mut self, (from, to): (u32, u32)) {
        self.links.get_mut(&(from, to)).unwrap().clear();
        for (node, other) in [(from, to), (to, from)] {
            if let Some(node) = self.nodes.get_mut(&node) {
                node.paxos.reconnected(other.into());
            }
        }
    }

    /// Ends a round of a node as it does by itself, except that everything is durable before it is sent.
    fn end_round(&mut self, number: u32) {
        let versions = &mut self.versions;
        let node = self.nodes.get_mut(&number).unwrap();
        node.update_role();
        node.apply_decided(now()).unwrap();
        node.persist().unwrap();
        let version = node.replica.version();
        let known = *versions.entry(node.applied).or_insert(version);
        assert_eq!(known, version, "node {number} after {} entries", node.applied);
        let mut messages = Vec::new();
        node.paxos.take_outgoing_messages(&mut messages);
        for mut message in messages {
            let to = message.get_receiver() as u32;
            let chunks = match message::state_of(&mut message) {
                Some(_) => node.replica.snapshot().unwrap().map(|chunk| chunk.unwrap()).collect(),
                None => vec![],
            };
            self.links.get_mut(&(number, to)).unwrap().push_back((message, chunks));
        }
    }

    fn exchange(&mut self, without: Option<u32>) {
        let among = |(from, to): &(u32, u32)| without != Some(*from) && without != Some(*to);
        let links: Vec<_> = self.links.keys().copied().filter(among).collect();
        while links.iter().any(|link| !self.links[link].is_empty()) {
            for &link in &links {
                if self.deliver(link) {
                    self.end_round(link.1);
                }
            }
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 8, max_shrink_iters: 100, ..<_>::default() })]

    #[test]
    fn nodes_agree_whatever_is_lost_and_dropped_and_go_on_in_the_end(steps in steps()) {
        let mut world = World::new();
        steps.iter().for_each(|step| world.take(step));
        world.exchange(None);
        for node in 1..=NODES {
            // Others may have promised a ballot that this node has not heard of, though it was elected before.
            for _ in 0..100 {
                if world.node(node).is_elected() {
                    world.tips.clear();
                    world.commit(node, 1);
                    world.exchange(None);
                    if world.node(node).replica.version().name == world.commits {
                        break;
                    }
                }
                world.campaign(node);
                world.exchange(None);
            }
            let version = world.node(node).replica.version();
            prop_assert_eq!(version.name, world.commits);
        }
        // What the last commit decided, the others learn with the next one.
        world.commit(NODES, 1);
        world.exchange(None);
        let last = world.node(NODES).applied;
        for node in 1..=NODES {
            prop_assert_eq!(world.node(node).applied, last);
        }
    }
}
