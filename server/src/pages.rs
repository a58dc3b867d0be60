//! What is served over plain HTTP besides gRPC: pages and probes, for browsers, kubelets and Prometheus.

use std::{
    collections::BTreeSet, convert::Infallible, future::Future, io, pin::Pin, sync::Arc,
    time::Duration,
};

use futures::future;
use http::{HeaderValue, Request, Response, StatusCode, header};
use http_body_util::BodyExt as _;
use hyper::{body::Incoming, server::conn::http1, service::service_fn};
use hyper_util::rt::{TokioIo, TokioTimer};
use tokio::{
    io::{AsyncRead, AsyncReadExt as _, AsyncWrite, AsyncWriteExt as _},
    net::TcpListener,
    task::{AbortHandle, JoinSet},
    time::timeout,
};
use tonic::{body::Body, service::Routes};
use tower::ServiceExt as _;
use tsoracle_core::{Clock as _, Error, ErrorKind, SystemClock};

use crate::{edge::Allowed, gate::Refused, rights::Right};

/// The most connections of probes at once. The oldest one makes room for a new one, so that whoever holds
/// connections keeps nobody out.
const CONNECTIONS: usize = 32;

/// How long a connection may last. Whoever asks again begins another one.
const LASTS: Duration = Duration::from_secs(if cfg!(test) { 1 } else { 60 });

/// How long a request may take to come.
const REQUEST: Duration = Duration::from_secs(5);

/// How long the head of a request may be.
const HEAD_BYTES: usize = 16 << 10;

/// How many headers it may have.
const HEADERS: usize = 64;

/// How long the listener is left alone when it fails, as it does without descriptors left.
const PAUSE: Duration = Duration::from_millis(50);

/// Pages that are served at an address of gRPC's, to those who may: who sends anything else than gRPC gets them.
#[derive(Clone, Debug)]
pub struct Pages {
    pub(crate) routes: Routes,
    open: Arc<BTreeSet<&'static str>>,
}

impl Pages {
    /// Pages for those who have the right `status`.
    pub fn new(routes: impl Into<Routes>) -> Self {
        Self { routes: routes.into().prepare(), open: Arc::default() }
    }

    /// These are for everybody who reaches the address: what tells nothing, and what supervisors ask for.
    #[must_use]
    pub fn open_to_all(self, paths: impl IntoIterator<Item = &'static str>) -> Self {
        Self { open: Arc::new(paths.into_iter().collect()), ..self }
    }

    /// Answers a request whose client is known, if that client may ask for it.
    pub(crate) fn answer(
        &self,
        mut request: Request<Body>,
    ) -> impl Future<Output = Response<Body>> + Send + 'static {
        let admitted = match self.open.contains(request.uri().path()) {
            true => Ok(()),
            false => admit(&mut request),
        };
        let routes = self.routes.clone();
        async move {
            match admitted {
                Ok(()) => asked(routes, request).await,
                Err(error) => refused(&error),
            }
        }
    }
}

/// Whether a client may see pages.
fn admit<B>(request: &mut Request<B>) -> Result<(), Error> {
    if let Some(Refused(error)) = request.extensions_mut().remove() {
        return Err(error);
    }
    let allowed = request.extensions().get::<Allowed>();
    let client = allowed.map(|allowed| allowed.client.clone());
    let Some(client) = client else {
        return Err(Error::new(ErrorKind::Unauthenticated, "it is not known who asks"));
    };
    client.check(&[Right::Status]).inspect_err(|error| {
        let status = crate::status::Statuses::default().of(error, crate::status::Asked::Sequences);
        client.audit().refused(client.who(), Right::Status.name(), request.uri().path(), &status);
    })?;
    client.count(1)
}

