use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use tokio::sync::watch;
use tsoracle_core::{Effect, Error, ErrorKind, NodeId, Result};
use tsoracle_store::{Store, Table};

use super::{Sender, lock, proto::PeerId};
use crate::{Identity, StoreThread};

const PEERS: Table = Table::new("peers");

/// Ids that are known, at most. More nodes than that have never been in one cluster.
const MOST: usize = 4_096;

/// What follows the id of a node that was removed.
const REMOVED: u8 = 1;

/// The id of a directory that is not known, of a node that was removed.
const UNKNOWN: NodeId = NodeId(0);

/// Makes writes that are durable once the future is. A store that fails stops the node.
pub type Remember =
    Box<dyn Fn(Vec<(Table, Effect)>) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// By which id each node is known, for good. A node that comes back with another one has lost its log,
/// and with it what it had promised: to listen to it could lose what was acknowledged. Cheap to clone.
///
/// Only what nodes of this cluster say is known: it is they that know the id of the cluster.
#[derive(Clone)]
pub struct PeerIds(Arc<Inner>);

struct Inner {
    own: Sender,
    known: Mutex<Known>,
    /// How often nodes were removed.
    removals: watch::Sender<u64>,
    remember: Remember,
}

struct Known {
    ids: BTreeMap<u32, Id>,
    /// Rises with each id that has become durable.
    revision: u64,
    /// The nodes of the cluster as it was last changed, as far as this node knows.
    members: BTreeSet<u32>,
}

/// The id of a directory.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct KnownId {
    /// The id that the directory drew when it was made.
    pub id: NodeId,
    /// Its node was a member, and is none any more.
    pub is_removed: bool,
}

#[derive(Clone, Copy)]
struct Id {
    known: KnownId,
    is_durable: bool,
}

/// What is known of the directory that a node comes with.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum Directory {
    /// The node has this one.
    Its,
    /// The node had this one, as far as is known, and was removed.
    Removed,
    /// The node has another one.
    Other,
    /// Nothing.
    Unknown,
}

impl PeerIds {
    /// Those that a store holds.
    ///
    /// # Errors
    /// `Corrupt` if they cannot be read, and those of the store.
    pub fn stored(store: &Store) -> Result<BTreeMap<u32, KnownId>> {
        let entries = store.entries(PEERS, &[], &[u8::MAX; 5], usize::MAX)?;
        let known = entries.into_iter().map(|(node, id)| {
            let node = u32::from_be_bytes(node.try_into().ok()?);
            let (id, removed) = id.split_first_chunk::<16>()?;
            let id = NodeId(u128::from_be_bytes(*id));
            let is_removed = match removed {
                [] => false,
                [REMOVED] => true,
                _ => return None,
            };
            Some((node, KnownId { id, is_removed }))
        });
        known.collect::<Option<_>>().ok_or_else(|| {
            let context = "the ids of the other nodes cannot be read; restore this node";
            Error::new(ErrorKind::Corrupt, context)
        })
    }

    /// What a node knows that has `stored` those ids, and remembers more with `remember`.
    pub fn new(own: Sender, stored: BTreeMap<u32, KnownId>, remember: Remember) -> Self {
        let ids = stored.into_iter().map(|(node, known)| (node, Id { known, is_durable: true }));
        let known = Known { ids: ids.collect(), revision: 1, members: BTreeSet::new() };
        let removals = watch::Sender::default();
        Self(Arc::new(Inner { own, known: Mutex::new(known), removals, remember }))
    }

    /// As [`new`](Self::new), of the node of that identity, with a thread that makes the writes.
    pub fn remembered_by(
        thread: &StoreThread,
        identity: &Identity,
        stored: BTreeMap<u32, KnownId>,
    ) -> Self {
        let own = Sender { node: identity.node(), id: identity.id() };
        let thread = thread.clone();
        Self::new(own, stored, Box::new(move |writes| thread.write(writes).boxed()))
    }

    /// By which id `node` is known durably, and is a member.
    pub(super) fn get(&self, node: u32) -> Option<NodeId> {
        let known = lock(&self.0.known).ids.get(&node).copied();
        let known = known.filter(|known| known.is_durable && !known.known.is_removed);
        known.map(|known| known.known.id)
    }

    /// What is known of the directory of `sender`.
    pub(super) fn directory(&self, sender: Sender) -> Directory {
        match lock(&self.0.known).ids.get(&sender.node) {
            None => Directory::Unknown,
            Some(Id { known, .. }) if known.is_removed && known.id == UNKNOWN => Directory::Removed,
            Some(Id { known, .. }) if known.id != sender.id => Directory::Other,
            Some(Id { known, .. }) if known.is_removed => Directory::Removed,
            Some(Id { is_durable: false, .. }) => Directory::Unknown,
            Some(_) => Directory::Its,
        }
    }

