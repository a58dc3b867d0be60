use std::{io, pin::Pin, sync::Arc, time::Duration};

use futures::Stream;
use tokio::{
    net::{TcpListener, TcpStream},
    sync::mpsc,
    time::timeout,
};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport};
use tsoracle_core::{Clock as _, Error, ErrorKind, Result, SystemClock};

use super::{
    Handler, Inner, Sender,
    frame::MAX_FRAME_BYTES,
    proto::{
        Ended, Frame,
        peer_server::{self, PeerServer},
    },
};
use crate::PeerTls;

/// How long to leave the listener alone when it fails, as it does without file descriptors left.
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// How long a new stream may take to say who it is.
const GREETING: Duration = Duration::from_secs(1);

/// Connections that wait to be served.
const BACKLOG: usize = 16;

/// Calls and streams of one connection at once. A peer has a few.
const CONCURRENT: u32 = 256;

/// After how long a silent connection is tested, and then closed.
const KEEPALIVE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(2));

/// Tells certificates that are of no use before anything listens.
pub(super) fn check_tls(tls: Option<&PeerTls>) -> Result<()> {
    builder(tls).map(drop)
}

fn builder(tls: Option<&PeerTls>) -> Result<transport::Server> {
    let builder = transport::Server::builder()
        .max_concurrent_streams(CONCURRENT)
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
        let stream =
            match accepted.and_then(|(stream, _)| stream.set_nodelay(true).map(|()| stream)) {
                Ok(stream) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a peer's connection");
                    SystemClock.sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
        if let Err(unserved) = serving.send(Ok(stream)).await {
            tracing::error!("the server for peers has ended; it is started anew");
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
                .map_err(|error| error.to_string()),
            Err(error) => Err(error.to_string()),
        };
        if let Err(error) = served {
            tracing::error!(error, "the server for peers failed");
        }
    });
    connections
}

struct Service(Arc<Inner>);

impl Service {
    fn open(&self, frame: Frame) -> Result<(Arc<dyn Handler>, Sender, bytes::Bytes), Status> {
        let (sender, body) = self.0.envelope.open(frame).map_err(|reason| self.refused(reason))?;
        let handler = self.handler()?;
        match handler.admit(sender) {
            Ok(()) => Ok((handler, sender, body)),
            Err(error) if *error.kind() == ErrorKind::Config => {
                Err(self.refused(error.to_string()))
            }
            Err(error) => Err(Status::unavailable(error.to_string())),
        }
    }

    fn handler(&self) -> Result<Arc<dyn Handler>, Status> {
        self.0.handler().map_err(|error| Status::unavailable(error.to_string()))
    }

    fn refused(&self, reason: String) -> Status {
        self.0.refuse(&reason);
        Status::failed_precondition(reason)
    }
}

#[tonic::async_trait]
impl peer_server::Peer for Service {
    async fn call(&self, request: Request<Frame>) -> Result<Response<Frame>, Status> {
        let frame = request.into_inner();
        let kind = frame.kind;
        let (handler, sender, body) = self.open(frame)?;
        let answering = tokio::spawn(async move { handler.call(sender, kind, body).await });
        let answer = match answering.await {
            Ok(Ok(answer)) => self.0.envelope.wrap(sender.node, kind, answer),
            Ok(Err(error)) => Err(error),
            Err(_) => Err(Error::new(ErrorKind::Fatal, "the answer to a peer panicked")),
        };
        answer.map(Response::new).map_err(|error| match error.kind() {
            ErrorKind::Config => Status::failed_precondition(error.to_string()),
            _ => Status::unavailable(error.to_string()),
        })
    }

    type StreamStream = Pin<Box<dyn Stream<Item = Result<Ended, Status>> + Send>>;

    async fn stream(
        &self,
        request: Request<Streaming<Frame>>,
    ) -> Result<Response<Self::StreamStream>, Status> {
        let mut messages = request.into_inner();
        let first = timeout(GREETING, messages.message()).await;
        let hello = first
            .map_err(|_| Status::deadline_exceeded("the stream did not begin"))??
            .ok_or_else(|| Status::invalid_argument("the stream is empty"))?;
        let (handler, sender, _) = self.open(hello)?;
        drop(handler);
        // Lives for as long as the stream: its end tells the other side.
        let (standing, ended) = mpsc::channel::<Result<Ended, Status>>(1);
        let inner = self.0.clone();
        tokio::spawn(async move {
            let mut stop = inner.stop.subscribe();
            let reading = read(&inner, sender, &mut messages);
            let status = tokio::select! {
                _ = stop.wait_for(|stop| *stop) => Some(Status::unavailable("the node stops")),
                () = standing.closed() => None,
                status = reading => status,
            };
            if let Some(status) = status {
                let _ = standing.send(Err(status)).await;
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(ended))))
    }
}

/// Hands the messages of a stream over, one after the other; returns why it ended.
async fn read(inner: &Inner, sender: Sender, messages: &mut Streaming<Frame>) -> Option<Status> {
    loop {
        let frame = match messages.message().await {
            Ok(Some(frame)) => frame,
            Ok(None) => return None,
            Err(status) => return Some(status),
        };
        let opened = match inner.envelope.open(frame) {
            Ok((from, body)) if from == sender => Ok(body),
            Ok(_) => Err("the sender changed within a stream".to_owned()),
            Err(reason) => Err(reason),
        };
        match (opened, inner.handler()) {
            (Ok(body), Ok(handler)) => handler.received(sender, body).await,
            (Err(reason), _) => {
                inner.refuse(&reason);
                return Some(Status::failed_precondition(reason));
            }
            (_, Err(error)) => return Some(Status::unavailable(error.to_string())),
        }
    }
}
