use std::{
    collections::BTreeMap,
    sync::{Mutex, MutexGuard, PoisonError},
};

use tsoracle_cluster::transport::{Sender, Transport};
use tsoracle_core::{Error, ErrorKind, NodeId, Result};

use crate::keeper::Keeper;

/// By which id each node is known, for good. A node that comes back with another one has lost its log,
/// and with it what it had promised: whoever listened to it could lose what was acknowledged.
#[derive(Debug)]
pub(crate) struct Known {
    ids: Mutex<BTreeMap<u32, Id>>,
    own: Sender,
    keeper: Keeper,
    transport: Transport,
}

#[derive(Clone, Copy, Debug)]
struct Id {
    id: NodeId,
    is_durable: bool,
}

impl Known {
    pub(crate) fn new(
        own: Sender,
        stored: BTreeMap<u32, NodeId>,
        keeper: Keeper,
        transport: Transport,
    ) -> std::sync::Arc<Self> {
        for (&node, &id) in &stored {
            transport.expect(node, id);
        }
        let ids = stored.into_iter().map(|(node, id)| (node, Id { id, is_durable: true }));
        let ids = Mutex::new(ids.collect());
        std::sync::Arc::new(Self { ids, own, keeper, transport })
    }

    /// Whether to listen to `sender`. One that was never heard of is not listened to before it is
    /// written down.
    pub(crate) fn admit(self: &std::sync::Arc<Self>, sender: Sender) -> Result<()> {
        let known = self.ids().get(&sender.node).copied();
        let Sender { node, id } = sender;
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
                self.learn([(node, id.0)]);
                let context = format!("node {node} is not known yet; it will be at once");
                Err(Error::new(ErrorKind::Unavailable, context))
            }
        }
    }

    /// Notes what another node knows. What is known already stays.
    pub(crate) fn learn(self: &std::sync::Arc<Self>, known: impl IntoIterator<Item = (u32, u128)>) {
        for (node, id) in known {
            let id = NodeId(id);
            let mut ids = self.ids();
            if node == self.own.node || ids.contains_key(&node) {
                continue;
            }
            ids.insert(node, Id { id, is_durable: false });
            let this = self.clone();
            tokio::spawn(async move {
                // A store that fails stops the node.
                if this.keeper.know(node, id).await.is_ok() {
                    this.ids().insert(node, Id { id, is_durable: true });
                    this.transport.expect(node, id);
                }
            });
        }
    }

    /// What this node knows for good, itself included.
    pub(crate) fn tell(&self) -> Vec<(u32, u128)> {
        let ids = self.ids();
        let known = ids.iter().filter(|(_, known)| known.is_durable);
        let own = [(self.own.node, self.own.id.0)];
        known.map(|(&node, known)| (node, known.id.0)).chain(own).collect()
    }

    fn ids(&self) -> MutexGuard<'_, BTreeMap<u32, Id>> {
        self.ids.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
