//! What calls under way hold: a place each, of which a client has no more than its share.

use std::{
    pin::Pin,
    task::{Context, Poll},
};

use http::{HeaderValue, Response};
use hyper::body::{Bytes, Frame, SizeHint};
use tonic::{Status, body::Body};
use tsoracle_core::{Error, Places};

use crate::{
    edge::SESSIONS,
    status::{Asked, Statuses},
};

/// The body of an answer. Until it is sent or given up, its call is under way.
#[derive(Debug)]
pub(crate) struct Answer {
    body: Body,
    _place: Option<Places>,
}

impl Answer {
    pub(crate) fn new(body: Body, place: Option<Places>) -> Self {
        Self { body, _place: place }
    }
}

impl hyper::body::Body for Answer {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

/// What a call gets for which there is no place. Nothing of it was done.
#[cold]
pub(crate) fn refused(error: &Error) -> Response<Body> {
    let mut response = Statuses::default().of(error, Asked::Sequences).into_http();
    // It has not come to the service, which says so.
    response.headers_mut().insert(SESSIONS, HeaderValue::from_static("1"));
    response
}
