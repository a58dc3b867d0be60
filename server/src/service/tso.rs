use std::{sync::Arc, time::Duration};

use tokio::sync::watch;
use tonic::{Code, Request, Response, Status, Streaming};
use tsoracle_core::{
    Epoch, Error, ErrorKind, LeaseHolder, LeaseId, Oracle, Phase, Room, SeqGrant, SeqRequest,
};
use tsoracle_proto::{
    metadata,
    v1::{self, tso_service_server::TsoService},
};

use super::{
    check_key, client, convert,
    streams::{Ending, SeqAnswers, TsAnswers},
    within_deadline,
};
use crate::{
    meters::CallMeters,
    rights::{Client, Right},
    status::{Asked, Statuses},
};

/// Timestamps, sequences and stamping leases.
#[derive(Clone, Debug)]
pub(crate) struct Tso {
    pub(crate) oracle: Oracle,
    pub(crate) statuses: Statuses,
    /// Places for requests of streams whose answers are not taken yet.
    pub(crate) unread: Arc<Room>,
    /// Turns true when streams are to end.
    pub(crate) stopping: watch::Receiver<bool>,
    pub(crate) meters: Arc<CallMeters>,
}

impl Tso {
    fn ending<T>(&self, request: &Request<T>) -> Ending {
        Ending::new(self.stopping.clone(), request.extensions().get())
    }

    /// Advances sequences, if the client may. Their keys are checked before they are looked up, since one that is
    /// none may have any length.
    async fn advance(
        &self,
        oracle: Oracle,
        client: &Client,
        request: tsoracle_core::Result<SeqRequest>,
    ) -> Result<SeqGrant, Status> {
        let request = request.map_err(|error| self.refused(&error))?;
        for (key, _) in request.entries() {
            check_key(client, Right::Seq, key.as_str())?;
        }
        oracle.get_seq(request).await.map_err(|error| self.refused(&error))
    }

    /// Releases a lease, whoever has acquired it.
    async fn release_any(&self, client: &Client, id: LeaseId) -> Result<(), Status> {
        let object = format!("lease {id}");
        let action = client.audit().begin(client.who(), Right::Release, &object);
        let released = self.oracle.release_lease(id).await;
        action.end(released.map_err(|error| self.refused(&error)))
    }

    fn refused(&self, error: &Error) -> Status {
        self.statuses.of(error, Asked::Sequences)
    }

    /// The same of a lease. That it belongs to another identity is on record.
    fn lease_refused(&self, client: &Client, object: &str, error: &Error) -> Status {
        let status = self.refused(error);
        if status.code() == Code::PermissionDenied {
            client.audit().refused(client.who(), Right::Lease.name(), object, &status);
        }
        status
    }
}

#[tonic::async_trait]
impl TsoService for Tso {
    type StreamTsStream = TsAnswers;
    type StreamSeqStream = SeqAnswers;

    async fn get_ts(
        &self,
        request: Request<v1::GetTsRequest>,
    ) -> Result<Response<v1::GetTsResponse>, Status> {
        let count = request.get_ref().count;
        let granted = match self.oracle.try_get_ts(count) {
            Ok(Some(granted)) => Ok(granted),
            Ok(None) => within_deadline(&self.oracle, &request).get_ts(count).await,
            Err(error) => Err(error),
        };
        let granted = granted.map_err(|error| self.statuses.of(&error, Asked::Timestamps))?;
        Ok(Response::new(convert::timestamps(granted)))
    }

    async fn get_current_max_safe(
        &self,
        request: Request<v1::GetCurrentMaxSafeRequest>,
    ) -> Result<Response<v1::GetCurrentMaxSafeResponse>, Status> {
        let mut status = self.oracle.status();
        if status.epoch.is_none() && matches!(status.phase, Phase::Serving { .. }) {
            // The lease of an idle leader has lapsed. Asking for a timestamp renews it, or finds
            // that this node does not lead any more; the answer is 0 then.
            let _ = within_deadline(&self.oracle, &request).get_ts(1).await;
            status = self.oracle.status();
        }
        let epoch = status.epoch.unwrap_or_default();
        Ok(Response::new(v1::GetCurrentMaxSafeResponse {
            max_safe_physical_ms: status.max_safe_physical_ms,
            epoch_hi: epoch.hi(),
            epoch_lo: epoch.lo(),
            clock_off_ms: convert::clock_off_ms(status.wall_clock),
            ahead_of_clock_ms: convert::millis(status.ahead_of_clock),
        }))
    }

