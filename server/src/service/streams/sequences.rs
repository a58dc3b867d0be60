use std::{
    future::Future,
    pin::Pin,
    task::{Context, Poll, ready},
};

use futures::{Stream, stream::FuturesOrdered};
use tonic::{Code, Status, Streaming};
use tsoracle_core::{Oracle, Result, SeqGrant};
use tsoracle_proto::{
    MAX_STREAM_SEQ_BYTES, MAX_STREAM_SEQ_REQUESTS,
    v1::{
        GetSeqRequest, GetSeqResponse, SeqOutcome, StreamSeqRequest, StreamSeqResponse,
        seq_outcome::Outcome,
    },
};

use super::Ending;
use crate::{
    service::convert,
    status::{Asked, Statuses},
};

/// The most messages of one stream under way at once. One is being committed and one gathers for
/// the next commit; the rest makes up for the way there and back. A client that sends more is held
/// back by the flow control of its stream.
const MAX_UNDER_WAY: usize = 16;

/// What becomes of the requests of one message.
type Outcomes = Pin<Box<dyn Future<Output = Vec<Result<SeqGrant>>> + Send>>;

/// The answers of `StreamSeq`: one per message, in order.
///
/// Each message is submitted when it has come. Dropping the stream withdraws what has not been
/// submitted for commit by then.
pub(crate) struct SeqAnswers {
    oracle: Oracle,
    statuses: Statuses,
    /// Until their end.
    requests: Option<Streaming<StreamSeqRequest>>,
    under_way: FuturesOrdered<Outcomes>,
    /// What the stream ends with once everything under way is answered.
    last: Option<Status>,
    ending: Ending,
}

impl SeqAnswers {
    pub(crate) fn new(
        oracle: Oracle,
        statuses: Statuses,
        requests: Streaming<StreamSeqRequest>,
        ending: Ending,
    ) -> Self {
        let under_way = FuturesOrdered::new();
        Self { oracle, statuses, requests: Some(requests), under_way, last: None, ending }
    }

    /// Takes in what has come, as far as there is room.
    fn take_in(&mut self, context: &mut Context<'_>) {
        while self.under_way.len() < MAX_UNDER_WAY
            && let Some(requests) = &mut self.requests
        {
            let message = match Pin::new(requests).poll_next(context) {
                Poll::Pending => return,
                Poll::Ready(None) => return self.requests = None,
                Poll::Ready(Some(message)) => message.map_err(refused_unread),
            };
            match message.and_then(checked) {
                Ok(requests) => {
                    let oracle = self.oracle.clone();
                    let requests = requests.into_iter().map(request);
                    self.under_way
                        .push_back(Box::pin(async move { oracle.get_seqs(requests).await }));
                }
                Err(status) => self.end_with(status),
            }
        }
    }

    /// Reads no more.
    fn end_with(&mut self, status: Status) {
        self.requests = None;
        self.last = Some(status);
    }

    fn answer(&self, outcomes: Vec<Result<SeqGrant>>) -> Result<StreamSeqResponse, Status> {
        let outcome = |outcome: Result<SeqGrant>| SeqOutcome {
            outcome: Some(match outcome.map(response) {
                Ok(Some(granted)) => Outcome::Granted(granted),
                Ok(None) => Outcome::Failed(self.statuses.no_block()),
                Err(error) => Outcome::Failed(self.statuses.failure(&error)),
            }),
        };
        Ok(StreamSeqResponse { outcomes: outcomes.into_iter().map(outcome).collect() })
    }
}

impl Stream for SeqAnswers {
    type Item = Result<StreamSeqResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<StreamSeqResponse, Status>>> {
        let this = &mut *self;
        if this.requests.is_some() {
            this.take_in(context);
        }
        // Taken in first: what has come before the end is answered still.
        if this.requests.is_some()
            && let Poll::Ready(status) =
                this.ending.poll(context, (&this.statuses, Asked::Sequences))
        {
            this.end_with(status);
        }
        // Polled even if nothing was under way before: so a request is submitted as it comes.
        match ready!(Pin::new(&mut this.under_way).poll_next(context)) {
            Some(outcomes) => Poll::Ready(Some(this.answer(outcomes))),
            None if this.requests.is_some() => Poll::Pending,
            None => Poll::Ready(this.last.take().map(Err)),
        }
    }
}

fn request(request: GetSeqRequest) -> Result<tsoracle_core::SeqRequest> {
    let GetSeqRequest { key, count, request_id } = request;
    convert::seq_request([(key, count)], request_id)
}

fn response(grant: SeqGrant) -> Option<GetSeqResponse> {
    let block = grant.blocks.into_iter().next()?;
    let epoch = Some(convert::epoch(grant.epoch));
    Some(GetSeqResponse { key: block.key.into(), start: block.start, count: block.count, epoch })
}

fn checked(message: StreamSeqRequest) -> Result<Vec<GetSeqRequest>, Status> {
    match message.requests.len() {
        1..=MAX_STREAM_SEQ_REQUESTS => Ok(message.requests),
        len => Err(Status::invalid_argument(format!(
            "a message has 1 to {MAX_STREAM_SEQ_REQUESTS} requests, not {len}"
        ))),
    }
}

/// A message beyond the limit is refused by its length, in words of the transport's.
fn refused_unread(status: Status) -> Status {
    match status.code() {
        Code::OutOfRange => Status::invalid_argument(format!(
            "a message has at most {MAX_STREAM_SEQ_BYTES} bytes: {}",
            status.message()
        )),
        _ => status,
    }
}
