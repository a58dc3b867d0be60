use std::{
    convert::Infallible,
    future::Future,
    io,
    pin::{Pin, pin},
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll, ready},
    time::Duration,
};

use futures::{FutureExt as _, TryFutureExt as _, future::Either};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::{body::Incoming, server::conn::http2, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use rustls::ServerConfig;
use rustls_pki_types::CertificateDer;
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    sync::watch,
    time::{Sleep, timeout},
};
use tokio_rustls::TlsAcceptor;
use tokio_util::either::Either as Connected;
use tonic::{Code, body::Body, service::Routes};
use tower::ServiceExt as _;
use tsoracle_core::{Clock as _, Oracle, Places, Refusals, Room, SystemClock};
use tsoracle_tls::{Watched, why_refused};

use crate::{
    Limits,
    answer::{Answer, refused},
    calls::Calls,
    edge::Allowed,
    gate::{Refused, not_grpc},
    listener::Stream,
    meters::{CallMeters, Method},
    pages::{self, Answering, Pages, ready},
    peer::Peer,
    rights::{Access, Session},
};

/// Why a client is not spoken to that does not end its handshake.
const TOO_LONG: &str = "the TLS handshake took too long";

/// What every connection is served with.
#[derive(Debug)]
pub(crate) struct Connection {
    pub(crate) routes: Routes,
    pub(crate) tls: Option<Watched<ServerConfig>>,
    pub(crate) limits: Limits,
    pub(crate) access: Access,
    pub(crate) oracle: Oracle,
    pub(crate) refusals: Refusals,
    /// For calls under way.
    pub(crate) room: Arc<Room>,
    /// For whatever is not gRPC.
    pub(crate) pages: Option<Pages>,
    pub(crate) meters: Arc<CallMeters>,
}

impl Connection {
    fn session(&self, peer: Peer, certificate: Option<&CertificateDer<'_>>) -> Session {
        Session::new(self.access.clone(), self.oracle.clone(), Some(peer), certificate)
    }

    /// Serves one connection until it is closed, or its calls have ended after `stopping`.
    pub(crate) async fn serve(
        self: Arc<Self>,
        stream: Stream,
        peer: Peer,
        stopping: watch::Receiver<bool>,
    ) {
        if let Err(error) = self.try_serve(stream, peer, stopping).await {
            tracing::debug!(%peer, error, "a connection has ended");
        }
    }

