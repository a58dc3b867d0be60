use std::{
    collections::HashMap,
    io,
    sync::{
        Arc, Mutex,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use futures::{StreamExt as _, stream};
use hyper_util::rt::TokioIo;
use tokio::{
    sync::{Notify, OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint, Uri},
};
use tower::service_fn;
use tsoracle_core::{
    BootTime, Clock as _, Error, ErrorKind, Result, SystemClock, Unreached,
    series::{self, Gauge},
    shortened,
};

use super::{
    Inner, connection,
    formation::Meeting,
    frame::{MAX_FRAME_BYTES, PRESENT, WINDOWS},
    lock,
    proto::{Frame, peer_client::PeerClient},
};
use crate::Cluster;

/// After how long a silent connection is tested, and then given up: a packet that is lost on the way
/// back from a partition must not keep a connection stuck for TCP's own, growing pauses.
const KEEPALIVE: (Duration, Duration) = (Duration::from_millis(500), Duration::from_secs(1));

/// After how many of these times this node tells the peer what its clock shows, if it says nothing else: a clock that
/// was set right is not told of by what was said before.
const SHOWN: u32 = 10;

/// How long a new session may take to be accepted.
const ACCEPTED: Duration = Duration::from_secs(1);

/// First and longest pause before a session is begun again. A peer must be found soon after it is there
/// again: its vote may be what is missing.
const BACKOFF: (Duration, Duration) = (Duration::from_millis(10), Duration::from_millis(80));

/// Frames that wait for a peer, at most, and their bytes.
const QUEUE: usize = 1_024;
const QUEUE_BYTES: usize = 64 << 20;

/// The connection to one peer at one address.
pub(super) struct Peer {
    node: u32,
    address: String,
    client: PeerClient<Channel>,
    /// Why it was not connected to, the last time.
    unconnected: Arc<Mutex<Option<String>>>,
    /// The session, while one stands.
    session: Mutex<Option<Session>>,
    /// Since when none has stood, unless one does.
    broken_since: Mutex<Option<BootTime>>,
    /// How the last attempt to begin one went.
    attempted: watch::Sender<Option<Error>>,
    /// Numbers the calls.
    calls: AtomicU64,
    bytes: Arc<Semaphore>,
    is_kept: AtomicBool,
    overflow: Notify,
    /// The reason why it cannot be reached, if it cannot: logged once.
    trouble: Mutex<Option<String>>,
    /// Whether a session stands. Not a number once it is spoken to no more.
    connected: Gauge,
}

/// Queued frames, and the callers that wait for answers. When it ends, they are notified.
struct Session {
    queue: mpsc::Sender<Queued>,
    waiting: HashMap<u64, oneshot::Sender<Frame>>,
    /// The revision of the known ids that was sent last.
    sent_ids: u64,
}

type Queued = (Frame, OwnedSemaphorePermit);

impl Peer {
    pub(super) fn new(node: u32, address: &str, cluster: &Cluster) -> Result<Self> {
        let unusable = |source| {
            let context = format!("peer {node} cannot be spoken to at {address}");
            Error::new(ErrorKind::Config, context).with_source(source)
        };
        let endpoint = Endpoint::from_shared(format!("http://{address}"))
            .map_err(unusable)?
            .initial_stream_window_size(WINDOWS.0)
            .initial_connection_window_size(WINDOWS.1)
            .http2_keep_alive_interval(KEEPALIVE.0)
            .keep_alive_timeout(KEEPALIVE.1)
            .keep_alive_while_idle(true);
        if let Some(tls) = &cluster.tls {
            tls.name(node, address)?;
        }
        let (unconnected, at) = (Arc::<Mutex<Option<String>>>::default(), address.to_owned());
        let (failure, cluster) = (unconnected.clone(), Arc::new(cluster.clone()));
        let connector = service_fn(move |_: Uri| {
            let (failure, at, cluster) = (failure.clone(), at.clone(), cluster.clone());
            async move {
                let connected = connection::connect(&cluster, node, &at).await;
                *lock(&failure) = connected.as_ref().err().cloned();
                connected.map(TokioIo::new).map_err(io::Error::other)
            }
        });
        let client = PeerClient::new(endpoint.connect_with_connector_lazy(connector))
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        Ok(Self {
            node,
            address: address.into(),
            client,
            unconnected,
            session: Mutex::default(),
            broken_since: Mutex::new(Some(SystemClock.now().boot)),
            attempted: watch::Sender::new(None),
            calls: AtomicU64::new(1),
            bytes: Arc::new(Semaphore::new(QUEUE_BYTES)),
            is_kept: AtomicBool::new(false),
            overflow: Notify::new(),
            trouble: Mutex::default(),
            connected: series::PEER_CONNECTED.gauge_of(&[&node.to_string()]),
        })
    }

    pub(super) fn address(&self) -> &str {
        &self.address
    }

    /// Asks, and waits for the answer. Where no session stands, one attempt to begin one is waited for.
    pub(super) async fn call(
        self: &Arc<Self>,
        transport: &Arc<Inner>,
        frame: Frame,
        deadline: Duration,
    ) -> Result<Frame> {
        self.keep_session(transport);
        let number = self.calls.fetch_add(1, Ordering::Relaxed);
        let _forgotten = Call { peer: self, number };
        let answered = async {
            self.stands().await?;
            let (waiting, answer) = oneshot::channel();
            self.enqueue(transport, Frame { call: number, ..frame }, Some((number, waiting)));
            let ended = |_| self.failed(&Status::unavailable("the session has ended"));
            answer.await.map_err(ended)
        };
        match timeout(deadline, answered).await {
            Ok(answer) => answer,
            Err(_) => {
                let status = Status::deadline_exceeded(format!("no answer within {deadline:?}"));
                Err(self.failed(&status))
            }
        }
    }

    pub(super) fn send(self: &Arc<Self>, transport: &Arc<Inner>, frame: Frame) {
        self.keep_session(transport);
        self.enqueue(transport, frame, None);
    }

    /// Waits until a session stands.
    async fn stands(&self) -> Result<()> {
        let mut attempted = self.attempted.subscribe();
        if lock(&self.session).is_some() || attempted.changed().await.is_err() {
            return Ok(());
        }
        match &*attempted.borrow() {
            None => Ok(()),
            Some(error) => Err(error.clone()),
        }
    }

    /// Queues a frame; drops it, and its caller, if there is no session, or no room.
    fn enqueue(
        &self,
        transport: &Inner,
        mut frame: Frame,
        call: Option<(u64, oneshot::Sender<Frame>)>,
    ) {
        let mut session = lock(&self.session);
        let Some(Session { queue, waiting, sent_ids }) = &mut *session else { return };
        if let Some((known, revision)) = transport.envelope.ids.news(*sent_ids) {
            (frame.known, *sent_ids) = (known, revision);
        }
        let size = u32::try_from(frame.body.len()).unwrap_or(u32::MAX);
        let permit = self.bytes.clone().try_acquire_many_owned(size);
        let queued = permit.ok().and_then(|permit| queue.try_send((frame, permit)).ok());
        if queued.is_some() {
            waiting.extend(call);
        } else {
            // With a gap in it, the session is broken: the other side notices by a new one.
            *session = None;
            self.overflow.notify_one();
        }
    }

    fn show_connected(self: &Arc<Self>, transport: &Inner, is_connected: bool) {
        if is_current(self, transport) {
            self.connected.set(f64::from(is_connected));
        }
    }

    /// It is a peer no more.
    pub(super) fn dropped(&self) {
        self.connected.set(f64::NAN);
    }

    /// Shows the peer that this process is there.
    fn show(&self, transport: &Inner) {
        if let Ok(frame) = transport.envelope.wrap(self.node, PRESENT, bytes::Bytes::new()) {
            self.enqueue(transport, frame, None);
        }
    }

    /// Passes an answer on to its caller, if that still waits.
    fn answered(&self, answer: Frame) {
        let waiting =
            lock(&self.session).as_mut().and_then(|session| session.waiting.remove(&answer.call));
        if let Some(waiting) = waiting {
            let _ = waiting.send(answer);
        }
    }

    pub(super) fn keep_session(self: &Arc<Self>, transport: &Arc<Inner>) {
        if !self.is_kept.swap(true, Ordering::Relaxed) {
            self.show_connected(transport, false);
            transport
                .spawn("the session with a peer", keep_session(self.clone(), transport.clone()));
        }
    }

    fn reached(&self, session: Session) {
        if lock(&self.trouble).take().is_some() {
            tracing::info!(peer = self.node, address = self.address, "the peer is back");
        }
        *lock(&self.session) = Some(session);
        *lock(&self.broken_since) = None;
        self.attempted.send_replace(None);
    }

    /// Since when no session stands, and why, if none does.
    pub(super) fn unreached(&self) -> Option<Unreached> {
        let since = (*lock(&self.broken_since))?;
        let reason = lock(&self.unconnected).clone().or_else(|| lock(&self.trouble).clone());
        Some(Unreached { since, reason })
    }

    fn failed(&self, status: &Status) -> Error {
        if let Some(reason) = lock(&self.unconnected).clone() {
            return self.refused(&reason, false);
        }
        self.refused(status.message(), status.code() == Code::FailedPrecondition)
    }

    /// The error of a call that the peer has refused.
    pub(super) fn refused(&self, reason: &str, is_lasting: bool) -> Error {
        let (node, address, reason) = (self.node, &self.address, &*shortened(reason));
        let kind = if is_lasting { ErrorKind::Config } else { ErrorKind::Unavailable };
        let mut trouble = lock(&self.trouble);
        // A call that takes too long says nothing new of a peer that cannot be reached.
        let is_news = match &*trouble {
            None => true,
            Some(known) => is_lasting && known != reason,
        };
        if is_news {
            tracing::warn!(peer = node, address, reason, "the peer does not answer");
            *trouble = Some(reason.into());
        }
        Error::new(kind, format!("peer {node} at {address}: {reason}"))
    }
}

/// A call under way: its caller waits no longer once this is gone.
struct Call<'a> {
    peer: &'a Peer,
    number: u64,
}

impl Drop for Call<'_> {
    fn drop(&mut self) {
        if let Some(session) = &mut *lock(&self.peer.session) {
            session.waiting.remove(&self.number);
        }
    }
}