    async fn get_seq(
        &self,
        request: Request<v1::GetSeqRequest>,
    ) -> Result<Response<v1::GetSeqResponse>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let v1::GetSeqRequest { key, count, request_id } = request.into_inner();
        let request = convert::seq_request([(key, count)], request_id);
        let grant = self.advance(oracle, &client, request).await?;
        let Some(block) = grant.blocks.into_iter().next() else {
            return Err(Status::internal("the engine granted no block"));
        };
        Ok(Response::new(v1::GetSeqResponse {
            key: block.key.into(),
            start: block.start,
            count: block.count,
            epoch: Some(convert::epoch(grant.epoch)),
        }))
    }

    async fn get_seq_batch(
        &self,
        request: Request<v1::GetSeqBatchRequest>,
    ) -> Result<Response<v1::GetSeqBatchResponse>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let v1::GetSeqBatchRequest { entries, request_id } = request.into_inner();
        let counted = client.count(entries.len().max(1));
        counted.map_err(|error| self.refused(&error))?;
        let entries = entries.into_iter().map(|entry| (entry.key, entry.count));
        let request = convert::seq_request(entries, request_id);
        let grant = self.advance(oracle, &client, request).await?;
        let grants = grant.blocks.into_iter().map(|block| v1::SeqGrantEntry {
            key: block.key.into(),
            start: block.start,
            count: block.count,
        });
        Ok(Response::new(v1::GetSeqBatchResponse {
            grants: grants.collect(),
            epoch: Some(convert::epoch(grant.epoch)),
        }))
    }

    async fn acquire_lease(
        &self,
        request: Request<v1::AcquireLeaseRequest>,
    ) -> Result<Response<v1::AcquireLeaseResponse>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let v1::AcquireLeaseRequest { holder, holder_epoch, ttl_ms } = request.into_inner();
        let holder = LeaseHolder::new(holder).map_err(|error| self.refused(&error.into()))?;
        let ttl = Duration::from_millis(ttl_ms);
        let acquired = oracle.acquire_lease(holder.clone(), holder_epoch, ttl).await;
        let object = || format!("lease of holder {holder:?}");
        let lease = acquired.map_err(|error| self.lease_refused(&client, &object(), &error))?;
        Ok(Response::new(v1::AcquireLeaseResponse {
            lease_id: lease.id.0,
            ts_upper_bound: lease.bound_ms,
            expires_at_ms: lease.expires_at_ms,
            epoch: Some(convert::epoch(lease.epoch)),
            remaining_ms: convert::millis(lease.remaining),
        }))
    }

    async fn renew_lease(
        &self,
        request: Request<v1::RenewLeaseRequest>,
    ) -> Result<Response<v1::RenewLeaseResponse>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let id = LeaseId(request.into_inner().lease_id);
        let renewed = oracle.renew_lease(id).await;
        let object = || format!("lease {id}");
        let lease = renewed.map_err(|error| self.lease_refused(&client, &object(), &error))?;
        Ok(Response::new(v1::RenewLeaseResponse {
            ts_upper_bound: lease.bound_ms,
            expires_at_ms: lease.expires_at_ms,
            epoch: Some(convert::epoch(lease.epoch)),
            remaining_ms: convert::millis(lease.remaining),
        }))
    }

    async fn release_lease(
        &self,
        request: Request<v1::ReleaseLeaseRequest>,
    ) -> Result<Response<v1::ReleaseLeaseResponse>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let id = LeaseId(request.into_inner().lease_id);
        match client.has(Right::Release) {
            true => self.release_any(&client, id).await?,
            false => {
                let object = || format!("lease {id}");
                let released = oracle.release_lease(id).await;
                released.map_err(|error| self.lease_refused(&client, &object(), &error))?;
            }
        }
        Ok(Response::new(v1::ReleaseLeaseResponse {}))
    }

    async fn get_safe_frontier(
        &self,
        request: Request<v1::GetSafeFrontierRequest>,
    ) -> Result<Response<v1::GetSafeFrontierResponse>, Status> {
        let (frontier_ms, epoch) = match within_deadline(&self.oracle, &request)
            .safe_frontier()
            .await
        {
            Ok(frontier) => (frontier.physical_ms, frontier.epoch),
            // As of GetCurrentMaxSafe: every node answers.
            Err(error) if matches!(error.kind(), ErrorKind::NotLeader(_)) => (0, Epoch::default()),
            Err(error) => return Err(self.refused(&error)),
        };
        Ok(Response::new(v1::GetSafeFrontierResponse {
            frontier_physical_ms: frontier_ms,
            epoch_hi: epoch.hi(),
            epoch_lo: epoch.lo(),
        }))
    }

    async fn stream_ts(
        &self,
        request: Request<Streaming<v1::GetTsRequest>>,
    ) -> Result<Response<Self::StreamTsStream>, Status> {
        let (oracle, ending) = (within_deadline(&self.oracle, &request), self.ending(&request));
        let client = client(&request)?;
        let (statuses, requests) = (self.statuses.clone(), request.into_inner());
        let answers =
            TsAnswers::new(oracle, statuses, requests, ending, client, self.meters.clone());
        Ok(Response::new(answers))
    }

    async fn stream_seq(
        &self,
        request: Request<Streaming<v1::StreamSeqRequest>>,
    ) -> Result<Response<Self::StreamSeqStream>, Status> {
        let (oracle, ending) = (within_deadline(&self.oracle, &request), self.ending(&request));
        let places = (self.unread.clone(), client(&request)?);
        let (statuses, requests) = (self.statuses.clone(), request.into_inner());
        let meters = self.meters.clone();
        let answers = SeqAnswers::new(oracle, statuses, requests, ending, places, meters);
        let mut response = Response::new(answers);
        metadata::insert_flag(response.metadata_mut(), metadata::SEQ_RUNS);
        Ok(response)
    }
}
