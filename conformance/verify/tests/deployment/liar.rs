//! A server that speaks the whole protocol, and breaks one sentence of it.

use std::{
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard},
};

use futures::{Stream, StreamExt};
use tonic::{Request, Response, Status, Streaming, metadata::MetadataMap};
use tsoracle_proto::{
    metadata,
    v1::{self, sequence_service_server::SequenceService, tso_service_server::TsoService},
};

use crate::state::{Blocks, EPOCH, Entries, State};

/// What a server does wrong.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Lie {
    AnyCount,
    AnyKey,
    AnySession,
    AnswersOtherwise,
    BatchOutOfOrder,
    DeletesNothing,
    DeletesNothingUnderLoad,
    EpochGoesBack,
    FewerTimestamps,
    ForgetsIds,
    ForgetsNames,
    ForgetsNamesUnderLoad,
    FrontierRunsAhead,
    GoesBack,
    HalfABatch,
    HintsAtItself,
    HintsWithAScheme,
    InternalError,
    LeasesPushTime,
    LeasesTwice,
    LeavesTheMillisecond,
    ListsOnePage,
    ListsOutOfOrder,
    NewSessionOnRetry,
    /// Not a lie: so does the public server.
    NoAdditions,
    NoEpoch,
    NoKey,
    NothingIsSafe,
    OverflowIsInternal,
    ReadsOldValues,
    RefusalsSpend,
    RefusedBatchesSpend,
    ReissuesTimestamps,
    RenewsSuperseded,
    RenewsUnknown,
    RepeatsBlocks,
    ReusesIds,
    SeedsAgain,
    SkipsValues,
    StartsAt1,
    StreamFailsTogether,
    StreamOutOfOrder,
    UncommittedSpends,
    UnusedKeysAreZero,
    ZeroIsOutOfRange,
}

/// The server. Clones share their state.
#[derive(Clone)]
pub(crate) struct Liar {
    pub(crate) state: Arc<Mutex<State>>,
    /// Where the leader is, if this node does not lead.
    pub(crate) leader: Option<String>,
}

impl Liar {
    pub(crate) fn new(lie: Option<Lie>) -> Self {
        Self { state: Arc::new(Mutex::new(State::new(lie))), leader: None }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("nothing panics under the lock")
    }

    /// Refuses, unless this node leads.
    fn leading(&self) -> Result<MutexGuard<'_, State>, Status> {
        let Some(leader) = &self.leader else { return Ok(self.state()) };
        let scheme = if self.state().lies(Lie::HintsWithAScheme) { "http://" } else { "" };
        let leader_endpoint = Some(format!("{scheme}{leader}"));
        let mut trailers = MetadataMap::new();
        let hint = v1::LeaderHint { leader_endpoint, leader_epoch: Some(EPOCH) };
        metadata::insert_leader_hint(&mut trailers, &hint);
        Err(Status::with_metadata(tonic::Code::FailedPrecondition, "not leader", trailers))
    }

    fn granted(&self, (key, start, count): (String, u64, u32)) -> v1::GetSeqResponse {
        let state = self.state();
        let key = if state.lies(Lie::NoKey) { String::new() } else { key };
        let epoch = if state.lies(Lie::NoEpoch) { None } else { Some(EPOCH) };
        v1::GetSeqResponse { key, start, count, epoch }
    }

    fn one(&self, request: v1::GetSeqRequest) -> Result<v1::GetSeqResponse, Status> {
        let v1::GetSeqRequest { key, count, request_id } = request;
        let blocks = self.leading()?.get_seq(vec![(key, count)], request_id)?;
        let block = blocks.into_iter().next().ok_or_else(|| Status::internal("no block"))?;
        Ok(self.granted(block))
    }

    /// Fails if this server has nothing beyond the public protocol.
    fn addition(&self) -> Result<MutexGuard<'_, State>, Status> {
        let state = self.leading()?;
        if state.lies(Lie::NoAdditions) {
            return Err(Status::unimplemented("what is that?"));
        }
        Ok(state)
    }

    fn answer<T>(&self, message: T) -> Result<Response<T>, Status> {
        let mut response = Response::new(message);
        if !self.state().lies(Lie::NoAdditions) {
            metadata::insert_flag(response.metadata_mut(), metadata::SESSIONS);
        }
        Ok(response)
    }

    fn outcomes(&self, request: v1::StreamSeqRequest) -> Result<v1::StreamSeqResponse, Status> {
        if request.requests.is_empty() {
            return Err(Status::invalid_argument("an empty message"));
        }
        let together = self.state().lies(Lie::StreamFailsTogether);
        let outcomes = request.requests.into_iter().map(|request| self.one(request));
        let outcomes: Vec<_> = outcomes.collect();
        let fails = together && outcomes.iter().any(Result::is_err);
        let outcome = |outcome| match outcome {
            Ok(granted) if !fails => v1::seq_outcome::Outcome::Granted(granted),
            _ => v1::seq_outcome::Outcome::Failed(v1::SeqFailure {
                code: tonic::Code::InvalidArgument as u32,
                ..v1::SeqFailure::default()
            }),
        };
        let outcomes =
            outcomes.into_iter().map(|one| v1::SeqOutcome { outcome: Some(outcome(one)) });
        Ok(v1::StreamSeqResponse { outcomes: outcomes.collect(), run: None })
    }
}

