use std::{io, mem, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use futures::FutureExt as _;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::{Semaphore, mpsc},
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport};
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

use super::{
    Handler, Inner, Sender,
    frame::{MAX_FRAME_BYTES, WINDOWS},
    proto::{
        Failure, Frame,
        peer_server::{self, PeerServer},
    },
};
use crate::PeerTls;

/// How long to leave the listener alone when it fails, as it does without file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a new session may take to say who begins it.
const GREETING: Duration = Duration::from_secs(1);

/// Connections that wait to be served.
const BACKLOG: usize = 16;

/// Calls of one session that are not answered yet, at most. A peer has a few.
const CONCURRENT: usize = 256;

/// Sessions of one connection. A peer has one, and may have begun another before the last one has ended.
const SESSIONS: u32 = 16;

/// After how long a silent connection is tested, and then closed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// Tells certificates that are of no use before anything listens.
pub(super) fn check_tls(tls: Option<&PeerTls>) -> Result<()> {
    builder(tls).map(drop)
}

fn builder(tls: Option<&PeerTls>) -> Result<transport::Server> {
    let builder = transport::Server::builder()
        .max_concurrent_streams(SESSIONS)
        .initial_stream_window_size(WINDOWS.0)
        .initial_connection_window_size(WINDOWS.1)
        .http2_keepalive_interval(Some(KEEPALIVE.0))
        .http2_keepalive_timeout(Some(KEEPALIVE.1));
    match tls {
        None => Ok(builder),
        Some(tls) => builder.tls_config(tls.server()).map_err(|source| {
            let context = "peer_ca, peer_cert and peer_key cannot be used for TLS";
            Error::new(ErrorKind::Config, context).with_source(source)
        }),
    }
}

/// Takes connections until the transport stops.
pub(super) async fn accept(inner: Arc<Inner>, listener: TcpListener) {
    let mut stop = inner.stop.subscribe();
    let mut serving = serve(&inner);
    loop {
        let accepted = tokio::select! {
            _ = stop.wait_for(|stop| *stop) => return,
            accepted = listener.accept() => accepted,
        };
        let stream = match accepted
            .and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream))
        {
            Ok(stream) => stream,
            Err(error) => {
                tracing::warn!(error = %format_args!("{error:#}"), "cannot accept a peer's connection");
                SystemClock.sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        if let Err(unserved) = serving.send(Ok(stream)).await {
            tracing::error!("the server for peers has ended; it is started again");
            serving = serve(&inner);
            let _ = serving.send(unserved.0).await;
        }
    }
}

/// Starts a server for the connections that come through the channel.
fn serve(inner: &Arc<Inner>) -> mpsc::Sender<io::Result<TcpStream>> {
    let (connections, incoming) = mpsc::channel(BACKLOG);
    let inner = inner.clone();
    tokio::spawn(async move {
        let mut stop = inner.stop.subscribe();
        let service = PeerServer::new(Service(inner.clone()))
            .max_decoding_message_size(MAX_FRAME_BYTES)
            .max_encoding_message_size(MAX_FRAME_BYTES);
        let stopped = async move {
            let _ = stop.wait_for(|stop| *stop).await;
        };
        let served = match builder(inner.cluster.tls.as_ref()) {
            Ok(mut builder) => builder
                .add_service(service)
                .serve_with_incoming_shutdown(ReceiverStream::new(incoming), stopped)
                .await
                .map_err(|error| format!("{error:#}")),
            Err(error) => Err(format!("{error:#}")),
        };
        if let Err(error) = served {
            tracing::error!(error, "the server for peers failed");
        }
    });
    connections
}

struct Service(Arc<Inner>);

impl Service {
    fn open(&self, mut frame: Frame) -> Result<(Arc<dyn Handler>, Sender, bytes::Bytes), Status> {
        let known = mem::take(&mut frame.known);
        let (sender, body) = self.0.envelope.open(frame).map_err(|reason| self.refused(reason))?;
        let handler = self.handler()?;
        match self.0.admit(&*handler, sender) {
            Ok(()) => {
                self.0.envelope.ids.learn(known);
                Ok((handler, sender, body))
            }
            Err(error) if *error.kind() == ErrorKind::Config => {
                Err(self.refused(format!("{error:#}")))
            }
            Err(error) => Err(Status::unavailable(format!("{error:#}"))),
        }
    }

    fn handler(&self) -> Result<Arc<dyn Handler>, Status> {
        self.0.handler().map_err(|error| Status::unavailable(format!("{error:#}")))
    }

    fn refused(&self, reason: String) -> Status {
        self.0.refuse(&reason);
        Status::failed_precondition(reason)
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
        let (_, sender, _) = self.open(hello)?;
        // Lives for as long as the session: its end tells the other side.
        let (answers, answered) = mpsc::channel(CONCURRENT);
        let session = Session {
            service: Self(self.0.clone()),
            sender,
            answers,
            permits: Arc::new(Semaphore::new(CONCURRENT)),
        };
        tokio::spawn(async move {
            let mut stop = session.service.0.stop.subscribe();
            let status = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Some(Status::unavailable("the node stops")),
                () = session.answers.closed() => None,
                status = session.read(&mut frames) => status,
            };
            if let Some(status) = status {
                let _ = session.answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
    }
}

/// A session that a peer has begun.
struct Session {
    service: Service,
    sender: Sender,
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
        let inner = &self.service.0;
        let (kind, number, known) = (frame.kind, frame.call, mem::take(&mut frame.known));
        let (sender, body) =
            inner.envelope.open(frame).map_err(|reason| self.service.refused(reason))?;
        if sender != self.sender {
            return Err(self.service.refused("the sender changed within a session".to_owned()));
        }
        inner.envelope.ids.learn(known);
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
        let answer = AssertUnwindSafe(handler.call(sender, kind, body)).catch_unwind().await;
        answer
            .unwrap_or_else(|_| Err(Error::new(ErrorKind::Fatal, "the answer to a peer panicked")))
    };
    let answer = answering.await.and_then(|body| inner.envelope.wrap(sender.node, kind, body));
    answer.unwrap_or_else(|error| {
        let is_lasting = *error.kind() == ErrorKind::Config;
        let empty = inner.envelope.wrap(sender.node, kind, bytes::Bytes::new());
        let failure = Some(Failure { reason: format!("{error:#}"), is_lasting });
        Frame { failure, ..empty.unwrap_or_default() }
    })
}
