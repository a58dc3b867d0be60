//! Peers over gRPC: one stream to each, with messages, calls, and the answers to them.

mod callers;
mod clocks;
mod connection;
mod connections;
mod disowned;
mod formation;
#[cfg(test)]
mod formation_test;
mod frame;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod handler;
mod meeting;
mod peer;
pub(crate) mod peer_ids;
mod presence;
mod secret;
mod server;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use bytes::Bytes;
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};
use tsoracle_core::{Clock as _, Error, ErrorKind, Refusals, Result, SystemClock, supervised};

use self::{
    callers::Callers, clocks::PeerClocks, disowned::Disowned, formation::Formation,
    frame::Envelope, peer::Peer, presence::Presence,
};
use crate::{Cluster, Identity};

pub use connections::Connections;
pub use frame::{MAX_BODY_BYTES, VERSION};
pub use handler::{Handler, Sender};
pub use peer_ids::{KnownId, PeerIds, Remember};
pub use secret::Secret;

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("tsoracle.peer.v1");
}

/// The connections to the peers, and from them. Cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    envelope: Envelope,
    formation: Formation,
    presence: Presence,
    clocks: PeerClocks,
    cluster: Cluster,
    peers: Mutex<BTreeMap<u32, Arc<Peer>>>,
    listener: Mutex<Option<TcpListener>>,
    local_addr: SocketAddr,
    handler: Mutex<Option<Arc<dyn Handler>>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
    forming: Mutex<Option<JoinHandle<()>>>,
    /// Where the tasks of the transport run, whichever thread sends.
    runtime: Handle,
    stop: watch::Sender<bool>,
    refusals: Refusals,
    callers: Arc<Callers>,
    /// How many sessions each peer has begun that stand.
    sessions: Mutex<BTreeMap<u32, usize>>,
}

impl Transport {
    /// Listens for peers, and knows those of the config. No peer is answered before
    /// [`serve`](Connections::serve). All its tasks run on the runtime that this is called on.
    ///
    /// # Errors
    /// `Config` if the address cannot be listened on, or the certificates are of no use.
    pub async fn open(cluster: &Cluster, identity: &Identity, ids: PeerIds) -> Result<Self> {
        let unusable = |source| {
            let context = format!("cannot listen for peers on {}", cluster.listen);
            Error::new(ErrorKind::Config, context).with_source(source)
        };
        let listener = TcpListener::bind(&cluster.listen).await.map_err(unusable)?;
        let local_addr = listener.local_addr().map_err(unusable)?;
        let formation = Formation::new(cluster, identity, ids.clone());
        let transport = Self(Arc::new(Inner {
            formation,
            presence: Presence::default(),
            clocks: PeerClocks::default(),
            envelope: Envelope {
                cluster: cluster.name.clone(),
                node: identity.node(),
                id: identity.id(),
                ids,
                disowned: Disowned::default(),
            },
            cluster: cluster.clone(),
            peers: Mutex::default(),
            listener: Mutex::new(Some(listener)),
            local_addr,
            handler: Mutex::default(),
            accepting: Mutex::default(),
            forming: Mutex::default(),
            runtime: Handle::current(),
            stop: watch::Sender::new(false),
            refusals: Refusals::default(),
            callers: Arc::new(Callers::new(cluster.callers.0, cluster.callers.1)),
            sessions: Mutex::default(),
        }));
        for (&node, addresses) in &cluster.members {
            if node != cluster.node {
                transport.set_peer(node, &addresses.peer)?;
            }
        }
        Ok(transport)
    }

    /// Sends a message to `to`, after all those sent before. If there is no session at the moment, or
    /// it is full, the message is dropped, and [`Handler::connected`] tells when there is one again.
    /// Never waits.
    pub fn send(&self, to: u32, body: impl Into<Bytes>) {
        let frame = match self.0.envelope.wrap(to, 0, body.into()) {
            Ok(frame) => frame,
            Err(error) => {
                return tracing::error!(error = %format_args!("{error:#}"), "a message is dropped");
            }
        };
        if let Ok(peer) = self.0.peer(to) {
            peer.send(&self.0, frame);
        }
    }
}

/// How often a node that belongs to no cluster looks what it waits for, and logs it; the first time after a
/// little longer, since others may be about to start.
const LOOK: Duration = Duration::from_millis(500);

/// Calls the nodes that a cluster is to be formed with, until it is.
async fn form(inner: Arc<Inner>) {
    let (mut stop, mut formed) = (inner.stop.subscribe(), inner.formation.subscribe());
    if inner.formation.is_formed() {
        return;
    }
    if !inner.formation.joins() {
        for (node, _) in inner.formation.others() {
            if let Ok(peer) = inner.peer(node) {
                peer.keep_session(&inner);
            }
        }
    }
    loop {
        tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            _ = formed.wait_for(Option::is_some) => return,
            () = SystemClock.sleep(LOOK) => inner.formation.log(SystemClock.now().boot),
        }
    }
}

impl Inner {
    /// Runs a task without which this node would seem to be well, and not be: if it panics, the node fails.
    fn spawn(
        self: &Arc<Self>,
        task: &'static str,
        work: impl Future<Output = ()> + Send + 'static,
    ) -> JoinHandle<()> {
        let inner = self.clone();
        self.runtime.spawn(async move {
            if let Err(error) = supervised(task, work).await {
                inner.envelope.disowned.fail(error);
            }
        })
    }

    /// Whether to listen to `sender`.
    fn admit(&self, handler: &dyn Handler, sender: Sender) -> Result<()> {
        handler.admit(sender)?;
        self.envelope.ids.admit(sender)
    }

    fn handler(&self) -> Result<Arc<dyn Handler>> {
        let handler = lock(&self.handler).clone();
        handler.ok_or_else(|| Error::new(ErrorKind::Unavailable, "this node is not up"))
    }

    fn peer(&self, node: u32) -> Result<Arc<Peer>> {
        lock(&self.peers).get(&node).cloned().ok_or_else(|| {
            Error::new(ErrorKind::Unavailable, format!("the address of peer {node} is not known"))
        })
    }

    /// Node `node` has told what its wall clock shows.
    fn note_clock(&self, node: u32, wall_ms: u64) {
        self.clocks.note(node, wall_ms, SystemClock.now().boot);
    }

    /// Logs why a message was refused, unless that was logged lately.
    fn refuse(&self, reason: &str) {
        if let Some((reason, left_out)) = self.refusals.to_log(reason, SystemClock.now().boot) {
            tracing::warn!(reason, left_out, "a message on the peer port is refused");
        }
    }
}

impl fmt::Debug for Transport {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Transport").field("local_addr", &self.0.local_addr).finish_non_exhaustive()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod proof_test;
#[cfg(test)]
mod transport_test;
