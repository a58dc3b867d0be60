//! A server that follows a script.

use std::collections::VecDeque;
use std::future::pending;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use crate::shared::Shared;
use crate::step::{BROKEN, Seen, Step, pass};
use futures::StreamExt as _;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_stream::Stream;
use tokio_stream::wrappers::TcpListenerStream;
use tonic::transport::{Server, ServerTlsConfig};
use tonic::{Request, Response, Status, Streaming};
use tsoracle_proto::metadata::{self, SEQ_RUNS, SESSION_UNKNOWN, SESSIONS, UNCOMMITTED};
use tsoracle_proto::v1::sequence_service_server::{SequenceService, SequenceServiceServer};
use tsoracle_proto::v1::tso_service_server::{TsoService, TsoServiceServer};
use tsoracle_proto::v1::*;

type Reply<T> = Result<Response<T>, Status>;
type Answers<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

/// A running node. Dropping it closes its connections.
pub(crate) struct Node {
    pub(crate) address: SocketAddr,
    served: Served,
    task: JoinHandle<()>,
}

#[derive(Clone)]
struct Served {
    shared: Arc<Mutex<Shared>>,
    steps: Arc<Mutex<VecDeque<Step>>>,
    /// What it does once the steps are used up.
    otherwise: Step,
    seen: watch::Sender<Seen>,
    epoch: u128,
    honours_request_ids: bool,
    has_streams: bool,
    takes_runs: bool,
}

/// How to start a node.
pub(crate) struct NodeBuilder {
    served: Served,
    tls: Option<ServerTlsConfig>,
}

impl Node {
    /// A node of a cluster of its own, which serves.
    pub(crate) fn builder() -> NodeBuilder {
        NodeBuilder {
            served: Served {
                shared: Arc::default(),
                steps: Arc::default(),
                otherwise: Step::Serve,
                seen: watch::Sender::default(),
                epoch: 1,
                honours_request_ids: true,
                has_streams: true,
                takes_runs: true,
            },
            tls: None,
        }
    }

    pub(crate) async fn serving() -> Self {
        Self::builder().start().await
    }

    /// Does these things next.
    pub(crate) fn script(&self, steps: impl IntoIterator<Item = Step>) {
        self.served.steps.lock().unwrap().extend(steps);
    }

    pub(crate) fn address(&self) -> String {
        self.address.to_string()
    }

    pub(crate) fn seen(&self) -> Seen {
        self.served.seen.borrow().clone()
    }

    /// Returns once what was asked meets `condition`.
    pub(crate) async fn wait_until(&self, condition: impl Fn(&Seen) -> bool) {
        self.served.seen.subscribe().wait_for(|seen| condition(seen)).await.unwrap();
    }

    pub(crate) fn shared(&self) -> Arc<Mutex<Shared>> {
        self.served.shared.clone()
    }

    pub(crate) fn executed(&self) -> usize {
        self.served.shared.lock().unwrap().executed
    }
}

/// The requests of a run, as if each stood by itself.
fn requests_of(run: SeqRun) -> Vec<GetSeqRequest> {
    let SeqRun { session, first_number, first_incomplete, keys, key_bytes, counts } = run;
    let (mut keys, mut requests) = (&keys[..], Vec::new());
    for (place, bytes) in key_bytes.into_iter().enumerate() {
        let (key, rest) = keys.split_at(bytes as usize);
        keys = rest;
        let key = String::from_utf8(key.to_vec()).unwrap();
        let count = *counts.get(place).unwrap_or(&counts[0]);
        let (session, number) = (session.clone(), first_number + place as u64);
        let id = RequestId { session, number, first_incomplete, ..RequestId::default() };
        requests.push(GetSeqRequest { key, count, request_id: Some(id) });
    }
    requests
}

impl Drop for Node {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl NodeBuilder {
    /// Makes it a node of the cluster of `other`.
    pub(crate) fn beside(mut self, other: &Node) -> Self {
        self.served.shared = other.shared();
        self
    }

    pub(crate) fn epoch(mut self, epoch: u128) -> Self {
        self.served.epoch = epoch;
        self
    }

    pub(crate) fn otherwise(mut self, step: Step) -> Self {
        self.served.otherwise = step;
        self
    }

    /// Makes it like a server of the public protocol.
    pub(crate) fn ignoring_request_ids(mut self) -> Self {
        self.served.honours_request_ids = false;
        self.without_streams()
    }

    pub(crate) fn without_streams(mut self) -> Self {
        self.served.has_streams = false;
        self
    }

    /// Makes it like a server that was made before runs were.
    pub(crate) fn without_runs(mut self) -> Self {
        self.served.takes_runs = false;
        self
    }