    async fn try_serve(
        &self,
        stream: Stream,
        peer: Peer,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>> {
        // An answer is small, and must not wait for the acknowledgement of the one before.
        if let Connected::Left(stream) = &stream {
            stream.set_nodelay(true)?;
        }
        match &self.tls {
            None => self.speak(stream, self.session(peer, None), stopping).await,
            Some(tls) => {
                let acceptor = TlsAcceptor::from(tls.current());
                let agreed = timeout(self.limits.handshake_time, acceptor.accept(stream)).await;
                let agreed = agreed.unwrap_or_else(|_| Err(io::Error::other(TOO_LONG)));
                let stream = agreed.inspect_err(|error| self.log_refused(error, peer))?;
                let certificates = stream.get_ref().1.peer_certificates();
                let certificate = certificates.and_then(|certificates| certificates.first());
                let session = self.session(peer, certificate);
                self.speak(stream, session, stopping).await
            }
        }
    }

    /// Logs why a client is not spoken to.
    fn log_refused(&self, error: &io::Error, peer: Peer) {
        let Some(reason) = why_refused(error) else { return };
        let reason = format!("{reason} ({})", peer.host());
        if let Some((reason, left_out)) = self.refusals.to_log(&reason, SystemClock.now().boot) {
            tracing::warn!(reason, left_out, "a client does not agree on TLS");
        }
    }

    /// Speaks HTTP/2, or what else the client speaks where there are pages.
    async fn speak<S>(
        &self,
        stream: S,
        session: Session,
        stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let Some(pages) = &self.pages else { return self.http2(stream, session, stopping).await };
        let begun = timeout(self.limits.handshake_time, pages::begun(stream)).await;
        let (is_http2, stream) = begun??;
        match is_http2 {
            true => self.http2(stream, session, stopping).await,
            false => self.http1(stream, session, pages, stopping).await,
        }
    }

    /// Serves pages alone.
    async fn http1<S>(
        &self,
        stream: S,
        session: Session,
        pages: &Pages,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let known = self.known(session, Arc::default());
        let pages = pages.clone();
        let serving = pages::http1(stream, move |request| known.page(&pages, request));
        tokio::select! {
            served = serving => served,
            // An error means that the server is gone, which is a reason to stop as well.
            _ = stopping.wait_for(|stopping| *stopping) => Ok(()),
        }
    }

    fn known(&self, session: Session, over_share: Arc<AtomicBool>) -> Known {
        let (routes, room, meters) = (self.routes.clone(), self.room.clone(), self.meters.clone());
        Known { session, routes, room, meters, over_share, pages: self.pages.clone() }
    }

    async fn http2<S>(
        &self,
        stream: S,
        session: Session,
        mut stopping: watch::Receiver<bool>,
    ) -> Result<(), Box<dyn std::error::Error + Send + Sync>>
    where
        S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let limits = &self.limits;
        let (mut calls, arrivals) = Calls::new();
        let mut builder = http2::Builder::new(arrivals);
        builder
            .timer(TokioTimer::new())
            // No caller needs it, and to write one panics where the clock is before 1970.
            .auto_date_header(false)
            .max_concurrent_streams(limits.concurrent_streams)
            .max_header_list_size(limits.header_bytes)
            .keep_alive_interval(limits.keepalive_interval)
            .keep_alive_timeout(limits.keepalive_timeout);
        let over_share = Arc::new(AtomicBool::new(false));
        let greeted = Greeted::new(stream, limits.handshake_time, over_share.clone());
        let known = self.known(session, over_share);
        let service = service_fn(move |request| known.answer(request));
        let mut connection = pin!(builder.serve_connection(TokioIo::new(greeted), service));
        tokio::select! {
            ended = calls.carried_out(connection.as_mut()) => return Ok(ended?),
            // An error means that the server is gone, which is a reason to stop as well.
            _ = stopping.wait_for(|stopping| *stopping) => {}
        }
        connection.as_mut().graceful_shutdown();
        Ok(calls.carried_out(connection).await?)
    }
}

/// Headers up to this size are left as they came.
const SMALL_HEADERS: usize = 1 << 10;

/// What of larger ones is kept: whatever is read once a call has begun, each up to that size.
const READ_LATER: [HeaderName; 9] = [
    header::AUTHORIZATION,
    header::CONTENT_TYPE,
    header::TE,
    header::USER_AGENT,
    HeaderName::from_static("grpc-accept-encoding"),
    HeaderName::from_static("grpc-encoding"),
    HeaderName::from_static("grpc-timeout"),
    HeaderName::from_static("traceparent"),
    HeaderName::from_static("tracestate"),
];

/// The routes, which get nothing but gRPC, are told who makes each call, and get no more of its headers than they read: these stay in
/// memory for as long as the call is under way.
struct Known {
    session: Session,
    routes: Routes,
    room: Arc<Room>,
    meters: Arc<CallMeters>,
    /// Set when a call is refused for want of a place.
    over_share: Arc<AtomicBool>,
    pages: Option<Pages>,
}

