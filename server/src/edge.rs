//! What holds for every call, whatever it asks: its deadline, and the mark on its answer.

use std::{
    convert::Infallible,
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use http::{HeaderMap, HeaderName, HeaderValue, Request, Response};
use tokio::time::Sleep;
use tonic::{Code, Status, body::Body, server::NamedService};
use tower::Service;
use tracing::Span;
use tsoracle_proto::metadata;

use crate::{
    gate::{self, Gate},
    meters::{self, CallMeters},
    method::Method,
    rights::Client,
    spans::{self, Spans},
    status,
};

/// An answer sent this much before the deadline still reaches a caller who gives up at it, and is
/// made before the timer of a tonic server around this one, which would answer `CANCELLED`.
const HEAD_START: Duration = Duration::from_millis(5);

/// Says that request ids are honoured.
pub(crate) const SESSIONS: HeaderName = HeaderName::from_static(metadata::SESSIONS);

/// Who makes a call, and how long it may take. Travels with the request.
#[derive(Clone, Debug)]
pub(crate) struct Allowed {
    pub(crate) client: Arc<Client>,
    /// How long it may wait for a leader: while it does, it is certain that nothing was done, and
    /// a definite answer is better than a deadline that has passed.
    pub(crate) hold: Duration,
    /// What the client has asked for, if anything. A stream lasts no longer; the server's own limit
    /// is not for streams.
    pub(crate) asked: Option<Duration>,
}

impl Allowed {
    /// For a call whose deadline was not looked at yet.
    pub(crate) fn of(client: Arc<Client>) -> Self {
        Self { client, hold: Duration::MAX, asked: None }
    }
}

/// A service whose calls are made by those who may, and end at their deadline.
///
/// Then the call's future is dropped, which withdraws a request that has not been submitted yet.
#[derive(Clone, Debug)]
pub(crate) struct Edge<S> {
    inner: S,
    gate: Gate,
    observed: Observed,
    request_time: Duration,
    marked: bool,
}

/// What is noted of calls.
#[derive(Clone, Debug)]
pub(crate) struct Observed {
    pub(crate) meters: Arc<CallMeters>,
    pub(crate) spans: Spans,
}

impl<S> Edge<S> {
    /// Calls pass the gate, and none takes longer than `request_time`.
    pub(crate) fn new(inner: S, gate: Gate, observed: Observed, request_time: Duration) -> Self {
        Self { inner, gate, observed, request_time, marked: false }
    }

    /// Says in every answer, failures included, that request ids are honoured.
    pub(crate) fn marked(self) -> Self {
        Self { marked: true, ..self }
    }
}

impl<S: NamedService> NamedService for Edge<S> {
    const NAME: &'static str = S::NAME;
}

impl<S> Service<Request<Body>> for Edge<S>
where
    S: Service<Request<Body>, Response = Response<Body>, Error = Infallible>,
    S::Future: Unpin + Send + 'static,
{
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = Call<S::Future>;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> Self::Future {
        let marks = Marks {
            sessions: self.marked,
            definite: gate::takes_denial_for_uncertain(request.uri().path(), request.headers()),
        };
        let method = Method::of(request.uri().path());
        let Observed { meters, spans } = &self.observed;
        let span = spans.of(method.path(), request.headers());
        let counted = Counted { meters: meters.clone(), method, began: meters::now(), span };
        let call = |stage| Call { stage, marks, counted: Some(counted) };
        let client = match self.gate.admit(&mut request) {
            Ok(client) => client,
            Err(status) => return call(Stage::Refused(Some(status))),
        };
        let Ok(asked) = timeout(request.headers()) else {
            return call(Stage::Refused(Some(status::bad_timeout())));
        };
        let asked = asked.map(ahead_of);
        let limit = asked.unwrap_or(self.request_time).min(self.request_time);
        if limit.is_zero() {
            return call(Stage::Refused(Some(status::too_late())));
        }
        let hold = ahead_of(limit);
        let extensions = request.extensions_mut();
        match extensions.get_mut::<Allowed>() {
            Some(allowed) => (allowed.hold, allowed.asked) = (hold, asked),
            None => drop(extensions.insert(Allowed { client, hold, asked })),
        }
        let under_way = self.inner.call(request);
        call(Stage::UnderWay { call: under_way, limit, timer: None })
    }
}

/// A call under way, up to its answer. What a stream takes after that is its own affair.
#[derive(Debug)]
pub(crate) struct Call<F> {
    stage: Stage<F>,
    marks: Marks,
    /// Until it is answered.
    counted: Option<Counted>,
}

/// Counts a call once it is answered, or given up.
#[derive(Debug)]
struct Counted {
    meters: Arc<CallMeters>,
    method: Method,
    began: Instant,
    span: Option<Box<Span>>,
}

impl Counted {
    fn answered(&self, response: &Response<Body>) {
        let code = response.headers().get(Status::GRPC_STATUS);
        let code = code.map(|code| Code::from_bytes(code.as_bytes()));
        if let Some(span) = &self.span {
            spans::ended(span, code.unwrap_or(Code::Ok));
        }
        let code = match code {
            Some(code) => code,
            // The requests of a stream count as they are answered.
            None if self.method.streams() => return,
            None => Code::Ok,
        };
        self.meters.answered(self.method, code, self.began.elapsed());
    }
}

/// A caller that is gone has cancelled its call.
impl<F> Drop for Call<F> {
    fn drop(&mut self) {
        if let Some(counted) = self.counted.take() {
            counted.meters.count(counted.method, Code::Cancelled, 1);
            if let Some(span) = &counted.span {
                spans::ended(span, Code::Cancelled);
            }
        }
    }
}

/// What is particular about an answer.
#[derive(Clone, Copy, Debug)]
struct Marks {
    /// It says that request ids are honoured.
    sessions: bool,
    /// A denial must not look like a commit that may have happened.
    definite: bool,
}

#[derive(Debug)]
enum Stage<F> {
    Refused(Option<Status>),
    UnderWay {
        call: F,
        limit: Duration,
        /// Set only once the call has to wait: most never do.
        timer: Option<Pin<Box<Sleep>>>,
    },
}

impl<F> Future for Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    type Output = Result<Response<Body>, Infallible>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let span = self.counted.as_ref().and_then(|counted| counted.span.clone());
        match span {
            None => self.poll_answer(context),
            Some(span) => span.in_scope(|| self.poll_answer(context)),
        }
    }
}

