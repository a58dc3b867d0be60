//! How a cluster is formed, once, and what two nodes find out when they meet.
//!
//! The node with the lowest number of the list founds the cluster: once every other one has said, within
//! [`RECENT`], that it belongs to none, has the same list, and has found this very directory at the founder's address,
//! it draws the cluster's id and notes it, with the ids of all directories. The others learn of it by calling a node
//! that knows their directory. So no two clusters come of one list, whichever nodes are slow, wiped or
//! started twice, and none begins beside one that is there.

use std::{
    collections::BTreeMap,
    fmt::Write as _,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use tokio::sync::watch;
use tsoracle_core::{BootTime, NodeId, Result};

use super::{
    PeerIds, Sender, lock,
    peer_ids::Directory,
    proto::{Introduction, ListedNode, PeerId, refusal::Reason},
};
use crate::{Addresses, Cluster, ClusterId, Formed, Identity};

/// For how long it counts that a node was met.
const RECENT: Duration = Duration::from_secs(3);

/// See the module.
#[derive(Clone)]
pub(super) struct Formation(Arc<Inner>);

struct Inner {
    own: Sender,
    incarnation: u64,
    joins: bool,
    list: BTreeMap<u32, Addresses>,
    compares_addresses: bool,
    ids: PeerIds,
    formed: watch::Sender<Option<Formed>>,
    /// Whom this node has called, and found to belong to no cluster.
    met: Mutex<BTreeMap<u32, Met>>,
    is_writing: AtomicBool,
    /// What was logged last.
    logged: Mutex<String>,
}

struct Met {
    directory: NodeId,
    at: BootTime,
    found: Found,
}

#[derive(Clone, PartialEq, Eq)]
enum Found {
    /// It is new, has the same list, and has found this node as well.
    New,
    /// The same, but it has not found this node at its address.
    Misses,
    /// It waits to be added to a cluster.
    Joins,
    /// It is new, and has that list.
    OtherList(String),
    /// It belongs to a cluster of which this node is no member.
    Belongs,
}

/// What a session between two nodes is for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Meeting {
    /// They are members of one cluster.
    Stands,
    /// At least one of them belongs to no cluster yet.
    Forms,
}

/// Why a node is refused.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) reason: Reason,
    /// It knows the id of the cluster that this node belongs to.
    pub(super) knows_cluster: bool,
    /// For this node's own log.
    pub(super) log: String,
}

impl Formation {
    pub(super) fn new(cluster: &Cluster, identity: &Identity, ids: PeerIds) -> Self {
        Self(Arc::new(Inner {
            own: Sender { node: identity.node(), id: identity.id() },
            incarnation: identity.incarnation(),
            joins: cluster.join,
            list: cluster.members.clone(),
            compares_addresses: cluster.compares_addresses,
            ids,
            formed: watch::Sender::new(identity.formed().cloned()),
            met: Mutex::default(),
            is_writing: AtomicBool::new(false),
            logged: Mutex::default(),
        }))
    }

    /// The cluster that this node belongs to, once it does.
    pub(super) fn subscribe(&self) -> watch::Receiver<Option<Formed>> {
        self.0.formed.subscribe()
    }

    pub(super) fn is_formed(&self) -> bool {
        self.0.formed.borrow().is_some()
    }

    pub(super) fn joins(&self) -> bool {
        self.0.joins
    }

    /// The other nodes of the list.
    pub(super) fn others(&self) -> impl Iterator<Item = (u32, &Addresses)> {
        let others = self.0.list.iter().filter(|(node, _)| **node != self.0.own.node);
        others.map(|(&node, addresses)| (node, addresses))
    }

    /// What this node says of itself to node `to`.
    pub(super) fn introduction(&self, to: u32, now: BootTime) -> Introduction {
        let formed = self.0.formed.borrow();
        let nodes = formed.as_ref().map_or(&self.0.list, |formed| &formed.nodes);
        let listed = |(&node, at): (&u32, &Addresses)| ListedNode {
            node,
            peer: at.peer.clone(),
            service: at.service.clone(),
        };
        Introduction {
            cluster_id: formed
                .as_ref()
                .map_or(Bytes::new(), |formed| Bytes::copy_from_slice(&formed.id.0.to_be_bytes())),
            is_provisional: formed.as_ref().is_some_and(|formed| formed.is_provisional),
            incarnation: self.0.incarnation,
            joins: self.0.joins,
            nodes: nodes.iter().map(listed).collect(),
            met: self.met(to, now),
        }
    }

    fn met(&self, node: u32, now: BootTime) -> Bytes {
        let met = lock(&self.0.met);
        let met = met.get(&node).filter(|met| now.since(met.at) < RECENT);
        met.map_or(Bytes::new(), |met| Bytes::copy_from_slice(&met.directory.0.to_be_bytes()))
    }

