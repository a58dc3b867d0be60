//! What this driver keeps in its node's store.

use std::{collections::BTreeMap, path::Path};

use openraft::EntryPayload;
use tsoracle_core::{BootTime, Result, StoppedState};
use tsoracle_replica::{
    Cluster, Identity, LogEntry, Replica, stopped,
    transfer::Inbox,
    transport::{KnownId, PeerIds},
};
use tsoracle_store::{Store, Table};

use crate::{
    log,
    types::{Applied, Entry, Id, decode, next_index},
};

/// The name in config strings, and of the owner of a directory.
pub(crate) const DRIVER: &str = "openraft";

/// The log: big-endian indexes to entries.
pub(crate) const LOG: Table = Table::new("log");

/// The vote, and what was purged.
pub(crate) const RAFT: Table = Table::new("raft");

/// What was found in a store, besides the state.
pub(crate) struct Found {
    /// The last entry of the log.
    pub(crate) last: Option<Id>,
    /// The last one that is applied, with all before it.
    pub(crate) applied: Option<Id>,
    pub(crate) peers: BTreeMap<u32, KnownId>,
    pub(crate) inbox: Inbox,
}

/// Opens the store in the directory of `cluster`, and finds whose it is; `now` is read before.
pub(crate) fn open(cluster: &Cluster, now: BootTime) -> Result<(Replica, (Identity, Found))> {
    let store = Store::open(&cluster.path, cluster.store)?;
    let identity = Identity::open(&store, DRIVER, cluster, is_used)?;
    let (replica, found) = read(store, cluster, now)?;
    Ok((replica, (identity, found)))
}

/// Whether the node ever took part in a cluster: it has voted, logged, or got a state.
fn is_used(store: &Store) -> Result<bool> {
    let is_empty = |table| store.last(table).map(|last| last.is_none());
    Ok(!is_empty(LOG)? || !is_empty(RAFT)?)
}

/// The state of a stopped node, with everything of its log.
pub(crate) fn read_stopped(path: &Path) -> Result<StoppedState> {
    stopped(path, DRIVER, apply)
}

fn apply(replica: &mut Replica) -> Result<()> {
    let applied = Applied::read(replica.applied().unwrap_or_default())?.log_id;
    let after = next_index(applied.as_ref()).to_be_bytes();
    for (_, entry) in replica.store().entries(LOG, &after, &[u8::MAX; 9], usize::MAX)? {
        if let EntryPayload::Normal(payload) = decode::<Entry>(&entry)?.payload {
            let commit = LogEntry::decode(&payload.0)?;
            // One that conflicts changes nothing, as in the cluster.
            let _ = replica.apply(commit.base(), commit.into_effect(), BootTime::default())?;
        }
    }
    Ok(())
}

/// Reads what the store of a node holds.
pub(crate) fn read(store: Store, cluster: &Cluster, now: BootTime) -> Result<(Replica, Found)> {
    let last = store.last(LOG)?.map(|(_, bytes)| decode::<Entry>(&bytes)).transpose()?;
    let last = last.map(|entry| entry.log_id);
    let peers = PeerIds::stored(&store)?;
    let inbox = Inbox::open(&cluster.path, cluster.transfer_bytes)?;
    let replica = Replica::open(store, now)?;
    let applied = Applied::read(replica.applied().unwrap_or_default())?.log_id;
    // What is in the log was observed by now, though it is applied only once a leader says how far.
    let after = next_index(applied.as_ref()).to_be_bytes();
    for (_, entry) in replica.store().entries(LOG, &after, &[u8::MAX; 9], usize::MAX)? {
        if let Some(version) = log::version(&decode(&entry)?) {
            replica.evidence().logged(version, now);
        }
    }
    Ok((replica, Found { last, applied, peers, inbox }))
}
