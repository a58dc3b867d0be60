//! What the tests of several modules need.

use std::{path::Path, sync::Arc};

use tokio::sync::watch;
use tsoracle_core::{BootTime, Clock as _, Effect, Leadership, SystemClock, Version};
use tsoracle_replica::{
    Announcer, Cluster, Config, LogEntry, Replica, Waiters,
    transfer::{Inbox, Received, calls},
};
use tsoracle_store::Store;

use crate::{entry::Commit, node::Node, peers::Peers};

/// The version that [`commit`] is based on.
pub(crate) fn version(number: u64) -> Version {
    Version { era: 0, number, name: number.into() }
}

/// A commit on that version, which makes the next one.
pub(crate) fn commit(number: u64) -> Commit {
    named(number, version(number + 1).name)
}

/// Another commit on that version.
pub(crate) fn rival(number: u64) -> Commit {
    named(number, u128::MAX - u128::from(number))
}

fn named(number: u64, name: u128) -> Commit {
    let base = version(number);
    let mut effect = Effect::default();
    effect.put(number.to_be_bytes(), name.to_be_bytes());
    effect.set_version(base.next(name).unwrap());
    Commit::new(&LogEntry::new(base, effect).unwrap()).unwrap()
}

/// Node `node` of `nodes`.
pub(crate) fn config(path: &Path, node: u32, nodes: u32) -> Config {
    let peers = (1..=nodes).map(|node| format!("{node}=127.0.0.1:{node}/h:{node}"));
    Config {
        path: path.into(),
        node,
        peers: peers.collect::<Vec<_>>().join(","),
        peer_listen: Some("127.0.0.1:0".into()),
        ..Config::default()
    }
}

/// A node over what is in its directory, which hears nothing but what the test has it take.
pub(crate) fn node(cluster: &Cluster) -> (Node, Arc<Waiters>, watch::Receiver<Leadership>) {
    let store = Store::open(&cluster.path, cluster.store).unwrap();
    let replica = Replica::open(store, now()).unwrap();
    let (announcer, leadership) = Announcer::new();
    let waiters = Arc::<Waiters>::default();
    let peers = Peers::new(cluster, 1);
    let node = Node::new(cluster, replica, peers, waiters.clone(), announcer, now()).unwrap();
    (node, waiters, leadership)
}

/// The state of these chunks, as a node receives it.
pub(crate) fn receive(path: &Path, chunks: impl IntoIterator<Item = Vec<u8>>) -> Received {
    let inbox = Inbox::open(path, 1 << 30).unwrap();
    for call in calls(7, chunks.into_iter().map(Ok)) {
        inbox.blocking_take(2, &call.unwrap()).unwrap();
    }
    inbox.blocking_finish(2, 7).unwrap()
}

pub(crate) fn now() -> BootTime {
    SystemClock.now().boot
}
