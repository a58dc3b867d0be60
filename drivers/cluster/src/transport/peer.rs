use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use futures::{StreamExt as _, stream};
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

use super::{
    Inner,
    frame::MAX_FRAME_BYTES,
    lock,
    proto::{Frame, peer_client::PeerClient},
};
use crate::PeerTls;

/// A peer on a LAN is there at once, or not.
const CONNECT: Duration = Duration::from_millis(500);

/// After how long a silent connection is tested, and then given up: a packet that is lost on the way
/// back from a partition must not keep a connection stuck for TCP's own, growing pauses.
const KEEPALIVE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));

/// How long a new stream may take to be accepted.
const ACCEPTED: Duration = Duration::from_secs(1);

/// First and longest pause before a stream is opened again.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(200));

/// Messages that wait for a peer, at most, and their bytes.
const QUEUE: usize = 1_024;
const QUEUE_BYTES: usize = 64 << 20;

/// The way to one peer at one address.
pub(super) struct Peer {
    node: u32,
    address: String,
    client: PeerClient<Channel>,
    /// The stream, while it stands.
    session: Mutex<Option<mpsc::Sender<Queued>>>,
    bytes: Arc<Semaphore>,
    is_streaming: AtomicBool,
    overflow: Notify,
    /// Why it cannot be reached, if it cannot: said once.
    trouble: Mutex<Option<String>>,
}

type Queued = (Frame, OwnedSemaphorePermit);

impl Peer {
    pub(super) fn new(node: u32, address: &str, tls: Option<&PeerTls>) -> Result<Self> {
        let unusable = |source| {
            let context = format!("peer {node} cannot be spoken to at {address}");
            Error::new(ErrorKind::Config, context).with_source(source)
        };
        let scheme = if tls.is_some() { "https" } else { "http" };
        let mut endpoint = Endpoint::from_shared(format!("{scheme}://{address}"))
            .map_err(unusable)?
            .connect_timeout(CONNECT)
            .tcp_nodelay(true)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        if let Some(tls) = tls {
            endpoint = endpoint.tls_config(tls.client()).map_err(unusable)?;
        }
        let client = PeerClient::new(endpoint.connect_lazy())
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        Ok(Self {
            node,
            address: address.into(),
            client,
            session: Mutex::default(),
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            is_streaming: AtomicBool::new(false),
            overflow: Notify::new(),
            trouble: Mutex::default(),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    pub(super) async fn call(&self, frame: Frame, deadline: Duration) -> Result<Frame> {
        let mut client = self.client.clone();
        match timeout(deadline, client.call(frame)).await {
            Ok(Ok(answer)) => {
                self.reached();
                Ok(answer.into_inner())
            }
            Ok(Err(status)) => Err(self.failed(&status)),
            Err(_) => {
                let status = Status::deadline_exceeded(format!("no answer within {deadline:?}"));
                Err(self.failed(&status))
            }
        }
    }

    pub(super) fn send(self: &Arc<Self>, transport: &Arc<Inner>, frame: Frame) {
        if !self.is_streaming.swap(true, Ordering::Relaxed) {
            tokio::spawn(keep_streaming(self.clone(), transport.clone()));
        }
        let mut session = lock(&self.session);
        let Some(queue) = &*session else { return };
        let size = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
        let permit = self.bytes.clone().try_acquire_many_owned(size);
        let queued = permit.ok().and_then(|permit| queue.try_send((frame, permit)).ok());
        if queued.is_none() {
            // With a gap in it, the stream is broken: the other side must be told by a new one.
            *session = None;
            self.overflow.notify_one();
        }
    }

    fn reached(&self) {
        if lock(&self.trouble).take().is_some() {
            tracing::info!(peer = self.node, address = self.address, "the peer is there again");
        }
    }

    fn failed(&self, status: &Status) -> Error {
        let (node, address) = (self.node, &self.address);
        let kind = match status.code() {
            Code::FailedPrecondition => ErrorKind::Config,
            _ => ErrorKind::Unavailable,
        };
        let reason = status.message();
        let mut trouble = lock(&self.trouble);
        // A call that takes too long says nothing new of a peer that cannot be reached.
        let is_news = match &*trouble {
            None => true,
            Some(known) => kind == ErrorKind::Config && known != reason,
        };
        if is_news {
            tracing::warn!(peer = node, address, reason, "the peer does not answer");
            *trouble = Some(reason.into());
        }
        Error::new(kind, format!("peer {node} at {address}: {reason}"))
    }
}

/// Opens the stream again and again, until the peer is forgotten or the transport stops.
async fn keep_streaming(peer: Arc<Peer>, transport: Arc<Inner>) {
    let mut stop = transport.stop.subscribe();
    let mut pause = BACKOFF.0;
    while !*stop.borrow() && is_current(&peer, &transport) {
        // In a task of its own, so that a panic of the handler ends only this attempt.
        let session = tokio::spawn(stream_once(peer.clone(), transport.clone()));
        let abort = session.abort_handle();
        let stood = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {
                abort.abort();
                false
            }
            ended = session => ended.unwrap_or(false),
        };
        *lock(&peer.session) = None;
        pause = if stood { BACKOFF.0 } else { (pause * 2).min(BACKOFF.1) };
        SystemClock.sleep(pause).await;
    }
}

fn is_current(peer: &Arc<Peer>, transport: &Inner) -> bool {
    lock(&transport.peers).get(&peer.node).is_some_and(|known| Arc::ptr_eq(known, peer))
}

/// Opens a stream, and returns when it has ended, with whether it ever stood.
async fn stream_once(peer: Arc<Peer>, transport: Arc<Inner>) -> bool {
    let Ok(handler) = transport.handler() else { return false };
    let Ok(hello) = transport.envelope.wrap(peer.node, 0, Bytes::new()) else { return false };
    let (queue, queued) = mpsc::channel::<Queued>(QUEUE);
    let messages = ReceiverStream::new(queued).map(|(frame, _permit)| frame);
    let messages = stream::iter([hello]).chain(messages);
    let mut client = peer.client.clone();
    let mut ended = match timeout(ACCEPTED, client.stream(messages)).await {
        Ok(Ok(response)) => response.into_inner(),
        Ok(Err(status)) => {
            peer.failed(&status);
            return false;
        }
        Err(_) => {
            peer.failed(&Status::deadline_exceeded(format!("no stream within {ACCEPTED:?}")));
            return false;
        }
    };
    peer.reached();
    *lock(&peer.session) = Some(queue);
    handler.connected(peer.node);
    let gone = async {
        while is_current(&peer, &transport) {
            SystemClock.sleep(KEEPALIVE.0).await;
        }
    };
    tokio::select! {
        outcome = ended.message() => {
            let reason = outcome.err().map(|status| status.message().to_owned());
            tracing::debug!(peer = peer.node, reason, "the stream has ended");
        }
        () = peer.overflow.notified() => {
            tracing::warn!(peer = peer.node, "the peer is too slow; messages are dropped");
        }
        () = gone => {}
    }
    true
}