/// Begins a session again and again, until the peer is forgotten or the transport stops.
async fn keep_session(peer: Arc<Peer>, transport: Arc<Inner>) {
    let mut stop = transport.stop.subscribe();
    let mut pause = BACKOFF.0;
    while !*stop.borrow() && is_current(&peer, &transport) {
        // In a task of its own, so that a panic of the handler ends only this attempt.
        let session = tokio::spawn(session(peer.clone(), transport.clone()));
        let abort = session.abort_handle();
        let stood = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => {
                abort.abort();
                Ok(Meeting::Stands)
            }
            ended = session => ended.unwrap_or(Ok(Meeting::Stands)),
        };
        *lock(&peer.session) = None;
        peer.show_connected(&transport, false);
        lock(&peer.broken_since).get_or_insert_with(|| SystemClock.now().boot);
        pause = match &stood {
            Ok(Meeting::Stands) => BACKOFF.0,
            Ok(Meeting::Forms) | Err(_) => (pause * 2).min(BACKOFF.1),
        };
        match stood {
            Ok(Meeting::Stands) => {}
            Ok(Meeting::Forms) => {
                let context = "one of the two belongs to no cluster yet";
                let error = Error::new(ErrorKind::Unavailable, context);
                peer.attempted.send_replace(Some(error));
            }
            Err(status) => {
                peer.attempted.send_replace(Some(peer.failed(&status)));
            }
        }
        SystemClock.sleep(pause).await;
    }
    // Calls that wait for a session wait no longer.
    // That is nothing to be warned of.
    let context = format!("peer {} at {}: it is not spoken to any more", peer.node, peer.address);
    peer.attempted.send_replace(Some(Error::new(ErrorKind::Unavailable, context)));
}

