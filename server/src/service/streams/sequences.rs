use std::{
    future::Future,
    mem,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, ready},
};

use futures::{Stream, stream::FuturesOrdered};
use tonic::{Code, Status, Streaming};
use tracing::{Instrument as _, Span, info_span};
use tsoracle_core::{Oracle, Places, Result, Room, SPANS, SeqGrant, SeqRequest};
use tsoracle_proto::{
    MAX_STREAM_SEQ_BYTES, MAX_STREAM_SEQ_REQUESTS,
    v1::{
        GetSeqRequest, GetSeqResponse, SeqFailure, SeqOutcome, SeqRunFailure, SeqRunOutcome,
        StreamSeqRequest, StreamSeqResponse, seq_outcome::Outcome,
    },
};

use super::{Ending, run::Run};
use crate::{
    meters::CallMeters,
    method::Method,
    rights::{Client, Right},
    service::{convert, denied},
    status::{self, Asked, Failures, Statuses},
};

/// The most messages of one stream under way at once. One is being committed and one gathers for
/// the next commit; the rest makes up for the way there and back. A client that sends more is held
/// back by the flow control of its stream.
const MAX_UNDER_WAY: usize = 16;

/// After a message of more requests than that, other tasks of the thread have their turn: to read or to answer
/// it takes as long as many small calls do.
const LARGE: usize = 256;

/// What becomes of the requests of one message.
type Outcomes = Pin<Box<dyn Future<Output = Answered> + Send>>;

/// The outcomes of one message.
struct Answered {
    /// How many of the requests stand by themselves.
    singles: usize,
    outcomes: Vec<Result<SeqGrant>>,
    /// Until the answer is taken, so that what a client does not read is bounded.
    places: Places,
}

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
    room: Arc<Room>,
    client: Arc<Client>,
    meters: Arc<CallMeters>,
    /// That of the call, if it has one. Each message gets one below it.
    span: Option<Span>,
    /// Other tasks have to have their turn first.
    yields: bool,
}

impl SeqAnswers {
    pub(crate) fn new(
        oracle: Oracle,
        statuses: Statuses,
        requests: Streaming<StreamSeqRequest>,
        ending: Ending,
        (room, client): (Arc<Room>, Arc<Client>),
        meters: Arc<CallMeters>,
    ) -> Self {
        Self {
            oracle,
            statuses,
            requests: Some(requests),
            under_way: FuturesOrdered::new(),
            last: None,
            ending,
            room,
            client,
            meters,
            span: Some(Span::current()).filter(|span| !span.is_disabled()),
            yields: false,
        }
    }

    /// Takes in what has come, as far as there is room.
    fn take_in(&mut self, context: &mut Context<'_>) {
        while self.under_way.len() < MAX_UNDER_WAY
            && !self.yields
            && let Some(requests) = &mut self.requests
        {
            let message = match Pin::new(requests).poll_next(context) {
                Poll::Pending => return,
                Poll::Ready(None) => return self.requests = None,
                Poll::Ready(Some(message)) => message.map_err(refused_unread),
            };
            match message.and_then(checked).and_then(|message| self.submitted(message)) {
                Ok(outcomes) => self.under_way.push_back(outcomes),
                Err(status) => {
                    self.meters.count(Method::STREAM_SEQ, status.code(), 1);
                    self.end_with(status);
                }
            }
        }
    }

    /// Submits the requests of a message once it is polled, if there are places for their answers.
    fn submitted(
        &mut self,
        (singles, count, requests): (
            usize,
            usize,
            impl Iterator<Item = Result<SeqRequest>> + Send + 'static,
        ),
    ) -> Result<Outcomes, Status> {
        let admitted = self.admitted(count);
        let places = self.room.enter(self.client.caller(), count);
        let places = places.map_err(|error| self.statuses.of(&error, Asked::Sequences))?;
        self.yields = count > LARGE;
        let (oracle, client) = (self.oracle.clone(), self.client.clone());
        let requests = requests.map(move |request| {
            admitted.clone()?;
            let request = request?;
            may_advance(&client, &request)?;
            Ok(request)
        });
        let answered = async move {
            let outcomes = oracle.get_seqs(requests).await;
            Answered { singles, outcomes, places }
        };
        Ok(match &self.span {
            None => Box::pin(answered),
            Some(call) => {
                let span =
                    info_span!(target: SPANS, parent: call, "message", requests = count as i64);
                Box::pin(answered.instrument(span))
            }
        })
    }

    /// Streams last: what the client may do can change meanwhile.
    fn admitted(&mut self, requests: usize) -> Result<()> {
        if !self.client.is_current() {
            self.client = self.client.renewed()?;
            if let Some(caller) = self.client.caller() {
                self.oracle = self.oracle.clone().with_caller(caller.clone());
            }
        }
        self.client.count(requests)
    }