    pub(crate) fn tls(mut self, tls: ServerTlsConfig) -> Self {
        self.tls = Some(tls);
        self
    }

    pub(crate) async fn start(self) -> Node {
        self.start_at("127.0.0.1:0").await
    }

    pub(crate) async fn start_at(self, address: &str) -> Node {
        let listener = TcpListener::bind(address).await.unwrap();
        let address = listener.local_addr().unwrap();
        let mut server = Server::builder();
        if let Some(tls) = self.tls {
            server = server.tls_config(tls).unwrap();
        }
        let router = server
            .add_service(TsoServiceServer::new(self.served.clone()))
            .add_service(SequenceServiceServer::new(self.served.clone()));
        let seen = self.served.seen.clone();
        let incoming = TcpListenerStream::new(listener)
            .inspect(move |_| seen.send_modify(|seen| seen.connections += 1));
        let serving = router.serve_with_incoming(incoming);
        let task = tokio::spawn(async move { serving.await.unwrap() });
        Node { address, served: self.served, task }
    }
}

impl Served {
    fn next_step(&self) -> Step {
        self.steps.lock().unwrap().pop_front().unwrap_or_else(|| self.otherwise.clone())
    }

    fn seen(&self, note: impl FnOnce(&mut Seen)) {
        self.seen.send_modify(note);
    }

    /// Does the next step. `serve` carries the request out.
    async fn act<T>(
        &self,
        serve: impl FnOnce(&mut Shared, bool) -> Result<T, Status> + Send,
    ) -> Reply<T> {
        let reply = match self.next_step() {
            Step::Serve => serve(&mut self.shared.lock().unwrap(), true),
            Step::ServeWrongly => serve(&mut self.shared.lock().unwrap(), false),
            Step::Fail(status) => Err(status),
            Step::ServeThenFail(status) => {
                serve(&mut self.shared.lock().unwrap(), true).and(Err(status))
            }
            Step::ServeThenHang => {
                let _ = serve(&mut self.shared.lock().unwrap(), true);
                pending().await
            }
            Step::Hang => pending().await,
            Step::Await(gate) => {
                pass(&gate).await?;
                serve(&mut self.shared.lock().unwrap(), true)
            }
            Step::AwaitThenBreak(gate) => pass(&gate).await.and(Err(Status::cancelled(BROKEN))),
            Step::Break => Err(Status::cancelled(BROKEN)),
            Step::ServeThenBreak => {
                serve(&mut self.shared.lock().unwrap(), true).and(Err(Status::cancelled(BROKEN)))
            }
        };
        self.with_header(reply)
    }

    /// A stream of answers, which ends with the first failure.
    fn stream<Q, A, F>(
        &self,
        requests: Streaming<Q>,
        answer: impl Fn(Self, Q) -> F + Send + 'static,
    ) -> Reply<Answers<A>>
    where
        Q: Send + 'static,
        A: Send + 'static,
        F: Future<Output = Result<A, Status>> + Send,
    {
        if !self.has_streams {
            self.seen(|seen| seen.refused_streams += 1);
            return self.with_header(Err(Status::unimplemented("no streams")));
        }
        self.seen(|seen| seen.streams += 1);
        let start = (self.clone(), Some(requests), answer);
        let answers = futures::stream::unfold(start, async move |(node, requests, answer)| {
            let mut requests = requests?;
            let result = match requests.message().await {
                Ok(request) => answer(node.clone(), request?).await,
                Err(status) => Err(status),
            };
            let requests = result.is_ok().then_some(requests);
            Some((result, (node, requests, answer)))
        });
        self.with_header(Ok(Box::pin(answers) as Answers<A>))
    }

    async fn timestamps(self, request: GetTsRequest) -> Result<GetTsResponse, Status> {
        Ok(self.get_ts(Request::new(request)).await?.into_inner())
    }

    async fn outcomes(self, message: StreamSeqRequest) -> Result<StreamSeqResponse, Status> {
        let StreamSeqRequest { requests, run } = message;
        // A server that does not know runs does not see them.
        let run = run.filter(|_| self.takes_runs).map(requests_of).unwrap_or_default();
        let total = requests.len() + run.len();
        self.seen(|seen| {
            seen.messages.push(total);
            seen.in_runs += run.len();
        });
        if total == 0 {
            return Err(Status::invalid_argument("no requests"));
        }
        let mut outcomes = Vec::new();
        for request in requests {
            let outcome = match self.outcome(request).await? {
                Ok(granted) => seq_outcome::Outcome::Granted(granted),
                Err(failed) => seq_outcome::Outcome::Failed(failed),
            };
            outcomes.push(SeqOutcome { outcome: Some(outcome) });
        }
        let mut of_run = SeqRunOutcome::default();
        for (index, request) in (0..).zip(run) {
            let (start, failure) = match self.outcome(request).await? {
                Ok(granted) => {
                    of_run.epoch = granted.epoch;
                    (granted.start, None)
                }
                Err(failure) => (0, Some(failure)),
            };
            of_run.starts.push(start);
            of_run.failures.extend(failure.map(|failure| {
                let failure = Some(failure);
                SeqRunFailure { index, failure }
            }));
        }
        let run = (!of_run.starts.is_empty()).then_some(of_run);
        Ok(StreamSeqResponse { outcomes, run })
    }