    /// Whether to listen to `sender`, a node of this cluster: not before its id is remembered durably.
    pub(super) fn admit(&self, sender: Sender) -> Result<()> {
        let node = sender.node;
        match self.directory(sender) {
            Directory::Its => Ok(()),
            Directory::Other | Directory::Removed => {
                let context = format!(
                    "node {node} has another directory than the one it had when it joined, or was \
                     removed; remove node {node} from the cluster, and add it under a new id"
                );
                Err(Error::new(ErrorKind::Config, context))
            }
            Directory::Unknown => {
                self.learn_one(node, sender.id);
                let context = format!("node {node} is not known yet; it will be at once");
                Err(Error::new(ErrorKind::Unavailable, context))
            }
        }
    }

    /// Notes what another node of this cluster knows. What is known of a member already stays.
    pub(super) fn learn(&self, known: Vec<PeerId>) {
        for (node, id) in known.iter().filter_map(PeerId::read) {
            self.learn_one(node, id);
        }
    }

    fn learn_one(&self, node: u32, id: NodeId) {
        {
            let Known { ids, .. } = &mut *lock(&self.0.known);
            let stays =
                ids.get(&node).is_some_and(|old| !old.known.is_removed || old.known.id == id);
            if node == self.0.own.node || stays || ids.len() >= MOST {
                return;
            }
            ids.insert(node, Id { known: KnownId { id, is_removed: false }, is_durable: false });
        }
        let this = self.clone();
        let remembered = (self.0.remember)(vec![note(node, id)]);
        tokio::spawn(async move {
            if remembered.await.is_ok() {
                this.have([(node, id)]);
            }
        });
    }

    /// Has the node known by that id from now on, durably, together with `writes`.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn remember(
        &self,
        ids: Vec<(u32, NodeId)>,
        writes: Vec<(Table, Effect)>,
    ) -> Result<()> {
        let notes = ids.iter().map(|&(node, id)| note(node, id));
        (self.0.remember)(writes.into_iter().chain(notes).collect()).await?;
        self.have(ids);
        Ok(())
    }

    /// These ids are durable.
    fn have(&self, ids: impl IntoIterator<Item = (u32, NodeId)>) {
        let mut known = lock(&self.0.known);
        for (node, id) in ids {
            known
                .ids
                .insert(node, Id { known: KnownId { id, is_removed: false }, is_durable: true });
        }
        known.revision += 1;
    }

    /// The cluster was changed, has these nodes now, and had the others before. Returns those that were not known to
    /// be removed.
    pub(super) fn set_members(&self, members: BTreeSet<u32>, removed: BTreeSet<u32>) -> Vec<u32> {
        let removed: Vec<_> = {
            let Known { ids, members: known, .. } = &mut *lock(&self.0.known);
            *known = members;
            let unknown =
                Id { known: KnownId { id: UNKNOWN, is_removed: false }, is_durable: true };
            let removed = removed.into_iter().filter(|node| *node != self.0.own.node);
            let removed = removed.filter_map(|node| {
                let KnownId { id, is_removed } = &mut ids.entry(node).or_insert(unknown).known;
                (!std::mem::replace(is_removed, true)).then_some((node, *id))
            });
            removed.collect()
        };
        if removed.is_empty() {
            return vec![];
        }
        let notes = removed.iter().map(|(node, id)| {
            let mut effect = Effect::default();
            effect.put(node.to_be_bytes(), [&id.0.to_be_bytes()[..], &[REMOVED]].concat());
            (PEERS, effect)
        });
        // A store that fails stops the node.
        tokio::spawn((self.0.remember)(notes.collect()));
        self.0.removals.send_modify(|removals| *removals += 1);
        removed.into_iter().map(|(node, _)| node).collect()
    }

    /// Returns once `sender` was removed.
    pub(super) async fn removed(&self, sender: Sender) {
        let mut removals = self.0.removals.subscribe();
        while self.directory(sender) != Directory::Removed {
            // The sender is in `self`.
            let _ = removals.changed().await;
        }
    }

    /// Whether that node was a member once, and was removed.
    pub(super) fn was_removed(&self, node: u32) -> bool {
        lock(&self.0.known).ids.get(&node).is_some_and(|id| id.known.is_removed)
    }

    /// Forgets a node that was not added after all.
    ///
    /// # Errors
    /// Those of the store.
    pub(super) async fn forget(&self, node: u32) -> Result<()> {
        lock(&self.0.known).ids.remove(&node);
        let mut effect = Effect::default();
        effect.delete(node.to_be_bytes());
        (self.0.remember)(vec![(PEERS, effect)]).await
    }

    /// What this node knows durably, itself included, with its revision; nothing if that is `sent`.
    pub(super) fn news(&self, sent: u64) -> Option<(Vec<PeerId>, u64)> {
        let known = lock(&self.0.known);
        if known.revision == sent {
            return None;
        }
        let members = known.ids.iter().filter(|(_, id)| id.is_durable && !id.known.is_removed);
        let all = members.map(|(&node, id)| (node, id.known.id));
        let all = all.chain([(self.0.own.node, self.0.own.id)]);
        let id = |id: NodeId| Bytes::copy_from_slice(&id.0.to_be_bytes());
        let all = all.map(|(node, known)| PeerId { node, id: id(known) });
        Some((all.collect(), known.revision))
    }
}

