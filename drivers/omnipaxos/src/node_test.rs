//! A node among others that the test steps by hand: what it applies is what was decided, once and in order.

use std::{collections::BTreeMap, path::Path, sync::Arc, time::Duration};

use omnipaxos::{
    OmniPaxos,
    ballot_leader_election::Ballot,
    messages::{Message, ballot_leader_election::HeartbeatReply},
};
use tempfile::TempDir;
use tokio::sync::watch;
use tsoracle_core::{BootTime, Leadership, Outcome};
use tsoracle_replica::{Answer, Cluster, Replica, Waiters, transfer::Received};
use tsoracle_store::Store;

use crate::{
    entry::{Commit, Entry},
    inbound::Event,
    leadership::Role,
    log::Log,
    message::{self, PeerMessage},
    node::Node,
    paxos::paxos,
    peers::Outgoing,
    storage::SharedLog,
    testing::{commit, config, node, now, receive, rival, version},
};

/// Nodes of the cluster, this one included.
const NODES: u32 = 5;

/// Node 1, and the consensus of the others.
struct Played {
    node: Node,
    waiters: Arc<Waiters>,
    leadership: watch::Receiver<Leadership>,
    others: BTreeMap<u32, (OmniPaxos<Entry, SharedLog>, SharedLog)>,
    /// States that other nodes have in the place of what they have dropped from their logs.
    states: BTreeMap<u64, Received>,
    directories: Vec<TempDir>,
}

impl Played {
    fn new() -> Self {
        let directories: Vec<_> = (0..=NODES).map(|_| tempfile::tempdir().unwrap()).collect();
        let (node, waiters, leadership) = node(&cluster(directories[1].path(), 1));
        let others = (2..=NODES).map(|other| {
            let path = directories[other as usize].path();
            let store = Store::open(path, Default::default()).unwrap();
            let log = SharedLog::new(Log::open(&store).unwrap());
            (other, (paxos(&cluster(path, other), 3, log.clone()).unwrap(), log))
        });
        let (others, states) = (others.collect(), BTreeMap::new());
        Self { node, waiters, leadership, others, states, directories }
    }

    fn paxos(&mut self, node: u32) -> &mut OmniPaxos<Entry, SharedLog> {
        match node {
            1 => &mut self.node.paxos,
            other => &mut self.others.get_mut(&other).unwrap().0,
        }
    }

    /// Has nodes exchange messages until they have no more for each other. Those to others are lost.
    fn exchange(&mut self, among: &[u32]) {
        while self.step(among) {}
    }

    /// Delivers the messages that these nodes have for each other now; false if there are none.
    fn step(&mut self, among: &[u32]) -> bool {
        let mut messages = Vec::new();
        for &node in among {
            let mut sent = Vec::new();
            self.paxos(node).take_outgoing_messages(&mut sent);
            messages.append(&mut sent);
        }
        messages.retain(|message| among.contains(&(message.get_receiver() as u32)));
        let is_any = !messages.is_empty();
        messages.into_iter().for_each(|message| self.deliver(message));
        is_any
    }

    /// Node 1 takes a message as it does from a peer.
    fn deliver(&mut self, mut message: Message<Entry>) {
        let (from, to) = (message.get_sender() as u32, message.get_receiver() as u32);
        message::check(&message, (from, to), &(1..=NODES).collect()).unwrap();
        let state = message::take_state(&mut message);
        if let Some((paxos, log)) = self.others.get_mut(&to) {
            // Their states are not looked at.
            state.iter().for_each(|state| log.borrow_mut().offer(state.index));
            return paxos.handle_incoming(message);
        }
        let state = state.map(|state| {
            let received = self.states.remove(&(state.index as u64));
            (state.index, received.unwrap())
        });
        let message = PeerMessage::Paxos(message);
        self.node.take(Event::Message { peer: from, message, state }, now()).unwrap();
    }

    /// The node is elected by these, itself included.
    fn elect(&mut self, node: u32, by: &[u32]) {
        self.paxos(node).try_become_leader();
        self.exchange(by);
        assert_eq!(self.paxos(node).get_current_leader(), Some((node.into(), true)));
    }

    /// The leader, node 1, gives up. Returns which node is to campaign.
    fn gives_up(&mut self, now: BootTime) -> Option<u32> {
        self.node.update_role();
        self.node.apply_decided(now).unwrap();
        self.node.announce(now);
        let Role::Leader { claim, .. } = self.node.role else { panic!("it does not lead") };
        let promise = self.node.paxos.get_promise();
        let reply = |pid| {
            let ballot = Ballot { pid, ..promise };
            HeartbeatReply { round: 1, ballot, leader: promise, happy: true }
        };
        self.node.neighbours = (2..=NODES.into()).map(reply).collect();
        self.node.resign(claim, now);
        drop(self.node.peers.take_outgoing());
        self.node.leave(now).unwrap();
        // No node is elected in time, and this one leads on.
        self.node.handover = None;
        self.node.peers.take_outgoing().into_iter().find_map(|outgoing| match outgoing {
            Outgoing::Part { peer, .. } => Some(peer),
            _ => None,
        })
    }