/// What those are answered who may not ask, or ask for too much.
pub(crate) fn refused(error: &Error) -> Response<Body> {
    let status = match error.kind() {
        ErrorKind::Unauthenticated => StatusCode::UNAUTHORIZED,
        ErrorKind::Denied => StatusCode::FORBIDDEN,
        ErrorKind::Overloaded => StatusCode::TOO_MANY_REQUESTS,
        _ => StatusCode::INTERNAL_SERVER_ERROR,
    };
    let mut response = Response::new(Body::new(format!("{error:#}\n")));
    *response.status_mut() = status;
    let text = HeaderValue::from_static("text/plain; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, text);
    if status == StatusCode::UNAUTHORIZED {
        let scheme = HeaderValue::from_static("Bearer");
        response.headers_mut().insert(header::WWW_AUTHENTICATE, scheme);
    }
    response
}

async fn asked(routes: Routes, request: Request<Body>) -> Response<Body> {
    match routes.oneshot(request).await {
        Ok(response) => response,
        Err(never) => match never {},
    }
}

/// Answers everybody who reaches the listener, over HTTP/1.1, within bounds of connections, time and bytes. Never
/// returns.
pub async fn serve_probes(listener: TcpListener, routes: impl Into<Routes>) {
    let routes = routes.into().prepare();
    let mut connections = JoinSet::new();
    let mut handles: Vec<AbortHandle> = vec![];
    let (mut fails, mut is_full) = (false, false);
    loop {
        let accepted = tokio::select! {
            accepted = listener.accept() => accepted,
            Some(_) = connections.join_next() => continue,
        };
        match accepted {
            Ok((stream, peer)) => {
                fails = false;
                handles.retain(|handle| !handle.is_finished());
                if handles.len() >= CONNECTIONS {
                    // Logged once for as long as it lasts.
                    if !std::mem::replace(&mut is_full, true) {
                        tracing::warn!(%peer, "too many connections of probes; the oldest are closed");
                    }
                    handles.remove(0).abort();
                }
                is_full &= handles.len() > CONNECTIONS / 2;
                let routes = routes.clone();
                let answering = move |request: Request<Body>| asked(routes.clone(), request);
                handles.push(connections.spawn(async move {
                    if let Ok(Err(error)) = timeout(LASTS, http1(stream, answering)).await {
                        tracing::debug!(%peer, error, "a connection of a probe has ended");
                    }
                }));
            }
            Err(error) => {
                // Logged once for as long as it lasts.
                if !std::mem::replace(&mut fails, true) {
                    tracing::warn!(%error, "cannot accept connections of probes");
                }
                SystemClock.sleep(PAUSE).await;
            }
        }
    }
}

type Failed = Box<dyn std::error::Error + Send + Sync>;

/// Serves a connection that speaks HTTP/1.1.
pub(crate) async fn http1<S, A>(
    stream: S,
    answering: impl Fn(Request<Body>) -> A + Send + 'static,
) -> Result<(), Failed>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    A: Future<Output = Response<Body>> + Send + 'static,
{
    // Before 1970 hyper panics: it looks at the date even where none is to be written.
    if SystemClock.now().wall_ms == 0 {
        return Ok(by_hand(stream, answering).await?);
    }
    let mut builder = http1::Builder::new();
    builder.timer(TokioTimer::new()).header_read_timeout(REQUEST).max_buf_size(HEAD_BYTES);
    let service = service_fn(move |request: Request<Incoming>| {
        let answer = answering(request.map(Body::new));
        async move { Ok::<_, Infallible>(answer.await) }
    });
    Ok(builder.serve_connection(TokioIo::new(stream), service).await?)
}

/// Answers one request, and hangs up.
async fn by_hand<S, A>(mut stream: S, answering: impl Fn(Request<Body>) -> A) -> io::Result<()>
where
    S: AsyncRead + AsyncWrite + Unpin,
    A: Future<Output = Response<Body>>,
{
    let Some(request) = timeout(REQUEST, read_head(&mut stream)).await?? else {
        return stream.write_all(b"HTTP/1.1 400 Bad Request\r\ncontent-length: 0\r\n\r\n").await;
    };
    let is_head = request.method() == http::Method::HEAD;
    let (head, body) = answering(request).await.into_parts();
    let body = body.collect().await.map_err(io::Error::other)?.to_bytes();
    let mut answer = format!("HTTP/1.1 {}\r\nconnection: close\r\n", head.status).into_bytes();
    for (name, value) in &head.headers {
        answer.extend_from_slice(name.as_str().as_bytes());
        answer.extend_from_slice(b": ");
        answer.extend_from_slice(value.as_bytes());
        answer.extend_from_slice(b"\r\n");
    }
    if !head.headers.contains_key(header::CONTENT_LENGTH) {
        answer.extend_from_slice(format!("content-length: {}\r\n", body.len()).as_bytes());
    }
    answer.extend_from_slice(b"\r\n");
    if !is_head {
        answer.extend_from_slice(&body);
    }
    stream.write_all(&answer).await?;
    stream.shutdown().await
}

/// Reads a request up to the end of its headers; none if it is no such thing.
async fn read_head<S: AsyncRead + Unpin>(stream: &mut S) -> io::Result<Option<Request<Body>>> {
    let mut read = Vec::new();
    loop {
        let mut headers = [httparse::EMPTY_HEADER; HEADERS];
        let mut parsed = httparse::Request::new(&mut headers);
        match parsed.parse(&read) {
            Ok(httparse::Status::Complete(_)) => return Ok(request(&parsed)),
            Ok(httparse::Status::Partial) if read.len() < HEAD_BYTES => {}
            _ => return Ok(None),
        }
        if stream.read_buf(&mut read).await? == 0 {
            return Ok(None);
        }
    }
}

fn request(parsed: &httparse::Request<'_, '_>) -> Option<Request<Body>> {
    let mut request = Request::builder().method(parsed.method?).uri(parsed.path?);
    for header in &*parsed.headers {
        request = request.header(header.name, header.value);
    }
    request.body(Body::empty()).ok()
}

/// What a connection speaks, by its first bytes, which are read again.
pub(crate) async fn begun<S>(
    stream: S,
) -> io::Result<(bool, impl AsyncRead + AsyncWrite + Unpin + Send + use<S>)>
where
    S: AsyncRead + AsyncWrite + Unpin + Send,
{
    let mut first = [0; 4];
    let (mut read, write) = tokio::io::split(stream);
    read.read_exact(&mut first).await?;
    let again = io::Cursor::new(first).chain(read);
    Ok((first == *b"PRI ", tokio::io::join(again, write)))
}

/// An answer that is there already.
pub(crate) fn ready(response: Response<Body>) -> Answering {
    Box::pin(future::ready(response))
}

/// An answer that is being made.
pub(crate) type Answering = Pin<Box<dyn Future<Output = Response<Body>> + Send>>;

#[cfg(test)]
#[path = "pages_test.rs"]
mod tests;
