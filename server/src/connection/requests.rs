//! The requests of one connection.

use std::{
    convert::Infallible,
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
};

use futures::{FutureExt as _, TryFutureExt as _, future::Either};
use http::{HeaderMap, HeaderName, HeaderValue, Request, Response, header};
use hyper::body::Incoming;
use tonic::{Code, body::Body, service::Routes};
use tower::ServiceExt as _;
use tsoracle_core::{Places, Room};

use crate::{
    answer::{Answer, refused},
    edge::Allowed,
    gate::{Refused, not_grpc},
    meters::CallMeters,
    method::Method,
    pages::{self, Answering, Pages, ready},
    rights::Session,
};

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
pub(super) struct Known {
    pub(super) session: Session,
    pub(super) routes: Routes,
    pub(super) room: Arc<Room>,
    pub(super) meters: Arc<CallMeters>,
    /// Set when a call is refused for want of a place.
    pub(super) over_share: Arc<AtomicBool>,
    pub(super) pages: Option<Pages>,
}

impl Known {
    /// Not an `async fn`, whose future would have room for the call twice.
    pub(super) fn answer(
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
    pub(super) fn page(&self, pages: &Pages, mut request: Request<Body>) -> Answering {
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

#[cfg(test)]
mod tests {
    use super::*;

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
