//! One node, and messages of another that is damaged, hostile, or of a release to come.

use std::{
    collections::BTreeMap,
    path::Path,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use omnipaxos::{
    ballot_leader_election::Ballot,
    messages::{
        Message,
        ballot_leader_election::{BLEMessage, HeartbeatMsg, HeartbeatReply},
        sequence_paxos::{
            AcceptDecide, AcceptSync, Accepted, Decide, PaxosMessage, PaxosMsg, Prepare, Promise,
        },
    },
    util::{LogSync, SequenceNumber},
};
use tokio::sync::mpsc;
use tsoracle_core::{Clock, Effect, Error, ErrorKind, NodeId, Result, SystemClock, Version};
use tsoracle_replica::{
    Calls, LogEntry,
    leaps::{MAX_LEAP, Reached},
    message_parts::{Session, split},
    transport::{Handler, Sender},
};

use crate::{
    entry::{Commit, Entry},
    inbound::{Event, Inbound, Listener, Progress},
    message::PeerMessage,
    node::Node,
    testing::{commit, config, node, now, version},
};

/// How far the others say that they are.
#[derive(Debug, Default)]
struct Others(Mutex<BTreeMap<u32, Reached>>);

#[async_trait]
impl Calls for Others {
    async fn call(&self, to: u32, _: u32, _: Bytes, _: Duration) -> Result<Bytes> {
        let reached = self.0.lock().unwrap().get(&to).map(|reached| reached.encode());
        reached.ok_or_else(|| Error::new(ErrorKind::Unavailable, "it is down"))
    }
}

const TERM: u32 = 5;

/// What comes in at node 1 of three, which has promised [`TERM`] and holds ten entries.
struct Heard {
    listener: Listener,
    others: Arc<Others>,
    events: mpsc::Receiver<Event>,
    messages: u32,
}

impl Heard {
    fn new(path: &Path) -> Self {
        let cluster = config(path, 1, 3).check().unwrap();
        let (sender, events) = mpsc::channel(8);
        let progress = Arc::<Progress>::default();
        progress.note(Reached { term: TERM.into(), index: 10 });
        let inbound = Inbound::new(&cluster, sender, progress, Arc::new(SystemClock)).unwrap();
        let others = Arc::<Others>::default();
        Self { listener: Listener { inbound, peers: others.clone() }, others, events, messages: 0 }
    }

    /// Node 2 sends a message; whether it reaches the node.
    async fn passes(&mut self, message: Message<Entry>) -> bool {
        let message = PeerMessage::Paxos(message).encode().unwrap();
        self.messages += 1;
        for part in split(&message, Session { start: 1, number: 1 }, self.messages).unwrap() {
            self.listener.received(Sender { node: 2, id: NodeId(2) }, part.into()).await;
            match self.events.recv().await.unwrap() {
                Event::Message { .. } => return true,
                Event::Heard { peer: 2 } => {}
                _ => panic!("another event"),
            }
        }
        false
    }
}

fn ballot(n: u32, pid: u64) -> Ballot {
    Ballot::with(1, n, 0, pid)
}

fn from_two(msg: PaxosMsg<Entry>) -> Message<Entry> {
    Message::SequencePaxos(PaxosMessage { from: 2, to: 1, msg })
}

fn prepare(n: u32) -> Message<Entry> {
    let n_accepted = Ballot::default();
    from_two(PaxosMsg::Prepare(Prepare {
        n: ballot(n, 2),
        decided_idx: 0,
        n_accepted,
        accepted_idx: 0,
    }))
}

fn counted(session: u64, counter: u64) -> SequenceNumber {
    SequenceNumber { session, counter }
}

fn log_sync(sync_idx: usize, suffix: Vec<Entry>) -> LogSync<Entry> {
    LogSync { decided_snapshot: None, suffix, sync_idx, stopsign: None }
}

fn accept(entries: Vec<Entry>) -> Message<Entry> {
    let seq_num = counted(1, 2);
    from_two(PaxosMsg::AcceptDecide(AcceptDecide {
        n: ballot(TERM, 2),
        seq_num,
        decided_idx: 0,
        entries,
    }))
}

#[tokio::test]
async fn a_ballot_that_leaps_is_refused_until_a_majority_confirms_it() {
    let directory = tempfile::tempdir().unwrap();
    let mut heard = Heard::new(directory.path());
    let limit = TERM + MAX_LEAP as u32;
    assert!(heard.passes(prepare(limit)).await);
    let reply = |n| {
        let (ballot, leader) = (ballot(n, 2), ballot(n, 3));
        let msg = HeartbeatMsg::Reply(HeartbeatReply { round: 1, ballot, leader, happy: true });
        Message::BLE(BLEMessage { from: 2, to: 1, msg })
    };
    let promise = |n| {
        from_two(PaxosMsg::Promise(Promise {
            n: ballot(TERM, 1),
            n_accepted: ballot(n, 3),
            decided_idx: 0,
            accepted_idx: 0,
            log_sync: None,
        }))
    };
    assert!(heard.passes(reply(limit)).await && heard.passes(promise(limit)).await);
    for n in [limit + 1, u32::MAX - 1_001, u32::MAX] {
        for message in [prepare(n), reply(n), promise(n)] {
            assert!(!heard.passes(message).await, "{n}");
        }
    }
    let far = Reached { term: u64::from(limit) + 1, index: 10 };
    heard.others.0.lock().unwrap().insert(2, far);
    SystemClock.sleep(Duration::from_secs(1)).await;
    assert!(!heard.passes(prepare(limit + 1)).await, "one node is no majority");
    heard.others.0.lock().unwrap().insert(3, far);
    // The others are not asked again at once.
    while !heard.passes(prepare(limit + 1)).await {
        SystemClock.sleep(Duration::from_millis(20)).await;
    }
    assert!(!heard.passes(prepare(u32::MAX - 1)).await);
}

#[tokio::test]
async fn an_entry_that_cannot_be_applied_is_refused_before_it_is_stored() {
    let directory = tempfile::tempdir().unwrap();
    let mut heard = Heard::new(directory.path());
    let sound = || Entry::Commit(commit(1));
    assert!(heard.passes(accept(vec![sound(), sound()])).await);
    let base = version(1);
    let next = base.next(9).unwrap();
    let entry = |next: Version, writes: &dyn Fn(&mut Effect)| {
        let mut effect = Effect::default();
        writes(&mut effect);
        effect.set_version(next);
        LogEntry::new(base, effect).unwrap().encode().unwrap()
    };
    let none = |_: &mut Effect| {};
    let many =
        |effect: &mut Effect| (0..70_000_u32).for_each(|key| effect.delete(key.to_be_bytes()));
    for wrong in [
        vec![],
        b"garbage".to_vec(),
        [&[9][..], &entry(next, &none)[1..]].concat(),
        [&entry(next, &none)[..], &[0]].concat(),
        entry(Version { number: u64::MAX, ..next }, &none),
        entry(Version { era: u64::MAX, ..next }, &none),
        entry(next, &|effect| effect.put([255; 1_024], b"")),
        entry(next, &|effect| effect.put(b"key", vec![0; 2 << 20])),
        entry(next, &many),
    ] {
        let wrong = || Entry::Commit(Commit::unchecked(&wrong));
        assert!(!heard.passes(accept(vec![sound(), wrong(), sound()])).await);
        let sync = AcceptSync {
            n: ballot(TERM, 2),
            seq_num: counted(1, 1),
            decided_idx: 0,
            log_sync: log_sync(0, vec![sound(), wrong()]),
        };
        assert!(!heard.passes(from_two(PaxosMsg::AcceptSync(sync))).await);
    }
    assert!(heard.passes(accept(vec![sound()])).await);
}

/// Node 1 takes a message as one that has passed.
fn take(node: &mut Node, message: Message<Entry>) {
    let message = PeerMessage::Paxos(message);
    node.take(Event::Message { peer: 2, message, state: None }, now()).unwrap();
    node.work(&mut vec![], &mut vec![], now());
    assert!(!node.has_ended());
    if node.owes() {
        node.pay();
    }
}

#[test]
fn a_message_that_does_not_fit_the_log_changes_nothing_and_the_node_starts_again() {
    let directory = tempfile::tempdir().unwrap();
    let cluster = config(directory.path(), 1, 3).check().unwrap();
    let (mut node, ..) = node(&cluster);
    let entries = || vec![Entry::Commit(commit(0)), Entry::Commit(commit(1))];
    take(&mut node, prepare(TERM));
    let sync = |sync_idx, decided_idx| {
        from_two(PaxosMsg::AcceptSync(AcceptSync {
            n: ballot(TERM, 2),
            seq_num: counted(1, 1),
            decided_idx,
            log_sync: log_sync(sync_idx, entries()),
        }))
    };
    for (from, decided) in [(0, 3), (0, 1 << 40), (1, 1), (1 << 40, 0), (1 << 40, 1 << 40)] {
        take(&mut node, sync(from, decided));
        assert_eq!((node.log.borrow().end(), node.log.borrow().decided), (0, 0));
    }
    take(&mut node, sync(0, 1));
    let decide = Decide { n: ballot(TERM, 2), seq_num: counted(1, 2), decided_idx: 1 << 40 };
    take(&mut node, from_two(PaxosMsg::Decide(decide)));
    assert_eq!((node.log.borrow().end(), node.log.borrow().decided), (2, 2));
    drop(node);

    let (mut node, ..) = crate::testing::node(&cluster);
    node.paxos.try_become_leader();
    let own = node.paxos.get_promise();
    let promise = |decided_idx, log_sync: Option<(usize, usize)>| {
        let log_sync = log_sync.map(|(from, count)| {
            self::log_sync(from, (0..count as u64).map(|n| Entry::Commit(commit(n))).collect())
        });
        let (n_accepted, accepted_idx) = (ballot(TERM, 2), decided_idx);
        from_two(PaxosMsg::Promise(Promise {
            n: own,
            n_accepted,
            decided_idx,
            accepted_idx,
            log_sync,
        }))
    };
    for wrong in [
        promise(3, None),
        promise(1 << 40, None),
        promise(1 << 40, Some((2, 1))),
        promise(5, Some((3, 2))),
        promise(1 << 40, Some((1 << 40, 0))),
        // What is decided here would be overwritten.
        promise(2, Some((0, 2))),
    ] {
        take(&mut node, wrong);
        assert!(!node.is_elected());
    }
    take(&mut node, promise(2, None));
    assert!(node.is_elected());
    for accepted_idx in [3, 1 << 40] {
        let accepted = Accepted { n: own, accepted_idx };
        take(&mut node, from_two(PaxosMsg::Accepted(accepted)));
    }
    assert_eq!((node.log.borrow().end(), node.log.borrow().decided), (2, 2));
    drop(node);
    let (node, ..) = crate::testing::node(&cluster);
    assert_eq!(node.log.borrow().end(), 2);
}