impl Known {
    /// Not an `async fn`, whose future would have room for the call twice.
    fn answer(
        &self,
        mut request: Request<Incoming>,
    ) -> impl Future<Output = Result<Response<Answer>, Infallible>> + Send + use<> {
        if let Some(response) = not_grpc(&request) {
            let answering = match &self.pages {
                None => ready(response),
                Some(pages) => self.page(pages, request.map(Body::new)),
            };
            return Either::Left(answering.map(placeless));
        }
        let place = match self.enter(&mut request) {
            Ok(place) => place,
            Err(error) => {
                self.over_share.store(true, Ordering::Relaxed);
                let method = Method::of(request.uri().path());
                self.meters.count(method, Code::ResourceExhausted, 1);
                return Either::Left(ready(refused(&error)).map(placeless));
            }
        };
        lighten(request.headers_mut());
        let target = request.uri().path_and_query();
        if target.is_some_and(|target| target.as_str().len() > SMALL_HEADERS) {
            // There is no such call.
            *request.uri_mut() = http::Uri::default();
        }
        let call = self.routes.clone().oneshot(request);
        Either::Right(call.map_ok(|response| response.map(|body| Answer::new(body, Some(place)))))
    }

    /// Answers what is not gRPC.
    fn page(&self, pages: &Pages, mut request: Request<Body>) -> Answering {
        match self.enter(&mut request) {
            Ok(place) => {
                let answer = pages.answer(request);
                // Until it is made: it is small, and sent from memory.
                Box::pin(answer.inspect(move |_| drop(place)))
            }
            Err(error) => ready(pages::refused(&error)),
        }
    }

    /// Notes who makes the call, and takes a place for it.
    fn enter<B>(&self, request: &mut Request<B>) -> tsoracle_core::Result<Places> {
        match self.session.client(request.headers()) {
            Ok(client) => {
                let place = self.room.enter(client.caller(), 1)?;
                request.extensions_mut().insert(Allowed::of(client));
                Ok(place)
            }
            Err(error) => {
                let place = self.room.enter(self.session.anybody().as_ref(), 1)?;
                request.extensions_mut().insert(Refused(error));
                Ok(place)
            }
        }
    }
}

/// An answer that holds no place.
fn placeless(response: Response<Body>) -> Result<Response<Answer>, Infallible> {
    Ok(response.map(|body| Answer::new(body, None)))
}

/// Drops what no service reads of large headers.
fn lighten(headers: &mut HeaderMap) {
    let bytes = |(name, value): (&HeaderName, &HeaderValue)| name.as_str().len() + value.len();
    if headers.iter().map(bytes).sum::<usize>() <= SMALL_HEADERS {
        return;
    }
    let mut kept = HeaderMap::new();
    for name in READ_LATER {
        // Copied, since all values of a call may share a buffer, which would stay otherwise.
        if let Some(value) = headers.get(&name).filter(|value| value.len() <= SMALL_HEADERS)
            && let Ok(value) = HeaderValue::from_bytes(value.as_bytes())
        {
            kept.insert(name, value);
        }
    }
    *headers = kept;
}

/// The bytes with which every HTTP/2 client begins.
const PREFACE_BYTES: usize = 24;

/// After that many bytes the other connections of the thread have their turn: what there is to read of one that
/// sends without end would be worked on for milliseconds, headers above all.
const BYTES_A_TURN: usize = 8 << 10;

/// How long nothing is read from a client after a call was refused for want of a place. To read calls, large headers
/// above all, costs others more than to refuse them.
const REST: Duration = Duration::from_millis(100);

/// A stream that fails unless the client has begun to speak in time, and that is read in turns with others.
struct Greeted<S> {
    stream: S,
    /// What was read since there was nothing to read, or since the last turn.
    read: usize,
    /// Until enough was read.
    greeting: Option<(usize, Pin<Box<Sleep>>)>,
    /// Set when the client has had its share of calls.
    over_share: Arc<AtomicBool>,
    /// Until it is read from again.
    rest: Option<Pin<Box<Sleep>>>,
}

#[expect(
    clippy::disallowed_methods,
    reason = "no promise hangs on when a connection is read from, or closed"
)]
fn sleep(time: Duration) -> Pin<Box<Sleep>> {
    Box::pin(tokio::time::sleep(time))
}