    /// What becomes of a request, unless it breaks the stream.
    async fn outcome(
        &self,
        request: GetSeqRequest,
    ) -> Result<Result<GetSeqResponse, SeqFailure>, Status> {
        match self.get_seq(Request::new(request)).await {
            Ok(granted) => Ok(Ok(granted.into_inner())),
            Err(status) if status.message() == BROKEN => Err(status),
            Err(status) => Ok(Err(SeqFailure {
                code: status.code() as u32,
                message: status.message().into(),
                uncommitted: metadata::has_flag(status.metadata(), UNCOMMITTED),
                hint: metadata::leader_hint(status.metadata()),
                session_unknown: metadata::has_flag(status.metadata(), SESSION_UNKNOWN),
            })),
        }
    }

    fn with_header<T>(&self, reply: Result<T, Status>) -> Reply<T> {
        let mut reply = reply.map(Response::new);
        if self.honours_request_ids {
            let headers = match &mut reply {
                Ok(response) => response.metadata_mut(),
                Err(status) => status.metadata_mut(),
            };
            metadata::insert_flag(headers, SESSIONS);
        }
        reply
    }

    fn id<'a>(&self, id: Option<&'a RequestId>) -> Option<&'a RequestId> {
        id.filter(|_| self.honours_request_ids)
    }
}

#[tonic::async_trait]
impl TsoService for Served {
    async fn get_ts(&self, request: Request<GetTsRequest>) -> Reply<GetTsResponse> {
        let count = request.into_inner().count;
        self.seen(|seen| {
            seen.timestamps += 1;
            seen.counts.push(count);
        });
        self.act(|shared, rightly| {
            shared.next_timestamp += 1;
            let count = if rightly { count } else { count - 1 };
            Ok(GetTsResponse {
                physical_ms: shared.next_timestamp,
                logical_start: 0,
                count,
                epoch_hi: (self.epoch >> 64) as u64,
                epoch_lo: self.epoch as u64,
            })
        })
        .await
    }

    async fn get_current_max_safe(
        &self,
        _: Request<GetCurrentMaxSafeRequest>,
    ) -> Reply<GetCurrentMaxSafeResponse> {
        self.seen(|seen| seen.probes += 1);
        let max_safe_physical_ms = match self.otherwise {
            Step::Serve => 1_000,
            _ => 0,
        };
        let epoch_lo = self.epoch as u64;
        let response = GetCurrentMaxSafeResponse {
            max_safe_physical_ms,
            epoch_lo,
            ..GetCurrentMaxSafeResponse::default()
        };
        self.with_header(Ok(response))
    }

    async fn get_seq(&self, request: Request<GetSeqRequest>) -> Reply<GetSeqResponse> {
        let GetSeqRequest { key, count, request_id } = request.into_inner();
        self.seen(|seen| seen.sequences.extend(request_id.clone()));
        self.act(|shared, rightly| {
            let entries = vec![SeqRequestEntry { key, count }];
            let mut grants = shared.advance(entries, self.id(request_id.as_ref()))?;
            let SeqGrantEntry { key, start, count } = grants.remove(0);
            let count = if rightly { count } else { count - 1 };
            Ok(GetSeqResponse { key, start, count, epoch: Some(self.epoch.into()) })
        })
        .await
    }

    async fn get_seq_batch(
        &self,
        request: Request<GetSeqBatchRequest>,
    ) -> Reply<GetSeqBatchResponse> {
        let GetSeqBatchRequest { entries, request_id } = request.into_inner();
        let epoch = Some(self.epoch.into());
        if let Some(id) = request_id.clone().filter(|id| id.close) {
            self.seen(|seen| seen.closes.push(id));
            return self.with_header(Ok(GetSeqBatchResponse { grants: vec![], epoch }));
        }
        self.seen(|seen| seen.sequences.extend(request_id.clone()));
        self.act(|shared, rightly| {
            let mut grants = shared.advance(entries, self.id(request_id.as_ref()))?;
            if !rightly {
                grants.reverse();
            }
            Ok(GetSeqBatchResponse { grants, epoch })
        })
        .await
    }