fn is_current(peer: &Arc<Peer>, transport: &Inner) -> bool {
    lock(&transport.peers).get(&peer.node).is_some_and(|known| Arc::ptr_eq(known, peer))
}

/// Begins a session, and returns when it has ended, or why there was none.
async fn session(peer: Arc<Peer>, transport: Arc<Inner>) -> Result<Meeting, Status> {
    let stopped = |_| Status::unavailable("this node is not up");
    let handler = transport.handler().map_err(stopped)?;
    let hello = transport.hello(peer.node)?;
    let (queue, queued) = mpsc::channel::<Queued>(QUEUE);
    let frames = ReceiverStream::new(queued).map(|(frame, _permit)| frame);
    let frames = stream::iter([hello]).chain(frames);
    let mut client = peer.client.clone();
    let accepted = timeout(ACCEPTED, client.session(frames))
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no session within {ACCEPTED:?}")))?;
    let accepted = accepted.map_err(|status| transport.note_refusal(peer.node, status));
    let mut answers = accepted?.into_inner();
    let welcome = timeout(ACCEPTED, answers.message())
        .await
        .map_err(|_| Status::deadline_exceeded(format!("no session within {ACCEPTED:?}")))?
        .map_err(|status| transport.note_refusal(peer.node, status))?
        .ok_or_else(|| Status::unavailable("the session ended at once"))?;
    let said = welcome.introduction.as_ref();
    let incarnation = said.map(|said| said.incarnation).unwrap_or_default();
    if transport.meet_called(peer.node, welcome)? == Meeting::Forms {
        return Ok(Meeting::Forms);
    }
    let present = Present::enter(&peer, &transport, incarnation)?;
    // With its first frame the peer is told whom this node knows.
    peer.reached(Session { queue, waiting: HashMap::new(), sent_ids: 0 });
    peer.show_connected(&transport, true);
    handler.connected(peer.node);
    let answered = async {
        loop {
            match answers.message().await {
                Ok(Some(answer)) => {
                    transport.note_clock(peer.node, answer.clock_ms);
                    match answer.call == 0 && answer.kind == PRESENT {
                        true => peer.show(&transport),
                        false => peer.answered(answer),
                    }
                }
                Ok(None) => return None,
                Err(status) => return Some(transport.note_refusal(peer.node, status)),
            }
        }
    };
    let gone = async {
        for round in 1_u32.. {
            if !is_current(&peer, &transport) {
                return;
            }
            SystemClock.sleep(KEEPALIVE.0).await;
            if round.is_multiple_of(SHOWN) {
                peer.show(&transport);
            }
        }
    };
    tokio::select! {
        status = answered => {
            let reason = status.as_ref().map(Status::message);
            tracing::debug!(peer = peer.node, reason, "the session has ended");
        }
        () = peer.overflow.notified() => {
            tracing::warn!(peer = peer.node, "the peer is too slow; messages are dropped");
        }
        () = gone => {}
    }
    drop(present);
    Ok(Meeting::Stands)
}