    /// Reads no more.
    fn end_with(&mut self, status: Status) {
        self.requests = None;
        self.last = Some(status);
    }

    fn answer(&mut self, answered: Answered) -> StreamSeqResponse {
        let Answered { singles, outcomes, places } = answered;
        let granted = outcomes.iter().filter(|outcome| outcome.is_ok()).count();
        self.meters.count(Method::STREAM_SEQ, Code::Ok, granted as u64);
        self.yields = outcomes.len() > LARGE;
        let mut failures = Failures::new(&self.statuses);
        let outcome = |outcome: Result<SeqGrant>| SeqOutcome {
            outcome: Some(match outcome.map(response) {
                Ok(Some(granted)) => Outcome::Granted(granted),
                Ok(None) => Outcome::Failed(self.statuses.no_block()),
                Err(error) => Outcome::Failed(self.counted(failures.of(&error))),
            }),
        };
        let mut outcomes = outcomes.into_iter();
        let singles = outcomes.by_ref().take(singles).map(outcome).collect();
        let run = (outcomes.len() > 0).then(|| self.run_outcome(outcomes));
        drop(places);
        StreamSeqResponse { outcomes: singles, run }
    }

    fn counted(&self, failure: SeqFailure) -> SeqFailure {
        let code = Code::from_i32(i32::try_from(failure.code).unwrap_or_default());
        self.meters.count(Method::STREAM_SEQ, code, 1);
        failure
    }

    fn run_outcome(
        &self,
        outcomes: impl ExactSizeIterator<Item = Result<SeqGrant>>,
    ) -> SeqRunOutcome {
        let starts = Vec::with_capacity(outcomes.len());
        let mut refused = Failures::new(&self.statuses);
        let mut run = SeqRunOutcome { starts, epoch: None, failures: vec![] };
        for (index, outcome) in (0..).zip(outcomes) {
            let failure = match &outcome {
                Ok(grant) => match grant.blocks.first() {
                    Some(block) => {
                        run.starts.push(block.start);
                        run.epoch = Some(convert::epoch(grant.epoch));
                        continue;
                    }
                    None => self.statuses.no_block(),
                },
                Err(error) => self.counted(refused.of(error)),
            };
            run.starts.push(0);
            run.failures.push(SeqRunFailure { index, failure: Some(failure) });
        }
        run
    }
}

impl Stream for SeqAnswers {
    type Item = Result<StreamSeqResponse, Status>;

    fn poll_next(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<StreamSeqResponse, Status>>> {
        let this = &mut *self;
        if mem::take(&mut this.yields) {
            context.waker().wake_by_ref();
            return Poll::Pending;
        }
        if this.requests.is_some() {
            this.take_in(context);
        }
        if mem::take(&mut this.yields) {
            // It is polled again for what else has come.
            context.waker().wake_by_ref();
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
            Some(answered) => Poll::Ready(Some(Ok(this.answer(answered)))),
            None if this.requests.is_some() => Poll::Pending,
            None => Poll::Ready(this.last.take().map(Err)),
        }
    }
}

/// Checks the right for every sequence of a request.
fn may_advance(client: &Client, request: &SeqRequest) -> Result<()> {
    request.entries().iter().try_for_each(|(key, _)| {
        let allowed = client.check_key(Right::Seq, key.as_str());
        allowed.inspect_err(|error| drop(denied(client, Right::Seq, key.as_str(), error)))
    })
}

fn request(request: GetSeqRequest) -> Result<SeqRequest> {
    let GetSeqRequest { key, count, request_id } = request;
    convert::seq_request([(key, count)], request_id)
}

fn response(grant: SeqGrant) -> Option<GetSeqResponse> {
    let block = grant.blocks.into_iter().next()?;
    let epoch = Some(convert::epoch(grant.epoch));
    Some(GetSeqResponse { key: block.key.into(), start: block.start, count: block.count, epoch })
}

/// How many requests of a message stand by themselves, how many there are, and all of them, those of its run
/// last.
fn checked(
    message: StreamSeqRequest,
) -> Result<(usize, usize, impl Iterator<Item = Result<SeqRequest>> + Send), Status> {
    let StreamSeqRequest { requests, run } = message;
    let run = run.map(Run::new).transpose()?;
    let singles = requests.len();
    match singles + run.as_ref().map_or(0, Run::len) {
        count @ 1..=MAX_STREAM_SEQ_REQUESTS => {
            Ok((singles, count, requests.into_iter().map(request).chain(run.into_iter().flatten())))
        }
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
        _ => status::undecodable(status),
    }
}
