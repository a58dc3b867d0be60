use std::{mem, net::SocketAddr, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use hyper::server::conn::http2;
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    service::TowerToHyperService,
};
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    task::JoinSet,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, service::Routes};
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

use super::{
    Handler, Inner, Sender,
    callers::Place,
    connection::{self, Caller},
    formation::Meeting,
    frame::{MAX_FRAME_BYTES, PRESENT, WINDOWS},
    lock,
    meeting::{REFUSED, is_lasting},
    presence::Ask,
    proto::{
        Failure, Frame,
        peer_server::{self, PeerServer},
    },
};

/// How long to leave the listener alone when it fails, as it does without file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a new session may take to say who begins it.
const GREETING: Duration = Duration::from_secs(1);

/// How long a connection may have none.
const SESSION: Duration = Duration::from_secs(5);

/// Calls of one session that are not answered yet, at most. A peer has a few.
const CONCURRENT: usize = 256;

/// Sessions of one connection. A peer has one, and may have begun another before the last one has ended.
const SESSIONS: u32 = 16;

/// The headers of one session, in bytes.
const MAX_HEADER_BYTES: u32 = 16 << 10;

/// After how long a silent connection is tested, and then closed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// Takes connections until the transport stops.
pub(super) async fn accept(inner: Arc<Inner>, listener: TcpListener) {
    let mut stop = inner.stop.subscribe();
    let mut connections = JoinSet::new();
    let mut fails = false;
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            Some(_) = connections.join_next() => continue,
            accepted = listener.accept() => accepted,
        };
        match accepted {
            Ok((stream, address)) => {
                fails = false;
                let place = inner.callers.enter(address.ip());
                if let Some(address) = place.in_place_of {
                    inner.refuse(&format!(
                        "too many connections have begun no session, and the oldest one makes room ({address})"
                    ));
                }
                let number = place.number;
                let end = connections.spawn(serve(inner.clone(), stream, address, place));
                inner.callers.is_served(number, end);
            }
            Err(error) => {
                // Logged once for as long as it lasts.
                if !mem::replace(&mut fails, true) {
                    tracing::warn!(error = %format_args!("{error:#}"), "cannot accept the connections of peers");
                }
                SystemClock.sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

/// Serves one connection until it ends.
async fn serve(inner: Arc<Inner>, stream: TcpStream, address: SocketAddr, place: Place) {
    let (stream, caller) = match connection::take(&inner.cluster, stream).await {
        Ok(taken) => taken,
        Err(reason) => return inner.refuse(&format!("{reason} ({})", address.ip())),
    };
    let number = place.number;
    if caller.is_known() {
        inner.callers.prove(number);
    }
    let peer = PeerServer::new(Service { inner: inner.clone(), place: number, address, caller })
        .max_decoding_message_size(MAX_FRAME_BYTES)
        .max_encoding_message_size(MAX_FRAME_BYTES);
    let mut builder = http2::Builder::new(TokioExecutor::new());
    builder
        .timer(TokioTimer::new())
        // No peer needs it, and to write one panics where the clock is before 1970.
        .auto_date_header(false)
        .max_concurrent_streams(SESSIONS)
        .max_header_list_size(MAX_HEADER_BYTES)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .keep_alive_interval(KEEPALIVE.0)
        .keep_alive_timeout(KEEPALIVE.1);
    let service = TowerToHyperService::new(Routes::new(peer));
    let mut served = std::pin::pin!(builder.serve_connection(TokioIo::new(stream), service));
    tokio::select! {
        _ = served.as_mut() => return,
        () = SystemClock.sleep(SESSION) => {
            if !inner.callers.is_admitted(number) {
                return inner.refuse(&format!("a caller has begun no session ({})", address.ip()));
            }
        }
    }
    let _ = served.await;
}

/// Answers one caller.
#[derive(Clone)]
struct Service {
    inner: Arc<Inner>,
    place: u64,
    address: SocketAddr,
    caller: Caller,
}

impl Service {
    /// Meets a caller. Its session is for more than that if the two are members of one cluster.
    fn open(&self, hello: Frame) -> Result<(Sender, Meeting), Status> {
        let (sender, meeting) = self.inner.meet_caller(hello)?;
        if meeting == Meeting::Stands {
            let handler = self.handler()?;
            self.inner.admit(&*handler, sender).map_err(|error| match is_lasting(&error) {
                true => self.refused(format!("{error:#}")),
                false => Status::unavailable(format!("{error:#}")),
            })?;
        }
        Ok((sender, meeting))
    }

    fn handler(&self) -> Result<Arc<dyn Handler>, Status> {
        self.inner.handler().map_err(|error| Status::unavailable(format!("{error:#}")))
    }

    /// One that has proven who it is learns why, others do not.
    fn refused(&self, reason: String) -> Status {
        self.inner.refuse(&reason);
        Status::failed_precondition(if self.caller.is_known() { reason } else { REFUSED.into() })
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Service {
    type SessionStream = ReceiverStream<Result<Frame, Status>>;

    async fn session(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let mut frames = request.into_inner();
        let first = timeout(GREETING, frames.message()).await;
        let hello = first
            .map_err(|_| Status::deadline_exceeded("the session did not begin"))??
            .ok_or_else(|| Status::invalid_argument("the session is empty"))?;
        self.inner.check_caller(&self.caller, hello.from).map_err(|reason| self.refused(reason))?;
        let said = hello.introduction.as_ref();
        let incarnation = said.map(|said| said.incarnation).unwrap_or_default();
        let (sender, meeting) = self.open(hello)?;
        // One that a cluster is to be formed with is no stranger either.
        if meeting == Meeting::Stands || self.inner.peer(sender.node).is_ok() {
            self.inner.callers.admit(self.place, sender.node);
        }
        // Lives for as long as the session: its end tells the other side.
        let (answers, answered) = mpsc::channel(CONCURRENT);
        let welcome = self.inner.welcome(sender)?;
        // There is room.
        let _ = answers.send(Ok(welcome)).await;
        if meeting == Meeting::Forms {
            return Ok(Response::new(ReceiverStream::new(answered)));
        }
        let ask = is_present(
            &answers,
            self.inner.envelope.wrap(sender.node, PRESENT, bytes::Bytes::new()),
        );
        let address = self.address.to_string();
        let number = self.inner.enter(sender.node, (incarnation, &address), ask)?;
        let session = Session {
            service: self.clone(),
            sender,
            number,
            answers,
            permits: Arc::new(Semaphore::new(CONCURRENT)),
        };
        let noted = SessionOf::begin(self.inner.clone(), sender.node, number);
        tokio::spawn(async move {
            let mut stop = session.service.inner.stop.subscribe();
            let status = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Some(Status::unavailable("the node stops")),
                () = session.answers.closed() => None,
                () = session.service.inner.envelope.ids.removed(sender) => {
                    Some(session.service.inner.turn_away_removed(sender))
                }
                status = session.read(&mut frames) => status,
            };
            drop(noted);
            if let Some(status) = status {
                let _ = session.answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

/// Counts a session of a node; with its last one ends what it had begun.
struct SessionOf {
    inner: Arc<Inner>,
    node: u32,
    number: u64,
}

impl SessionOf {
    fn begin(inner: Arc<Inner>, node: u32, number: u64) -> Self {
        *lock(&inner.sessions).entry(node).or_default() += 1;
        Self { inner, node, number }
    }
}

impl Drop for SessionOf {
    fn drop(&mut self) {
        // Whichever way the session ends, a panic too: one that stood for ever would keep out the next process.
        self.inner.presence.leave(self.node, self.number);
        let mut sessions = lock(&self.inner.sessions);
        let left = sessions.get_mut(&self.node).map(|count| {
            *count -= 1;
            *count
        });
        if left == Some(0) {
            sessions.remove(&self.node);
            drop(sessions);
            if let Ok(handler) = self.inner.handler() {
                handler.disconnected(self.node);
            }
        }
    }
}

/// Asks the process at the other end of a session whether it is still there.
fn is_present(answers: &mpsc::Sender<Result<Frame, Status>>, question: Result<Frame>) -> Ask {
    // The session must be able to end.
    let answers = answers.downgrade();
    Box::new(move || {
        if let (Some(answers), Ok(question)) = (answers.upgrade(), &question) {
            // Where so much waits to be sent, no proof is needed: it will be asked again.
            let _ = answers.try_send(Ok(question.clone()));
        }
    })
}

/// A session that a peer has begun.
struct Session {
    service: Service,
    sender: Sender,
    /// Among those of its process.
    number: u64,
    answers: mpsc::Sender<Result<Frame, Status>>,
    /// One for each call that is not answered yet.
    permits: Arc<Semaphore>,
}

impl Session {
    /// Takes frames one after the other; returns why they have ended.
    async fn read(&self, frames: &mut Streaming<Frame>) -> Option<Status> {
        loop {
            let taken = match frames.message().await {
                Ok(Some(frame)) => self.take(frame).await,
                Ok(None) => return None,
                Err(status) => Err(status),
            };
            if let Err(status) = taken {
                return Some(status);
            }
        }
    }

    async fn take(&self, mut frame: Frame) -> Result<(), Status> {
        let inner = &self.service.inner;
        let (kind, number, known) = (frame.kind, frame.call, mem::take(&mut frame.known));
        let clock_ms = frame.clock_ms;
        let (sender, body) =
            inner.envelope.open(frame).map_err(|reason| self.service.refused(reason))?;
        if sender != self.sender {
            return Err(self.service.refused("the sender changed within a session".to_owned()));
        }
        inner.envelope.ids.learn(known);
        inner.note_clock(sender.node, clock_ms);
        if kind == PRESENT && number == 0 {
            inner.presence.prove(sender.node, self.number);
            return Ok(());
        }
        let handler = self.service.handler()?;
        if number == 0 {
            handler.received(sender, body).await;
            return Ok(());
        }
        let permit = self.permits.clone().acquire_owned().await;
        let (inner, answers) = (inner.clone(), self.answers.clone());
        tokio::spawn(async move {
            let answer = answer(&inner, &*handler, (sender, kind, body)).await;
            // A caller that has gone does not want it any more.
            let _ = answers.send(Ok(Frame { call: number, ..answer })).await;
            drop(permit);
        });
        Ok(())
    }
}

/// Answers a call, or says why not.
async fn answer(
    inner: &Inner,
    handler: &dyn Handler,
    (sender, kind, body): (Sender, u32, bytes::Bytes),
) -> Frame {
    let answering = async {
        let admitted = inner.admit(handler, sender);
        admitted.inspect_err(|error| inner.refuse(&format!("{error:#}")))?;
        if kind == PRESENT {
            return Ok(bytes::Bytes::new());
        }
        let answer = AssertUnwindSafe(handler.call(sender, kind, body)).catch_unwind().await;
        answer
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Fatal, "the answer to a peer panicked")))
    };
    let answer = answering.await.and_then(|body| inner.envelope.wrap(sender.node, kind, body));
    answer.unwrap_or_else(|error| {
        let is_lasting = is_lasting(&error);
        let empty = inner.envelope.wrap(sender.node, kind, bytes::Bytes::new());
        let failure = Some(Failure { reason: format!("{error:#}"), is_lasting });
        Frame { failure, ..empty.unwrap_or_default() }
    })
}