    fn append(&mut self, leader: u32, commits: impl IntoIterator<Item = Commit>) {
        for commit in commits {
            self.paxos(leader).append(Entry::Commit(commit)).unwrap();
        }
    }

    fn waits(&self, commits: impl IntoIterator<Item = Commit>) -> Vec<Answer> {
        let waits = |commit: Commit| self.waiters.wait(commit.next(), now()).0;
        commits.into_iter().map(waits).collect()
    }

    /// Nodes other than this one drop the entries before `first` from their logs, which are the commits
    /// of these numbers.
    fn trim(&mut self, nodes: &[u32], first: u64) {
        for node in nodes {
            self.others[node].1.borrow_mut().trim(first as usize);
        }
        let path = self.directories[0].path();
        let state = state(path, first);
        self.states.insert(first, state);
    }
}

fn cluster(path: &Path, node: u32) -> Cluster {
    config(path, node, NODES).check().unwrap()
}

/// The state of a node that has applied the commits of the numbers before `applied`, sent to this one.
fn state(path: &Path, applied: u64) -> Received {
    let store = Store::open(&path.join("source"), Default::default()).unwrap();
    let mut replica = Replica::open(store, now()).unwrap();
    for number in 0..applied {
        let entry = commit(number).decode().unwrap();
        replica.apply(entry.base(), entry.into_effect(), now()).unwrap().unwrap();
    }
    replica.set_applied(applied.to_be_bytes().into());
    receive(path, replica.snapshot().unwrap().map(|chunk| chunk.unwrap()))
}

fn stored(answers: &mut [Answer]) -> Vec<bool> {
    let stored = |answer: &mut Answer| match answer.try_recv() {
        Ok(outcome) => {
            assert_eq!(outcome.unwrap(), Outcome::Stored);
            true
        }
        Err(_) => false,
    };
    answers.iter_mut().map(stored).collect()
}

#[test]
fn decided_entries_are_applied_once_each_though_another_leader_brings_more_at_once() {
    for undecided in 0..3 {
        let mut played = Played::new();
        played.elect(2, &[1, 2, 3, 4]);
        played.append(2, (0..2).map(commit));
        played.exchange(&[1, 2, 3, 4]);
        // In one round of node 1: what it has is decided, it accepts more, and another leader, which
        // never saw that, brings two decided entries in its place.
        let lost = || (2..2 + undecided).map(rival);
        played.append(2, lost());
        played.exchange(&[1, 2]);
        played.elect(3, &[3, 4, 5]);
        played.append(3, (2..4).map(commit));
        played.exchange(&[3, 4, 5]);
        played.append(3, [commit(4)]);
        played.exchange(&[3]);
        let mut answers = played.waits((0..5).map(commit).chain(lost()));
        played.paxos(1).reconnected(3);
        played.exchange(&[1, 3]);
        played.node.apply_decided(now()).unwrap();
        let mut expected = vec![true, true, true, true, false];
        expected.resize(answers.len(), false);
        assert_eq!(stored(&mut answers), expected, "{undecided} that were never decided");
        assert_eq!((played.node.applied, played.node.replica.version()), (4, version(4)));
    }
}

#[test]
fn a_follower_applies_what_was_decided_once_its_answers_may_have_left() {
    let mut played = Played::new();
    played.elect(2, &[1, 2, 3]);
    played.append(2, [commit(0)]);
    played.exchange(&[1, 2, 3]);
    let node = &mut played.node;
    node.work(&mut vec![], &mut vec![], now());
    assert_eq!((node.applied, node.owes()), (0, true));
    node.pay();
    assert_eq!((node.applied, node.owes()), (1, false));
}