impl PeerId {
    /// Whose directory has which id, if this can be read.
    pub(super) fn read(&self) -> Option<(u32, NodeId)> {
        let id = <[u8; 16]>::try_from(&self.id[..]).ok()?;
        Some((self.node, NodeId(u128::from_be_bytes(id))))
    }
}

/// The write that remembers by which id `node` is known.
fn note(node: u32, id: NodeId) -> (Table, Effect) {
    let mut effect = Effect::default();
    effect.put(node.to_be_bytes(), id.0.to_be_bytes());
    (PEERS, effect)
}

/// Remembers nothing beyond the process.
#[cfg(test)]
pub(super) fn remember() -> Remember {
    Box::new(|_| Box::pin(async { Ok(()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Sender = Sender { node: 1, id: NodeId(11) };

    fn known(id: u128) -> KnownId {
        KnownId { id: NodeId(id), is_removed: false }
    }

    #[tokio::test]
    async fn a_node_is_listened_to_once_its_id_is_remembered_and_under_no_other() {
        let ids = PeerIds::new(OWN, [(2, known(22))].into(), remember());
        ids.admit(Sender { node: 2, id: NodeId(22) }).unwrap();
        let wiped = ids.admit(Sender { node: 2, id: NodeId(99) }).unwrap_err();
        assert_eq!(*wiped.kind(), ErrorKind::Config);
        let new = Sender { node: 3, id: NodeId(33) };
        assert_eq!(*ids.admit(new).unwrap_err().kind(), ErrorKind::Unavailable);
        while ids.get(3).is_none() {
            tokio::task::yield_now().await;
        }
        ids.admit(new).unwrap();
    }

    #[tokio::test]
    async fn what_one_knows_is_learned_by_another_and_sent_once() {
        let (one, two) = (
            PeerIds::new(OWN, [(3, known(33))].into(), remember()),
            PeerIds::new(Sender { node: 2, id: NodeId(22) }, [(3, known(30))].into(), remember()),
        );
        let (known, revision) = one.news(0).unwrap();
        assert_eq!(one.news(revision), None);
        two.learn(known);
        while two.get(1).is_none() {
            tokio::task::yield_now().await;
        }
        // What is known already stays.
        assert_eq!((two.get(1), two.get(3)), (Some(NodeId(11)), Some(NodeId(30))));
        assert_eq!(two.news(1).unwrap().0.len(), 3);
    }

    #[test]
    fn ids_are_read_from_the_store_as_written() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path(), Default::default()).unwrap();
        let mut removed = Effect::default();
        removed.put(8_u32.to_be_bytes(), [&80_u128.to_be_bytes()[..], &[REMOVED]].concat());
        store.write([note(7, NodeId(70)), note(300, NodeId(3)), (PEERS, removed)]).unwrap();
        let stored = PeerIds::stored(&store).unwrap();
        let gone = KnownId { id: NodeId(80), is_removed: true };
        assert_eq!(stored, [(7, known(70)), (8, gone), (300, known(3))].into());
    }

    #[tokio::test]
    async fn a_removed_node_stays_known_as_such_until_it_comes_back_with_another_directory() {
        let ids = PeerIds::new(OWN, [(2, known(22)), (3, known(33))].into(), remember());
        let removed = Sender { node: 3, id: NodeId(33) };
        ids.set_members([1, 2, 3].into(), [].into());
        assert_eq!(ids.directory(removed), Directory::Its);
        assert_eq!(ids.set_members([1, 2].into(), [3].into()), [3]);
        assert_eq!(ids.set_members([1, 2].into(), [3].into()), []);
        assert_eq!((ids.directory(removed), ids.get(3)), (Directory::Removed, None));
        ids.learn_one(3, NodeId(33));
        assert_eq!(ids.directory(removed), Directory::Removed);
        ids.remember(vec![(3, NodeId(34))], vec![]).await.unwrap();
        assert_eq!(ids.directory(removed), Directory::Other);
        assert_eq!(ids.get(3), Some(NodeId(34)));
    }
}
