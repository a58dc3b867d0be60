//! A node that hears much in one round applies each decided entry once, and in order.

use omnipaxos::{
    ballot_leader_election::Ballot,
    messages::{
        Message,
        sequence_paxos::{AcceptDecide, AcceptSync, PaxosMessage, PaxosMsg, Prepare},
    },
    storage::{Snapshot as _, SnapshotType},
    util::{LogSync, SequenceNumber},
};
use tempfile::TempDir;
use tokio::sync::{mpsc, watch};
use tsoracle_cluster::{
    Config, EntryId, Identity, LogEntry,
    transport::{Sender, Transport},
};
use tsoracle_core::{
    Clock as _, Epoch, Leadership, NodeId, SeqKey, SystemClock,
    state::{Advance, Answer, Command, Limits, Query},
};
use tsoracle_store::Store;

use crate::{
    driver::NAME,
    entry::{Entry, Snapshot},
    node::{Event, Node},
    peers::Peers,
    wire,
};

/// Node 1 of three. The others are played by the test.
struct Played {
    node: Node,
    messages: u32,
    _directory: TempDir,
}

impl Played {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let peers = (1..4).map(|node| format!("{node}=127.0.0.1:{node}/h:{node}"));
        let config = Config {
            path: directory.path().into(),
            node: 1,
            peers: peers.collect::<Vec<_>>().join(","),
            peer_listen: Some("127.0.0.1:0".into()),
            ..Config::default()
        };
        let cluster = config.check().unwrap();
        let store = Store::open(directory.path(), cluster.store).unwrap();
        let identity = Identity::open(&store, NAME, &cluster).unwrap();
        let transport = Transport::open(&cluster, &identity).await.unwrap();
        let (events, _) = mpsc::channel(1);
        let peers = Peers::new(&cluster, &identity, &store, transport, events).unwrap();
        let (lead, _) = watch::channel(Leadership::Unknown);
        let node = Node::new(&cluster, store, identity, peers, lead).unwrap();
        Self { node, messages: 0, _directory: directory }
    }

    fn hears(&mut self, from: u32, msg: PaxosMsg<Entry>) {
        let message = Message::SequencePaxos(PaxosMessage { from: from.into(), to: 1, msg });
        let bodies = wire::message(&message, 1, self.messages).unwrap();
        self.messages += 1;
        let sender = Sender { node: from, id: NodeId(from.into()) };
        for body in bodies {
            let event = Event::Body { sender, body: body.into() };
            self.node.hear(event, SystemClock.now().boot).unwrap();
        }
    }

    /// Node `from` is elected with the ballot `n`, and brings what this node lacks.
    fn follows(&mut self, from: u32, n: u32, decided_idx: usize, log_sync: LogSync<Entry>) {
        let n = ballot(n, from);
        let prepare = Prepare { n, decided_idx, n_accepted: n, accepted_idx: decided_idx };
        self.hears(from, PaxosMsg::Prepare(prepare));
        let seq_num = SequenceNumber { session: 1, counter: 1 };
        let sync = AcceptSync { n, seq_num, decided_idx, log_sync };
        self.hears(from, PaxosMsg::AcceptSync(sync));
    }

    /// How often the key was advanced.
    fn count(&mut self, key: &str) -> u64 {
        let query = Query::Sequence(SeqKey::new(key).unwrap());
        match self.node.machine.answer(&self.node.store, &query).unwrap() {
            Answer::Sequence(next) => next.unwrap_or(0),
            other => panic!("{other:?}"),
        }
    }
}

fn ballot(n: u32, pid: u32) -> Ballot {
    Ballot::with(1, n, 0, pid.into())
}

/// The entry of that number, which advances a key of the same name.
fn entry(counter: u64) -> Entry {
    let key = SeqKey::new(counter.to_string()).unwrap();
    let advance = Advance { entries: vec![(key, 1)], id: None, elapsed_ms: 0, limits: LIMITS };
    entry_of(counter, vec![Command::Advance(advance)])
}

fn entry_of(counter: u64, commands: Vec<Command>) -> Entry {
    let id = EntryId { node: 2, claim: 1, counter };
    Entry::new(&LogEntry { id, epoch: Epoch(1), commands }).unwrap()
}

const LIMITS: Limits = Limits { keys: 100, sessions: 1, open_requests: 1, leases: 1 };

/// An open reign, so that sequences can be advanced.
fn opened() -> Entry {
    let fence = Command::Fence { now_ms: 1, headroom_ms: 1, lease_ms: 1 };
    entry_of(0, vec![fence, Command::Open { node: NodeId(2), lease_ms: 1 }])
}

#[tokio::test]
async fn decided_entries_are_applied_once_each_though_another_leader_brings_more_at_once() {
    for undecided in 0..3 {
        let mut played = Played::new().await;
        let suffix = vec![opened(), entry(1)];
        let log_sync = LogSync { decided_snapshot: None, suffix, sync_idx: 0, stopsign: None };
        played.follows(2, 5, 0, log_sync);
        // In one round: what this node has is decided, it accepts more, and another leader, which
        // never saw that, brings two decided entries in its place.
        let entries = (0..undecided).map(|index| entry(10 + index)).collect();
        let seq_num = SequenceNumber { session: 1, counter: 2 };
        let accept = AcceptDecide { n: ballot(5, 2), seq_num, decided_idx: 2, entries };
        played.hears(2, PaxosMsg::AcceptDecide(accept));
        let delta = SnapshotType::Delta(Snapshot::create(&[entry(2), entry(3)]));
        let log_sync = LogSync {
            decided_snapshot: Some(delta),
            suffix: vec![entry(4)],
            sync_idx: 4,
            stopsign: None,
        };
        played.follows(3, 7, 4, log_sync);
        played.node.settle(SystemClock.now().boot).unwrap();
        let counts = [1, 2, 3, 4, 10, 11].map(|key| played.count(&key.to_string()));
        assert_eq!(counts, [1, 1, 1, 0, 0, 0], "{undecided} that were never decided");
    }
}