#[test]
fn a_follower_installs_a_state_in_the_place_of_entries_that_its_leader_has_dropped() {
    let mut played = Played::new();
    played.elect(2, &[1, 2, 3]);
    played.append(2, (0..2).map(commit));
    played.exchange(&[1, 2, 3]);
    played.append(2, [rival(2)]);
    played.exchange(&[1, 2]);
    played.elect(3, &[3, 4, 5]);
    played.append(3, (2..6).map(commit));
    played.exchange(&[3, 4, 5]);
    played.trim(&[3], 5);
    played.append(3, [commit(6)]);
    played.exchange(&[3, 4, 5]);
    played.paxos(1).reconnected(3);
    played.exchange(&[1, 3]);
    assert_eq!((played.node.applied, played.node.replica.version()), (5, version(5)));
    played.node.apply_decided(now()).unwrap();
    assert_eq!((played.node.applied, played.node.replica.version()), (7, version(7)));
    let evidence = played.node.replica.evidence();
    assert!(evidence.seen(&version(7)).is_some() && evidence.seen(&version(8)).is_none());
    // And goes on from there.
    played.append(3, [commit(7)]);
    played.exchange(&[1, 3, 4]);
    played.node.apply_decided(now()).unwrap();
    assert_eq!((played.node.applied, played.node.replica.version()), (8, version(8)));
}

#[test]
fn a_new_leader_that_is_far_behind_installs_the_state_of_a_follower_and_leads_then() {
    let mut played = Played::new();
    played.elect(2, &[2, 3, 4]);
    played.append(2, (0..6).map(commit));
    played.exchange(&[2, 3, 4]);
    played.trim(&[3], 4);
    played.elect(1, &[1, 3, 5]);
    assert_eq!(played.node.replica.version(), version(4));
    played.node.update_role();
    played.node.apply_decided(now()).unwrap();
    played.node.announce(now());
    assert_eq!(played.node.replica.version(), version(6));
    assert_eq!(*played.leadership.borrow(), Leadership::Leader { claim: 1 });
}

#[test]
fn a_node_that_was_elected_leads_once_it_has_applied_what_may_have_been_decided() {
    let mut played = Played::new();
    played.elect(2, &[1, 2, 3]);
    played.append(2, [commit(0)]);
    played.exchange(&[1, 2]);
    played.paxos(1).try_become_leader();
    // It asks the others for their promises, and gets them.
    assert!(played.step(&[1, 4, 5]) && played.step(&[1, 4, 5]));
    let take_turn = |played: &mut Played| {
        played.node.update_role();
        played.node.apply_decided(now()).unwrap();
        played.node.announce(now());
        played.leadership.borrow().clone()
    };
    assert!(played.node.is_elected());
    assert_eq!(take_turn(&mut played), Leadership::Unknown);
    played.exchange(&[1, 4, 5]);
    assert_eq!(take_turn(&mut played), Leadership::Leader { claim: 1 });
    assert_eq!(played.node.replica.version(), version(1));
}

#[test]
fn the_answer_to_an_earlier_promise_overwrites_nothing_that_is_decided() {
    for trimmed in [0, 2, 3] {
        let mut played = Played::new();
        played.paxos(2).try_become_leader();
        // The promise is on its way twice, since the leader was slow to answer.
        assert!(played.step(&[1, 2, 3]));
        let mut promises = Vec::new();
        played.paxos(1).take_outgoing_messages(&mut promises);
        promises.retain(|message| message.get_receiver() == 2);
        let promise = |promises: &[Message<Entry>]| promises[0].clone();
        played.deliver(promise(&promises));
        played.exchange(&[1, 2, 3]);
        played.append(2, (0..3).map(commit));
        played.exchange(&[1, 2, 3]);
        played.append(2, [commit(3)]);
        played.exchange(&[1, 2, 3]);
        played.node.apply_decided(now()).unwrap();
        played.node.log.borrow_mut().trim(trimmed);
        // The connection is made again, and this node asks for what it lacks.
        played.paxos(1).reconnected(2);
        assert!(played.step(&[1, 2]) && played.step(&[1, 2]));
        played.deliver(promise(&promises));
        assert!(played.step(&[2, 1]), "the leader answers");
        played.append(2, [commit(4)]);
        played.exchange(&[1, 2, 3]);
        played.append(2, [commit(5)]);
        played.exchange(&[1, 2, 3]);
        played.node.apply_decided(now()).unwrap();
        assert!(played.node.applied >= 5, "{} are applied", played.node.applied);
        assert_eq!(played.node.replica.version(), version(played.node.applied as u64));
    }
}

#[test]
fn a_leader_that_gives_up_hands_over_to_none_that_has_led_just_before() {
    let all = [1, 2, 3, 4, 5];
    let mut played = Played::new();
    let hands_over = || Event::Message { peer: 5, message: PeerMessage::TakeOver, state: None };
    let later = now() + Duration::from_secs(60);
    for (asked, expected) in [(now(), [4, 3, 2]), (later, [5, 4, 3])] {
        played.elect(5, &all);
        played.node.update_role();
        played.node.take(hands_over(), now()).unwrap();
        played.exchange(&all);
        for expected in expected {
            assert_eq!(played.gives_up(asked), Some(expected));
        }
    }
}