type Answers<A> = Pin<Box<dyn Stream<Item = Result<A, Status>> + Send>>;

/// Answers each message, up to the first failure.
fn answers<Q: Send + 'static, A: Send + 'static>(
    requests: Streaming<Q>,
    mut answer: impl FnMut(Q) -> Result<A, Status> + Send + 'static,
) -> Answers<A> {
    let mut failed = false;
    let answers = requests.map(move |request| request.and_then(&mut answer));
    Box::pin(answers.take_while(move |answer| {
        let goes_on = !failed;
        failed = answer.is_err();
        std::future::ready(goes_on)
    }))
}

#[tonic::async_trait]
impl TsoService for Liar {
    type StreamTsStream = Answers<v1::GetTsResponse>;
    type StreamSeqStream = Answers<v1::StreamSeqResponse>;

    async fn get_ts(
        &self,
        request: Request<v1::GetTsRequest>,
    ) -> Result<Response<v1::GetTsResponse>, Status> {
        let count = request.into_inner().count;
        if count == 0 {
            let answer = self.state().get_ts(0)?;
            return self.answer(answer);
        }
        let answer = self.leading()?.get_ts(count)?;
        self.answer(answer)
    }

    async fn get_current_max_safe(
        &self,
        _: Request<v1::GetCurrentMaxSafeRequest>,
    ) -> Result<Response<v1::GetCurrentMaxSafeResponse>, Status> {
        let max_safe_physical_ms =
            if self.leader.is_some() { 0 } else { self.state().max_safe_ms() };
        let (epoch_hi, epoch_lo) = (EPOCH.hi, EPOCH.lo);
        self.answer(v1::GetCurrentMaxSafeResponse {
            max_safe_physical_ms,
            epoch_hi,
            epoch_lo,
            ..v1::GetCurrentMaxSafeResponse::default()
        })
    }

    async fn get_seq(
        &self,
        request: Request<v1::GetSeqRequest>,
    ) -> Result<Response<v1::GetSeqResponse>, Status> {
        let answer = self.one(request.into_inner())?;
        self.answer(answer)
    }

    async fn get_seq_batch(
        &self,
        request: Request<v1::GetSeqBatchRequest>,
    ) -> Result<Response<v1::GetSeqBatchResponse>, Status> {
        let v1::GetSeqBatchRequest { entries, request_id } = request.into_inner();
        let entries: Entries = entries.into_iter().map(|one| (one.key, one.count)).collect();
        let mut blocks: Blocks = self.leading()?.get_seq(entries, request_id)?;
        if self.state().lies(Lie::BatchOutOfOrder) {
            blocks.sort();
        }
        let grant = |(key, start, count)| v1::SeqGrantEntry { key, start, count };
        let grants = blocks.into_iter().map(grant).collect();
        self.answer(v1::GetSeqBatchResponse { grants, epoch: Some(EPOCH) })
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        let answer = self.addition()?.acquire(request.into_inner())?;
        self.answer(answer)
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let answer = self.addition()?.renew(request.into_inner().lease_id)?;
        self.answer(answer)
    }