impl<S> Greeted<S> {
    fn new(stream: S, limit: Duration, over_share: Arc<AtomicBool>) -> Self {
        let greeting = Some((PREFACE_BYTES, sleep(limit)));
        Self { stream, read: 0, greeting, over_share, rest: None }
    }

    /// Whether it is this connection's turn to be read.
    fn poll_turn(&mut self, context: &mut Context<'_>) -> Poll<()> {
        if self.over_share.load(Ordering::Relaxed) {
            self.over_share.store(false, Ordering::Relaxed);
            self.rest = Some(sleep(REST));
        }
        if let Some(rest) = &mut self.rest {
            ready!(rest.as_mut().poll(context));
            self.rest = None;
        }
        if self.read >= BYTES_A_TURN {
            self.read = 0;
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        Poll::Ready(())
    }
}

impl<S: AsyncRead + Unpin> AsyncRead for Greeted<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        ready!(this.poll_turn(context));
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        this.read = match polled {
            Poll::Pending => 0,
            Poll::Ready(_) => this.read + buffer.filled().len() - before,
        };
        let Some((missing, limit)) = &mut this.greeting else { return polled };
        *missing = missing.saturating_sub(buffer.filled().len() - before);
        if *missing == 0 {
            this.greeting = None;
        } else if polled.is_pending() && limit.as_mut().poll(context).is_ready() {
            let context = "the client took too long to begin";
            return Poll::Ready(Err(io::Error::new(io::ErrorKind::TimedOut, context)));
        }
        polled
    }
}

impl<S: AsyncWrite + Unpin> AsyncWrite for Greeted<S> {
    fn poll_write(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

#[cfg(test)]
mod tests {
    use std::task::Waker;

    use super::*;

    /// What is read at once of one that sends without end.
    fn read(greeted: &mut Greeted<io::Cursor<Vec<u8>>>) -> Option<usize> {
        let mut space = vec![0; BYTES_A_TURN];
        let mut buffer = ReadBuf::new(&mut space);
        let mut context = Context::from_waker(Waker::noop());
        match Pin::new(greeted).poll_read(&mut context, &mut buffer) {
            Poll::Pending => None,
            Poll::Ready(result) => result.map(|()| buffer.filled().len()).ok(),
        }
    }

    #[tokio::test]
    async fn connections_are_read_in_turns_and_those_over_their_share_less_often() {
        let over_share = Arc::new(AtomicBool::new(false));
        let bytes = io::Cursor::new(vec![0; 4 * BYTES_A_TURN]);
        let mut greeted = Greeted::new(bytes, Duration::from_secs(60), over_share.clone());
        assert_eq!(read(&mut greeted), Some(BYTES_A_TURN));
        assert_eq!(read(&mut greeted), None, "others have their turn");
        assert_eq!(read(&mut greeted), Some(BYTES_A_TURN));
        assert_eq!(read(&mut greeted), None);
        over_share.store(true, Ordering::Relaxed);
        assert_eq!(read(&mut greeted), None, "it rests");
        std::future::poll_fn(|context| greeted.poll_turn(context)).await;
        assert_eq!(read(&mut greeted), Some(BYTES_A_TURN));
    }

    #[test]
    fn of_large_headers_only_what_is_read_is_kept() {
        let mut headers = HeaderMap::new();
        headers.insert("content-type", HeaderValue::from_static("application/grpc"));
        headers.insert("grpc-timeout", HeaderValue::from_static("3S"));
        headers.insert("x-trace", HeaderValue::from_static("1"));
        let small = headers.clone();
        lighten(&mut headers);
        assert_eq!(headers, small);
        let long = HeaderValue::from_str(&"x".repeat(14_000)).unwrap();
        headers.insert("x-long", long.clone());
        headers.insert("user-agent", long);
        lighten(&mut headers);
        let mut expected = small;
        expected.remove("x-trace");
        assert_eq!(headers, expected);
    }
}