impl<F> Call<F>
where
    F: Future<Output = Result<Response<Body>, Infallible>> + Unpin,
{
    #[expect(clippy::disallowed_methods, reason = "the time a client allows is no lease")]
    fn poll_answer(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Result<Response<Body>, Infallible>> {
        let marks = self.marks;
        let mut response = match &mut self.stage {
            Stage::Refused(status) => match status.take() {
                Some(status) => decided(status.into_http(), marks),
                None => return Poll::Pending,
            },
            Stage::UnderWay { call, limit, timer } => match Pin::new(call).poll(context) {
                Poll::Ready(Ok(response)) => decided(response, marks),
                Poll::Ready(Err(never)) => match never {},
                Poll::Pending => {
                    let timer = timer.get_or_insert_with(|| Box::pin(tokio::time::sleep(*limit)));
                    if timer.as_mut().poll(context).is_pending() {
                        return Poll::Pending;
                    }
                    // The future is dropped with its answer, and what it asked for withdrawn.
                    status::too_late().into_http()
                }
            },
        };
        if marks.sessions {
            response.headers_mut().insert(SESSIONS, HeaderValue::from_static("1"));
        }
        if let Some(counted) = self.counted.take() {
            counted.answered(&response);
        }
        Poll::Ready(Ok(response))
    }
}

/// The answer, or what it should have been for a request that could not be decoded, or a client that misreads it.
fn decided(response: Response<Body>, marks: Marks) -> Response<Body> {
    if !response.headers().contains_key(Status::GRPC_STATUS) {
        return response;
    }
    match Status::from_header_map(response.headers()) {
        Some(failed) if failed.code() == Code::Internal => status::undecodable(failed).into_http(),
        Some(failed) if marks.definite => gate::definite(failed).into_http(),
        _ => response,
    }
}

fn ahead_of(deadline: Duration) -> Duration {
    deadline.saturating_sub(HEAD_START.min(deadline / 10))
}

#[derive(PartialEq, Debug)]
struct InvalidTimeout;

/// How long the caller waits, if it says so.
fn timeout(headers: &HeaderMap) -> Result<Option<Duration>, InvalidTimeout> {
    let Some(value) = headers.get("grpc-timeout") else { return Ok(None) };
    let (unit, digits) = value.as_bytes().split_last().ok_or(InvalidTimeout)?;
    if !(1..=8).contains(&digits.len()) || !digits.iter().all(u8::is_ascii_digit) {
        return Err(InvalidTimeout);
    }
    let number = digits.iter().fold(0, |number, digit| number * 10 + u64::from(digit - b'0'));
    Ok(Some(match unit {
        b'H' => Duration::from_secs(number * 3_600),
        b'M' => Duration::from_secs(number * 60),
        b'S' => Duration::from_secs(number),
        b'm' => Duration::from_millis(number),
        b'u' => Duration::from_micros(number),
        b'n' => Duration::from_nanos(number),
        _ => return Err(InvalidTimeout),
    }))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn parse(value: &str) -> Result<Option<Duration>, InvalidTimeout> {
        let mut headers = HeaderMap::new();
        headers.insert("grpc-timeout", HeaderValue::from_str(value).unwrap());
        timeout(&headers)
    }

    #[test]
    fn every_unit_is_read() {
        assert_eq!(timeout(&HeaderMap::new()), Ok(None));
        let table = [
            ("1H", Duration::from_secs(3_600)),
            ("2M", Duration::from_secs(120)),
            ("3S", Duration::from_secs(3)),
            ("250m", Duration::from_millis(250)),
            ("7u", Duration::from_micros(7)),
            ("0n", Duration::ZERO),
            ("99999999H", Duration::from_secs(99_999_999 * 3_600)),
        ];
        for (text, expected) in table {
            assert_eq!(parse(text), Ok(Some(expected)), "{text}");
        }
    }

    #[test]
    fn what_is_no_time_is_refused() {
        for text in ["", "S", "10", "1x", "-1S", "1.5S", "123456789S", " 1S", "1s"] {
            assert_eq!(parse(text), Err(InvalidTimeout), "{text:?}");
        }
    }
}