    async fn release_lease(
        &self,
        request: Request<v1::ReleaseLeaseRequest>,
    ) -> Result<Response<v1::ReleaseLeaseResponse>, Status> {
        self.addition()?.release(request.into_inner().lease_id);
        self.answer(v1::ReleaseLeaseResponse {})
    }

    async fn get_safe_frontier(
        &self,
        _: Request<v1::GetSafeFrontierRequest>,
    ) -> Result<Response<v1::GetSafeFrontierResponse>, Status> {
        let frontier_physical_ms = self.addition()?.frontier_ms();
        let (epoch_hi, epoch_lo) = (EPOCH.hi, EPOCH.lo);
        self.answer(v1::GetSafeFrontierResponse { frontier_physical_ms, epoch_hi, epoch_lo })
    }

    async fn stream_ts(
        &self,
        request: Request<Streaming<v1::GetTsRequest>>,
    ) -> Result<Response<Self::StreamTsStream>, Status> {
        drop(self.addition()?);
        let liar = self.clone();
        let mut held = 0;
        self.answer(answers(request.into_inner(), move |request| {
            let mut state = liar.leading()?;
            let mut answer = state.get_ts(request.count)?;
            if state.lies(Lie::StreamOutOfOrder) {
                // The numbers of another answer.
                held += 1;
                answer.physical_ms -= held;
            }
            Ok(answer)
        }))
    }

    async fn stream_seq(
        &self,
        request: Request<Streaming<v1::StreamSeqRequest>>,
    ) -> Result<Response<Self::StreamSeqStream>, Status> {
        drop(self.addition()?);
        let liar = self.clone();
        self.answer(answers(request.into_inner(), move |request| liar.outcomes(request)))
    }
}

#[tonic::async_trait]
impl SequenceService for Liar {
    async fn read_seq(
        &self,
        request: Request<v1::ReadSeqRequest>,
    ) -> Result<Response<v1::ReadSeqResponse>, Status> {
        let key = request.into_inner().key;
        let next = self.addition()?.read(&key)?;
        self.answer(v1::ReadSeqResponse { key, next, epoch: Some(EPOCH) })
    }

    async fn list_seqs(
        &self,
        request: Request<v1::ListSeqsRequest>,
    ) -> Result<Response<v1::ListSeqsResponse>, Status> {
        let (entries, more) = self.addition()?.list(request.get_ref());
        self.answer(v1::ListSeqsResponse { entries, more, epoch: Some(EPOCH) })
    }

    async fn delete_seq(
        &self,
        request: Request<v1::DeleteSeqRequest>,
    ) -> Result<Response<v1::DeleteSeqResponse>, Status> {
        let key = request.into_inner().key;
        let next = self.addition()?.delete(&key)?;
        self.answer(v1::DeleteSeqResponse { key, next, epoch: Some(EPOCH) })
    }

    async fn open_seqs(
        &self,
        _: Request<v1::OpenSeqsRequest>,
    ) -> Result<Response<v1::OpenSeqsResponse>, Status> {
        Err(Status::unimplemented("no state is restored here"))
    }

    async fn seed_seq(
        &self,
        request: Request<v1::SeedSeqRequest>,
    ) -> Result<Response<v1::SeedSeqResponse>, Status> {
        let v1::SeedSeqRequest { key, start } = request.into_inner();
        let next = self.addition()?.seed(&key, start)?;
        self.answer(v1::SeedSeqResponse { key, next, epoch: Some(EPOCH) })
    }
}