    /// What comes of meeting `sender`, which says that of itself. `knows_this`: it knows the directory of this
    /// node. `is_called`: it has answered at the address of that node, and did not call by itself. `known`: whose
    /// directories it says to know.
    pub(super) fn meet(
        &self,
        sender: Sender,
        said: &Introduction,
        (knows_this, is_called): (bool, bool),
        known: &[PeerId],
        now: BootTime,
    ) -> Result<Meeting, Refused> {
        let theirs = belongs_to(said);
        let own = self.0.formed.borrow().clone();
        match (own, theirs) {
            (Some(own), Some(theirs)) => self.meet_member(sender, &own, &theirs, knows_this),
            (Some(own), None) => {
                if is_called {
                    self.note(sender, Found::Joins, now, said.joins);
                }
                self.meet_new(sender, &own)
            }
            (None, Some(theirs)) => {
                let has_same_list = self.has_same_list(said);
                if knows_this && (self.0.joins || is_called && has_same_list) {
                    let all = known.iter().filter_map(PeerId::read);
                    let others = all.filter(|(node, _)| *node != self.0.own.node);
                    self.belong(theirs, others.chain([(sender.node, sender.id)]).collect());
                    return Ok(Meeting::Forms);
                }
                if is_called {
                    let found = match knows_this {
                        true => Found::OtherList(describe(said)),
                        false => Found::Belongs,
                    };
                    self.note(sender, found, now, true);
                }
                match is_called || self.0.joins || knows_this {
                    true => Ok(Meeting::Forms),
                    false => Err(refused(
                        Reason::Stranger,
                        format!(
                            "node {} belongs to a cluster already, and this one, which was not started \
                             with join=true, does not",
                            sender.node
                        ),
                    )),
                }
            }
            (None, None) => {
                if is_called {
                    let found = match said.joins {
                        true => Found::Joins,
                        false if !self.has_same_list(said) => Found::OtherList(describe(said)),
                        false if said.met == self.0.own.id.0.to_be_bytes()[..] => Found::New,
                        false => Found::Misses,
                    };
                    self.note(sender, found, now, true);
                    self.found_cluster(now);
                }
                Ok(Meeting::Forms)
            }
        }
    }

    /// `node` was called and has refused this one, which is no member of its cluster.
    pub(super) fn note_refusal(&self, node: u32, now: BootTime) {
        let sender = Sender { node, id: NodeId(0) };
        self.note(sender, Found::Belongs, now, true);
    }

    fn note(&self, sender: Sender, found: Found, at: BootTime, is_noted: bool) {
        if is_noted {
            lock(&self.0.met).insert(sender.node, Met { directory: sender.id, at, found });
        }
    }

    fn meet_member(
        &self,
        sender: Sender,
        own: &Formed,
        theirs: &Formed,
        knows_this: bool,
    ) -> Result<Meeting, Refused> {
        let directory = self.0.ids.directory(sender);
        if own.id != theirs.id {
            let is_merged = own.is_provisional
                && theirs.is_provisional
                && knows_this
                && directory == Directory::Its;
            if !is_merged {
                let node = sender.node;
                let log = format!("node {node} belongs to another cluster than this one");
                return Err(refused(Reason::NotAMember, log));
            }
            if theirs.id < own.id {
                self.belong(Formed { id: theirs.id, ..own.clone() }, vec![]);
            }
        }
        match directory {
            Directory::Its | Directory::Unknown => Ok(Meeting::Stands),
            other => Err(Refused { knows_cluster: true, ..no_member(sender.node, other) }),
        }
    }

    fn meet_new(&self, sender: Sender, own: &Formed) -> Result<Meeting, Refused> {
        match self.0.ids.directory(sender) {
            Directory::Its => Ok(Meeting::Forms),
            // Its cluster was formed by a majority of its nodes; this one was not there then.
            Directory::Unknown if own.is_provisional && self.0.list.contains_key(&sender.node) => {
                self.vouch_for(sender);
                Ok(Meeting::Forms)
            }
            other => Err(no_member(sender.node, other)),
        }
    }

    fn vouch_for(&self, sender: Sender) {
        let ids = self.0.ids.clone();
        // A store that fails stops the node.
        tokio::spawn(async move { ids.remember(vec![(sender.node, sender.id)], vec![]).await });
    }

    /// The directory of a node that was called, and waits to be added to a cluster.
    pub(super) fn waiting_directory(&self, node: u32, now: BootTime) -> Option<NodeId> {
        let met = lock(&self.0.met);
        let met = met.get(&node).filter(|met| now.since(met.at) < RECENT)?;
        (met.found == Found::Joins).then_some(met.directory)
    }

    /// Founds the cluster, if that is up to this node, and all others have agreed.
    fn found_cluster(&self, now: BootTime) {
        let Inner { own, list, joins, .. } = &*self.0;
        if *joins || self.is_formed() || list.keys().next() != Some(&own.node) {
            return;
        }
        let agreed = {
            let met = lock(&self.0.met);
            let others = list.keys().filter(|node| **node != own.node);
            let agreed = others.map(|node| {
                let met = met.get(node)?;
                let is_new = met.found == Found::New && now.since(met.at) < RECENT;
                is_new.then_some((*node, met.directory))
            });
            agreed.collect::<Option<Vec<_>>>()
        };
        let Some(directories) = agreed else { return };
        match Formed::draw(false, list.clone()) {
            Ok(formed) => self.belong(formed, directories),
            Err(error) => {
                tracing::error!(error = %format_args!("{error:#}"), "no cluster can be formed")
            }
        }
    }

