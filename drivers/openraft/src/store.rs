//! What this driver keeps in its node's store.

use std::collections::BTreeMap;

use tsoracle_core::{Clock as _, NodeId, Result, SystemClock};
use tsoracle_replica::{Cluster, Identity, Replica, transfer::Inbox, transport::PeerIds};
use tsoracle_store::{Store, Table};

use crate::types::{Applied, Entry, Id, decode};

/// The name in config strings, and of the owner of a directory.
pub(crate) const DRIVER: &str = "openraft";

/// The log: big-endian indexes to entries.
pub(crate) const LOG: Table = Table::new("log");

/// The vote, and what was purged.
pub(crate) const RAFT: Table = Table::new("raft");

/// What was found in a store, besides the state.
pub(crate) struct Found {
    pub(crate) identity: Identity,
    /// The last entry of the log.
    pub(crate) last: Option<Id>,
    /// The last one that is applied, with all before it.
    pub(crate) applied: Option<Id>,
    pub(crate) peers: BTreeMap<u32, NodeId>,
    pub(crate) inbox: Inbox,
}

/// Opens the store in the directory of `cluster`.
pub(crate) fn open(cluster: &Cluster) -> Result<(Replica, Found)> {
    let store = Store::open(&cluster.path, cluster.store)?;
    let identity = Identity::open(&store, DRIVER, cluster)?;
    let last = store.last(LOG)?.map(|(_, bytes)| decode::<Entry>(&bytes)).transpose()?;
    let last = last.map(|entry| entry.log_id);
    let peers = PeerIds::stored(&store)?;
    let inbox = Inbox::open(&cluster.path)?;
    let replica = Replica::open(store, SystemClock.now().boot)?;
    let applied = Applied::read(replica.applied().unwrap_or_default())?.log_id;
    Ok((replica, Found { identity, last, applied, peers, inbox }))
}
