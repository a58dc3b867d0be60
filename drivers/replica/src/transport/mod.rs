//! Peers over gRPC: one stream to each, with messages, calls, and the answers to them.

mod callers;
mod connection;
mod disowned;
mod frame;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod peer;
pub(crate) mod peer_ids;
mod refusals;
mod secret;
mod server;

use std::{
    collections::BTreeMap,
    fmt,
    net::SocketAddr,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use tokio::{net::TcpListener, runtime::Handle, sync::watch, task::JoinHandle};
use tsoracle_core::{Clock as _, Error, ErrorKind, NodeId, Result, SystemClock};

use self::{
    callers::Callers, disowned::Disowned, frame::Envelope, peer::Peer, proto::Failure,
    refusals::Refusals,
};
use crate::{Cluster, Identity};

pub use frame::{MAX_BODY_BYTES, VERSION};
pub use peer_ids::{PeerIds, Remember, note};
pub use secret::Secret;

/// The generated messages, client and server.
#[allow(missing_docs, unreachable_pub, clippy::all)]
mod proto {
    tonic::include_proto!("tsoracle.peer.v1");
}

/// Who has sent a message.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Sender {
    /// Its place in the cluster.
    pub node: u32,
    /// The id of its directory: another one under the same number is another, wiped node.
    pub id: NodeId,
}

/// How a driver answers its peers.
#[async_trait]
pub trait Handler: Send + Sync + 'static {
    /// Whether to listen to `sender`, as far as the driver knows: by which id it is known is checked
    /// besides. Asked for every call, answer, and new session.
    ///
    /// # Errors
    /// The reason why not: `Config` if that will not change by itself. The other side gets it.
    fn admit(&self, sender: Sender) -> Result<()>;

    /// Answers a call. It runs in a task of its own, to its end, even if the caller gives up.
    ///
    /// # Errors
    /// The caller gets `Config` as such, anything else as `Unavailable`.
    async fn call(&self, sender: Sender, kind: u32, body: Bytes) -> Result<Bytes>;

    /// Takes a message from `sender`. Nothing more of it is read before this is done.
    async fn received(&self, sender: Sender, body: Bytes);

    /// The session with `peer` stands, for the first time or again. What was sent since it broke, or
    /// shortly before, is lost.
    fn connected(&self, peer: u32);

    /// No session that `peer` has begun stands any more: what it was about to bring comes no more.
    fn disconnected(&self, _peer: u32) {}

    /// The peer address of `node`, if it is a member that the driver knows of besides those of the config.
    fn address(&self, _node: u32) -> Option<String> {
        None
    }
}

/// What a driver does with the connections of its node: a [`Transport`] does it over gRPC, and a simulation in
/// its own way. Each method is as that of the transport.
#[allow(missing_docs, reason = "the transport's methods say it")]
#[async_trait]
pub trait Connections: fmt::Debug + Send + Sync + 'static {
    fn serve(&self, handler: Arc<dyn Handler>);
    fn set_peer(&self, node: u32, address: &str) -> Result<()>;
    fn disowned(&self) -> watch::Receiver<Option<String>>;
    fn local_addr(&self) -> SocketAddr;
    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes>;
    async fn shutdown(&self);
}

#[async_trait]
impl Connections for Transport {
    fn serve(&self, handler: Arc<dyn Handler>) {
        self.serve(handler);
    }

    fn set_peer(&self, node: u32, address: &str) -> Result<()> {
        self.set_peer(node, address)
    }

    fn disowned(&self) -> watch::Receiver<Option<String>> {
        self.disowned()
    }

    fn local_addr(&self) -> SocketAddr {
        self.local_addr()
    }

    async fn call(&self, to: u32, kind: u32, body: Bytes, deadline: Duration) -> Result<Bytes> {
        self.call(to, kind, body, deadline).await
    }

    async fn shutdown(&self) {
        self.shutdown().await;
    }
}

/// The connections to the peers, and from them. Cheap to clone.
#[derive(Clone)]
pub struct Transport(Arc<Inner>);

struct Inner {
    envelope: Envelope,
    cluster: Cluster,
    peers: Mutex<BTreeMap<u32, Arc<Peer>>>,
    listener: Mutex<Option<TcpListener>>,
    local_addr: SocketAddr,
    handler: Mutex<Option<Arc<dyn Handler>>>,
    accepting: Mutex<Option<JoinHandle<()>>>,
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
    /// [`serve`](Self::serve). All its tasks run on the runtime that this is called on.
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
        let transport = Self(Arc::new(Inner {
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

    /// Begins to answer peers, with `handler`.
    pub fn serve(&self, handler: Arc<dyn Handler>) {
        *lock(&self.0.handler) = Some(handler);
        if let Some(listener) = lock(&self.0.listener).take() {
            let accepting = self.0.runtime.spawn(server::accept(self.0.clone(), listener));
            *lock(&self.0.accepting) = Some(accepting);
        }
    }

    /// The address really bound.
    pub fn local_addr(&self) -> SocketAddr {
        self.0.local_addr
    }

    /// Where `node` is from now on. That it is there already is no change.
    ///
    /// # Errors
    /// `Config` if the address cannot be used, or may not be spoken to in plaintext.
    pub fn set_peer(&self, node: u32, address: &str) -> Result<()> {
        let mut peers = lock(&self.0.peers);
        if peers.get(&node).is_some_and(|peer| peer.address() == address) {
            return Ok(());
        }
        self.0.cluster.allow(address)?;
        let peer = Peer::new(node, address, &self.0.cluster)?;
        peers.insert(node, Arc::new(peer));
        self.0.envelope.disowned.note_member(node);
        Ok(())
    }

    /// Why the members that knew this node under another id refuse it, once a majority does: this node was
    /// wiped, and must not take part as if it had not been.
    pub fn disowned(&self) -> watch::Receiver<Option<String>> {
        self.0.envelope.disowned.subscribe()
    }

    /// Asks `to`, and waits for its answer, for `deadline` at most.
    ///
    /// # Errors
    /// `Unavailable` if there was none; the call may have been heard all the same. `Config` if one
    /// side refuses the other: another cluster or format, or a node that was wiped. `Invalid` if the
    /// body is too large.
    pub async fn call(
        &self,
        to: u32,
        kind: u32,
        body: impl Into<Bytes>,
        deadline: Duration,
    ) -> Result<Bytes> {
        let frame = self.0.envelope.wrap(to, kind, body.into())?;
        let peer = self.0.peer(to)?;
        let handler = self.0.handler()?;
        let mut answer = peer.call(&self.0, frame, deadline).await?;
        let failure = answer.failure.take();
        let (sender, body) = self.0.envelope.open(answer).map_err(|reason| {
            Error::new(ErrorKind::Config, format!("the answer of peer {to} is refused: {reason}"))
        })?;
        self.0.admit(&*handler, sender)?;
        match failure {
            None => Ok(body),
            Some(Failure { reason, is_lasting }) => Err(peer.refused(&reason, is_lasting)),
        }
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

    /// Stops listening and speaking. Afterwards the address is free again, and the handler is not
    /// called any more, but for calls that it has not answered yet.
    pub async fn shutdown(&self) {
        self.0.stop.send_replace(true);
        lock(&self.0.handler).take();
        lock(&self.0.listener).take();
        lock(&self.0.peers).clear();
        let accepting = lock(&self.0.accepting).take();
        if let Some(accepting) = accepting {
            let _ = accepting.await;
        }
    }
}

impl Inner {
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

    /// Logs why a message was refused, unless that was logged lately.
    fn refuse(&self, reason: &str) {
        self.refusals.log(reason, SystemClock.now().boot);
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