    async fn acquire_lease(
        &self,
        asked: Request<AcquireLeaseRequest>,
    ) -> Reply<AcquireLeaseResponse> {
        let remaining_ms = asked.into_inner().ttl_ms;
        let (epoch, lease) = (Some(self.epoch.into()), AcquireLeaseResponse::default());
        let lease =
            AcquireLeaseResponse { lease_id: 7, ts_upper_bound: 100, epoch, remaining_ms, ..lease };
        self.act(|_, _| Ok(lease)).await
    }

    async fn renew_lease(&self, _: Request<RenewLeaseRequest>) -> Reply<RenewLeaseResponse> {
        let epoch = Some(self.epoch.into());
        let lease = RenewLeaseResponse { ts_upper_bound: 200, epoch, ..Default::default() };
        self.act(|_, _| Ok(lease)).await
    }

    async fn release_lease(&self, _: Request<ReleaseLeaseRequest>) -> Reply<ReleaseLeaseResponse> {
        self.act(|_, _| Ok(ReleaseLeaseResponse {})).await
    }

    async fn get_safe_frontier(
        &self,
        _: Request<GetSafeFrontierRequest>,
    ) -> Reply<GetSafeFrontierResponse> {
        self.act(|_, rightly| {
            // A node that does not lead answers all the same.
            let frontier_physical_ms = if rightly { 300 } else { 0 };
            Ok(GetSafeFrontierResponse { frontier_physical_ms, epoch_hi: 0, epoch_lo: 1 })
        })
        .await
    }

    type StreamTsStream = Answers<GetTsResponse>;

    async fn stream_ts(
        &self,
        requests: Request<Streaming<GetTsRequest>>,
    ) -> Reply<Self::StreamTsStream> {
        self.stream(requests.into_inner(), Self::timestamps)
    }

    type StreamSeqStream = Answers<StreamSeqResponse>;

    async fn stream_seq(
        &self,
        requests: Request<Streaming<StreamSeqRequest>>,
    ) -> Reply<Self::StreamSeqStream> {
        let mut reply = self.stream(requests.into_inner(), Self::outcomes);
        if let (true, Ok(response)) = (self.takes_runs, &mut reply) {
            metadata::insert_flag(response.metadata_mut(), SEQ_RUNS);
        }
        reply
    }
}

#[tonic::async_trait]
impl SequenceService for Served {
    async fn read_seq(&self, request: Request<ReadSeqRequest>) -> Reply<ReadSeqResponse> {
        let key = request.into_inner().key;
        self.act(|shared, _| match shared.counters.get(&key) {
            Some(next) => {
                let epoch = Some(self.epoch.into());
                Ok(ReadSeqResponse { next: *next, key, epoch })
            }
            None => Err(Status::not_found(format!("key {key:?} has never been used"))),
        })
        .await
    }

    async fn list_seqs(&self, asked: Request<ListSeqsRequest>) -> Reply<ListSeqsResponse> {
        let ListSeqsRequest { prefix, start_after, .. } = asked.into_inner();
        self.act(|shared, rightly| {
            let mut keys: Vec<_> = shared.counters.iter().collect();
            keys.sort_unstable();
            keys.retain(|(key, _)| key.starts_with(&prefix) && **key > start_after);
            if !rightly {
                keys.reverse();
            }
            let entry = |(key, next): (&String, &u64)| SeqEntry { key: key.clone(), next: *next };
            let entries: Vec<_> = keys.iter().take(2).copied().map(entry).collect();
            let more = keys.len() > entries.len();
            Ok(ListSeqsResponse { entries, more, epoch: Some(self.epoch.into()) })
        })
        .await
    }

    async fn delete_seq(&self, asked: Request<DeleteSeqRequest>) -> Reply<DeleteSeqResponse> {
        let DeleteSeqRequest { key } = asked.into_inner();
        self.act(|shared, _| {
            let next = shared.counters.remove(&key);
            let next = next.ok_or_else(|| Status::not_found("never used"))?;
            Ok(DeleteSeqResponse { key, next, epoch: Some(self.epoch.into()) })
        })
        .await
    }

    async fn open_seqs(&self, _: Request<OpenSeqsRequest>) -> Reply<OpenSeqsResponse> {
        Err(Status::unimplemented("no client asks for this"))
    }

    async fn seed_seq(&self, asked: Request<SeedSeqRequest>) -> Reply<SeedSeqResponse> {
        let SeedSeqRequest { key, start: next } = asked.into_inner();
        self.act(|shared, _| {
            if shared.counters.contains_key(&key) {
                return Err(Status::already_exists("in use"));
            }
            shared.counters.insert(key.clone(), next);
            Ok(SeedSeqResponse { key, next, epoch: Some(self.epoch.into()) })
        })
        .await
    }
}
