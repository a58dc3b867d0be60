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
    formation::Meeting,
    frame::{MAX_FRAME_BYTES, PRESENT, WINDOWS},
    meeting::is_lasting,
    presence::Ask,
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
    /// Meets a caller. Its session is for more than that if the two are members of one cluster.
    fn open(&self, hello: Frame) -> Result<(Sender, Meeting), Status> {
        let (sender, meeting) = self.0.meet_caller(hello)?;
        if meeting == Meeting::Stands {
            let handler = self.handler()?;
            self.0.admit(&*handler, sender).map_err(|error| match is_lasting(&error) {
                true => self.refused(format!("{error:#}")),
                false => Status::unavailable(format!("{error:#}")),
            })?;
        }
        Ok((sender, meeting))
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
        let address =
            request.remote_addr().map_or("an unknown address".into(), |at| at.to_string());
        let mut frames = request.into_inner();
        let first = timeout(GREETING, frames.message()).await;
        let hello = first
            .map_err(|_| Status::deadline_exceeded("the session did not begin"))??
            .ok_or_else(|| Status::invalid_argument("the session is empty"))?;
        let said = hello.introduction.as_ref();
        let incarnation = said.map(|said| said.incarnation).unwrap_or_default();
        let (sender, meeting) = self.open(hello)?;
        // Lives for as long as the session: its end tells the other side.
        let (answers, answered) = mpsc::channel(CONCURRENT);
        let welcome = self.0.welcome(sender)?;
        // There is room.
        let _ = answers.send(Ok(welcome)).await;
        if meeting == Meeting::Forms {
            return Ok(Response::new(ReceiverStream::new(answered)));
        }
        let ask =
            is_present(&answers, self.0.envelope.wrap(sender.node, PRESENT, bytes::Bytes::new()));
        let number = self.0.enter(sender.node, (incarnation, &address), ask)?;
        let session = Session {
            service: Self(self.0.clone()),
            sender,
            number,
            answers,
            permits: Arc::new(Semaphore::new(CONCURRENT)),
        };
        tokio::spawn(async move {
            let mut stop = session.service.0.stop.subscribe();
            let status = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Some(Status::unavailable("the node stops")),
                () = session.answers.closed() => None,
                () = session.service.0.envelope.ids.removed(sender) => {
                    Some(session.service.0.turn_away_removed(sender))
                }
                status = session.read(&mut frames) => status,
            };
            session.service.0.presence.leave(sender.node, number);
            if let Some(status) = status {
                let _ = session.answers.send(Err(status)).await;
            }
        });
        Ok(Response::new(ReceiverStream::new(answered)))
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
        let inner = &self.service.0;
        let (kind, number, known) = (frame.kind, frame.call, mem::take(&mut frame.known));
        let (sender, body) =
            inner.envelope.open(frame).map_err(|reason| self.service.refused(reason))?;
        if sender != self.sender {
            return Err(self.service.refused("the sender changed within a session".to_owned()));
        }
        inner.envelope.ids.learn(known);
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
