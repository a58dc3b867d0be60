use std::{
    future::Future,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::Stream;
use tonic::{Code, Status, Streaming};
use tsoracle_core::{Grant, Oracle, Result};
use tsoracle_proto::v1::{GetTsRequest, GetTsResponse};

use super::Ending;
use crate::{
    meters::CallMeters,
    method::Method,
    rights::{Client, Right},
    service::{convert, denied},
    status::{self, Asked, Statuses},
};

/// The answers of `StreamTs`: one per request, in order, each granted after its request has come.
///
/// The next request is not looked at before the answer to the one before it is taken, so that a
/// client which stops reading is held back by the flow control of its own stream.
pub(crate) struct TsAnswers {
    oracle: Oracle,
    statuses: Statuses,
    requests: Streaming<GetTsRequest>,
    /// A request that cannot be granted at once.
    held: Option<Pin<Box<dyn Future<Output = Result<Grant>> + Send>>>,
    ending: Ending,
    client: Arc<Client>,
    meters: Arc<CallMeters>,
}

impl TsAnswers {
    pub(crate) fn new(
        oracle: Oracle,
        statuses: Statuses,
        requests: Streaming<GetTsRequest>,
        ending: Ending,
        client: Arc<Client>,
        meters: Arc<CallMeters>,
    ) -> Self {
        Self { oracle, statuses, requests, held: None, ending, client, meters }
    }

    fn answer(&self, granted: Result<Grant>) -> Result<GetTsResponse, Status> {
        let answer = granted
            .map(convert::timestamps)
            .map_err(|error| self.statuses.of(&error, Asked::Timestamps));
        let code = answer.as_ref().map_or_else(Status::code, |_| Code::Ok);
        self.meters.count(Method::STREAM_TS, code, 1);
        answer
    }

    /// Streams last: what the client may do can change meanwhile.
    fn admitted(&mut self) -> Result<()> {
        if !self.client.is_current() {
            self.client = self.client.renewed()?;
        }
        let checked = self.client.check(&[Right::Ts]);
        checked.inspect_err(|error| {
            drop(denied(&self.client, Right::Ts, Method::STREAM_TS.path(), error));
        })?;
        self.client.count(1)
    }

    fn poll_answer(
        &mut self,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<GetTsResponse, Status>>> {
        if self.held.is_none() {
            let Some(request) = ready!(Pin::new(&mut self.requests).poll_next(context)) else {
                return Poll::Ready(None);
            };
            let count = match request {
                Ok(request) => request.count,
                Err(status) => return Poll::Ready(Some(Err(status::undecodable(status)))),
            };
            match self.admitted().and_then(|()| self.oracle.try_get_ts(count)) {
                Ok(Some(granted)) => return Poll::Ready(Some(self.answer(Ok(granted)))),
                Err(error) => return Poll::Ready(Some(self.answer(Err(error)))),
                Ok(None) => {
                    let oracle = self.oracle.clone();
                    self.held = Some(Box::pin(async move { oracle.get_ts(count).await }));
                }
            }
        }
        let Some(held) = &mut self.held else { return Poll::Pending };
        let granted = ready!(held.as_mut().poll(context));
        self.held = None;
        Poll::Ready(Some(self.answer(granted)))
    }
}

impl Stream for TsAnswers {
    type Item = Result<GetTsResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<GetTsResponse, Status>>> {
        let this = &mut *self;
        if let Poll::Ready(answer) = this.poll_answer(context) {
            return Poll::Ready(answer);
        }
        let status = ready!(this.ending.poll(context, (&this.statuses, Asked::Timestamps)));
        Poll::Ready(Some(Err(status)))
    }
}