/// The process that answers for a peer, for as long as its session stands.
struct Present {
    transport: Arc<Inner>,
    node: u32,
    number: u64,
}

impl Present {
    fn enter(peer: &Arc<Peer>, transport: &Arc<Inner>, incarnation: u64) -> Result<Self, Status> {
        let asked = (Arc::downgrade(peer), Arc::downgrade(transport));
        let number = Arc::<AtomicU64>::default();
        let own = number.clone();
        let ask = move || {
            let (Some(peer), Some(transport)) = (asked.0.upgrade(), asked.1.upgrade()) else {
                return;
            };
            let number = own.load(Ordering::Relaxed);
            transport.runtime.clone().spawn(async move {
                let Ok(frame) = transport.envelope.wrap(peer.node, PRESENT, bytes::Bytes::new())
                else {
                    return;
                };
                if peer.call(&transport, frame, ACCEPTED).await.is_ok() {
                    transport.presence.prove(peer.node, number);
                }
            });
        };
        let entered = transport.enter(peer.node, (incarnation, &peer.address), Box::new(ask))?;
        number.store(entered, Ordering::Relaxed);
        Ok(Self { transport: transport.clone(), node: peer.node, number: entered })
    }
}

impl Drop for Present {
    fn drop(&mut self) {
        self.transport.presence.leave(self.node, self.number);
    }
}
