use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use futures::future::{BoxFuture, FutureExt as _};
use tsoracle_core::{Effect, Error, ErrorKind, NodeId, Result};
use tsoracle_store::{Store, Table};

use super::{Sender, lock, proto::PeerId};
use crate::{Identity, StoreThread};

const PEERS: Table = Table::new("peers");

/// Ids that are known, at most. More nodes than that have never been in one cluster.
const MOST: usize = 4_096;

/// Remembers durably by which id a node is known. A store that fails stops the node.
pub type Remember = Box<dyn Fn(u32, NodeId) -> BoxFuture<'static, Result<()>> + Send + Sync>;

/// By which id each node is known, for good. A node that comes back with another one has lost its log,
/// and with it what it had promised: to listen to it could lose what was acknowledged. Cheap to clone.
#[derive(Clone)]
pub struct PeerIds(Arc<Inner>);

struct Inner {
    own: Sender,
    known: Mutex<Known>,
    remember: Remember,
}

struct Known {
    ids: BTreeMap<u32, Id>,
    /// Rises with each id that has become durable.
    revision: u64,
}

#[derive(Clone, Copy)]
struct Id {
    id: NodeId,
    is_durable: bool,
}

impl PeerIds {
    /// Those that a store holds.
    ///
    /// # Errors
    /// `Corrupt` if they cannot be read, and those of the store.
    pub fn stored(store: &Store) -> Result<BTreeMap<u32, NodeId>> {
        let entries = store.entries(PEERS, &[], &[u8::MAX; 5], usize::MAX)?;
        let known = entries.into_iter().map(|(node, id)| {
            let node = u32::from_be_bytes(node.try_into().ok()?);
            Some((node, NodeId(u128::from_be_bytes(id.try_into().ok()?))))
        });
        known.collect::<Option<_>>().ok_or_else(|| {
            let context = "the ids of the other nodes cannot be read; restore this node";
            Error::new(ErrorKind::Corrupt, context)
        })
    }

    /// What a node knows that has `stored` those ids, and remembers more with `remember`, which makes
    /// the write of [`note`].
    pub fn new(own: Sender, stored: BTreeMap<u32, NodeId>, remember: Remember) -> Self {
        let ids = stored.into_iter().map(|(node, id)| (node, Id { id, is_durable: true }));
        let known = Mutex::new(Known { ids: ids.collect(), revision: 1 });
        Self(Arc::new(Inner { own, known, remember }))
    }

    /// As [`new`](Self::new), of the node of that identity, with a thread that makes the writes.
    pub fn remembered_by(
        thread: &StoreThread,
        identity: &Identity,
        stored: BTreeMap<u32, NodeId>,
    ) -> Self {
        let own = Sender { node: identity.node(), id: identity.id() };
        let thread = thread.clone();
        let remember = move |node, id| thread.write(vec![note(node, id)]).boxed();
        Self::new(own, stored, Box::new(remember))
    }

    /// By which id `node` is known durably.
    pub(super) fn get(&self, node: u32) -> Option<NodeId> {
        let known = lock(&self.0.known).ids.get(&node).copied();
        known.filter(|known| known.is_durable).map(|known| known.id)
    }

    /// Whether to listen to `sender`: not before its id is remembered durably.
    pub(super) fn admit(&self, sender: Sender) -> Result<()> {
        let Sender { node, id } = sender;
        let known = lock(&self.0.known).ids.get(&node).copied();
        match known {
            Some(known) if known.id == id && known.is_durable => Ok(()),
            Some(known) if known.id != id => {
                let context = format!(
                    "node {node} has another directory than the one it had when it joined: it was \
                     wiped or replaced; remove node {node} from the cluster, and add it under a \
                     new id"
                );
                Err(Error::new(ErrorKind::Config, context))
            }
            _ => {
                self.learn_one(node, id);
                let context = format!("node {node} is not known yet; it will be at once");
                Err(Error::new(ErrorKind::Unavailable, context))
            }
        }
    }

    /// Notes what another node knows. What is known already stays.
    pub(super) fn learn(&self, known: Vec<PeerId>) {
        for PeerId { node, id } in known {
            if let Ok(id) = <[u8; 16]>::try_from(&id[..]) {
                self.learn_one(node, NodeId(u128::from_be_bytes(id)));
            }
        }
    }

    fn learn_one(&self, node: u32, id: NodeId) {
        {
            let Known { ids, .. } = &mut *lock(&self.0.known);
            if node == self.0.own.node || ids.contains_key(&node) || ids.len() >= MOST {
                return;
            }
            ids.insert(node, Id { id, is_durable: false });
        }
        let this = self.clone();
        let remembered = (self.0.remember)(node, id);
        tokio::spawn(async move {
            if remembered.await.is_ok() {
                let mut known = lock(&this.0.known);
                known.ids.insert(node, Id { id, is_durable: true });
                known.revision += 1;
            }
        });
    }

    /// What this node knows durably, itself included, with its revision; nothing if that is `sent`.
    pub(super) fn news(&self, sent: u64) -> Option<(Vec<PeerId>, u64)> {
        let known = lock(&self.0.known);
        if known.revision == sent {
            return None;
        }
        let durable = known.ids.iter().filter(|(_, known)| known.is_durable);
        let all = durable.map(|(&node, known)| (node, known.id));
        let all = all.chain([(self.0.own.node, self.0.own.id)]);
        let id = |id: NodeId| Bytes::copy_from_slice(&id.0.to_be_bytes());
        let all = all.map(|(node, known)| PeerId { node, id: id(known) });
        Some((all.collect(), known.revision))
    }
}

/// The write that remembers by which id `node` is known.
pub fn note(node: u32, id: NodeId) -> (Table, Effect) {
    let mut effect = Effect::default();
    effect.put(node.to_be_bytes(), id.0.to_be_bytes());
    (PEERS, effect)
}

/// Remembers nothing beyond the process.
#[cfg(test)]
pub(super) fn remember() -> Remember {
    Box::new(|_, _| Box::pin(async { Ok(()) }))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OWN: Sender = Sender { node: 1, id: NodeId(11) };

    #[tokio::test]
    async fn a_node_is_listened_to_once_its_id_is_remembered_and_under_no_other() {
        let ids = PeerIds::new(OWN, [(2, NodeId(22))].into(), remember());
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
            PeerIds::new(OWN, [(3, NodeId(33))].into(), remember()),
            PeerIds::new(Sender { node: 2, id: NodeId(22) }, [(3, NodeId(30))].into(), remember()),
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
        store.write([note(7, NodeId(70)), note(300, NodeId(3))]).unwrap();
        let stored = PeerIds::stored(&store).unwrap();
        assert_eq!(stored, [(7, NodeId(70)), (300, NodeId(3))].into());
    }
}
