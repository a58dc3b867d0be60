//! Spans of calls, for whoever collects traces.

use std::{fmt, sync::Arc};

use http::HeaderMap;
use tonic::Code;
use tracing::Span;

/// The field of a span that takes the status of its call, as a number.
pub const SPAN_CODE: &str = "rpc.grpc.status_code";

type Make = dyn Fn(&'static str, &HeaderMap) -> Span + Send + Sync;

/// Makes spans of calls, if they are wanted.
#[derive(Clone, Default)]
pub(crate) struct Spans(Option<Arc<Make>>);

impl Spans {
    pub(crate) fn by(
        make: impl Fn(&'static str, &HeaderMap) -> Span + Send + Sync + 'static,
    ) -> Self {
        Self(Some(Arc::new(make)))
    }

    /// The span of a call, unless it is to have none.
    #[inline]
    pub(crate) fn of(&self, call: &'static str, headers: &HeaderMap) -> Option<Box<Span>> {
        let make = self.0.as_ref()?;
        Some(Box::new(make(call, headers))).filter(|span| !span.is_disabled())
    }
}

impl fmt::Debug for Spans {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Spans").field(&self.0.is_some()).finish()
    }
}

/// Notes how a call has ended.
pub(crate) fn ended(span: &Span, code: Code) {
    span.record(SPAN_CODE, code as i32);
}