    /// Belongs to that cluster, once that is durable together with the ids of these directories.
    fn belong(&self, formed: Formed, directories: Vec<(u32, NodeId)>) {
        if self.0.is_writing.swap(true, Ordering::AcqRel) {
            return;
        }
        let this = self.clone();
        tokio::spawn(async move {
            let remembered = match formed.note() {
                Ok(note) => this.0.ids.remember(directories, vec![note]).await,
                Err(error) => Err(error),
            };
            match remembered {
                Ok(()) => {
                    tracing::info!(cluster = ?formed.id, "this node belongs to a cluster from now on");
                    this.0.formed.send_replace(Some(formed));
                }
                Err(error) => {
                    tracing::error!(error = %format_args!("{error:#}"), "the cluster's id cannot be noted");
                }
            }
            this.0.is_writing.store(false, Ordering::Release);
        });
    }

    fn has_same_list(&self, said: &Introduction) -> bool {
        let list = &self.0.list;
        list.len() == said.nodes.len()
            && said.nodes.iter().all(|listed| {
                list.get(&listed.node).is_some_and(|at| {
                    !self.0.compares_addresses
                        || at.peer == listed.peer && at.service == listed.service
                })
            })
    }

    /// What this node waits for while it belongs to no cluster; nothing if it does.
    pub(super) fn waits_for(&self, now: BootTime) -> Option<String> {
        if self.is_formed() {
            return None;
        }
        if self.0.joins {
            return Some("waiting to be added to a cluster by `tsoracle cluster add`".into());
        }
        let met = lock(&self.0.met);
        let (mut missing, mut trouble) = (vec![], String::new());
        for (node, at) in self.others() {
            let found = met.get(&node).filter(|met| now.since(met.at) < RECENT);
            let at = &at.peer;
            // Writing to a string cannot fail.
            let _ = match found.map(|met| &met.found) {
                None => {
                    missing.push(format!("node {node} at {at}"));
                    Ok(())
                }
                Some(Found::New) => Ok(()),
                Some(Found::Misses) => write!(
                    trouble,
                    "; node {node} at {at} does not find this node at {}",
                    self.0.list[&self.0.own.node].peer
                ),
                Some(Found::Joins) => {
                    write!(
                        trouble,
                        "; node {node} at {at} was started with join=true, so it forms none"
                    )
                }
                Some(Found::OtherList(list)) => write!(
                    trouble,
                    "; node {node} at {at} has another list of peers, {list}; give all nodes the same one"
                ),
                Some(Found::Belongs) => write!(
                    trouble,
                    "; node {node} at {at} belongs to a cluster already, of which this directory is no \
                     member, so none is formed beside it: if this node is to join that cluster, start it \
                     with join=true under an id that was never used, and have it added by `tsoracle \
                     cluster add`"
                ),
            };
        }
        let missing = match missing.is_empty() {
            true => "the other nodes".into(),
            false => missing.join(" and "),
        };
        Some(format!("waiting for {missing} to form the cluster, which takes all nodes{trouble}"))
    }

    /// Logs what this node waits for, whenever that is another thing.
    pub(super) fn log(&self, now: BootTime) {
        let Some(waits_for) = self.waits_for(now) else { return };
        let mut logged = lock(&self.0.logged);
        if *logged != waits_for {
            tracing::warn!("no cluster yet: {waits_for}");
            *logged = waits_for;
        }
    }
}

/// The cluster that a node says to belong to.
fn belongs_to(said: &Introduction) -> Option<Formed> {
    let id = <[u8; 16]>::try_from(&said.cluster_id[..]).ok()?;
    let nodes = said.nodes.iter().map(|listed| {
        let at = Addresses { peer: listed.peer.clone(), service: listed.service.clone() };
        (listed.node, at)
    });
    Some(Formed {
        id: ClusterId(u128::from_be_bytes(id)),
        is_provisional: said.is_provisional,
        nodes: nodes.collect(),
    })
}

fn describe(said: &Introduction) -> String {
    let nodes = said.nodes.iter().take(8);
    let nodes = nodes.map(|listed| format!("{}={}/{}", listed.node, listed.peer, listed.service));
    nodes.collect::<Vec<_>>().join(",").chars().take(300).collect()
}

fn no_member(node: u32, directory: Directory) -> Refused {
    match directory {
        Directory::Removed => {
            refused(Reason::Removed, format!("node {node} was removed from this cluster"))
        }
        Directory::Other => refused(
            Reason::NotAMember,
            format!(
                "node {node} has another directory than the one it had when it joined: it was wiped or \
                 replaced; remove node {node} from the cluster, and add it under a new id"
            ),
        ),
        _ => refused(Reason::NotAMember, format!("node {node} is no member of this cluster")),
    }
}

fn refused(reason: Reason, log: String) -> Refused {
    Refused { reason, knows_cluster: false, log }
}
