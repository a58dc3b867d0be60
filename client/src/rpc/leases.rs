//! Stamping leases.

use std::time::Duration;

use crate::peers::Channel;
use tsoracle_proto::v1;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_types::{BootTime, Epoch, LeaseHolder, LeaseId};

use super::{Answer, Attempt, Idempotency, Rejected, Reply, Rpc, epoch_of};
use crate::values::{SafeFrontier, StampingLease};

/// `AcquireLease`.
pub(crate) struct AcquireLease {
    pub(crate) holder: LeaseHolder,
    pub(crate) holder_epoch: u64,
    pub(crate) ttl_ms: u64,
    /// When the call began, on this machine's boot clock.
    pub(crate) began: BootTime,
}

impl Rpc for AcquireLease {
    type Response = v1::AcquireLeaseResponse;
    type Output = StampingLease;

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByState
    }

    fn describe(&self) -> String {
        format!("AcquireLease(holder {:?}, holder epoch {})", self.holder, self.holder_epoch)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::AcquireLeaseRequest {
            holder: self.holder.as_bytes().to_vec().into(),
            holder_epoch: self.holder_epoch,
            ttl_ms: self.ttl_ms,
        });
        TsoServiceClient::new(channel).acquire_lease(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<StampingLease>, Rejected> {
        let output = StampingLease {
            id: LeaseId(response.lease_id),
            bound_ms: response.ts_upper_bound,
            expires_at_ms: response.expires_at_ms,
            valid_until: valid_until(self.began, response.remaining_ms),
        };
        Ok(Answer { output, epoch: epoch_of(response.epoch) })
    }
}

/// `RenewLease`.
pub(crate) struct RenewLease {
    pub(crate) id: LeaseId,
    /// When the call began, on this machine's boot clock.
    pub(crate) began: BootTime,
}

impl Rpc for RenewLease {
    type Response = v1::RenewLeaseResponse;
    type Output = StampingLease;

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByState
    }

    fn describe(&self) -> String {
        format!("RenewLease(lease {})", self.id)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::RenewLeaseRequest { lease_id: self.id.0 });
        TsoServiceClient::new(channel).renew_lease(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<StampingLease>, Rejected> {
        let output = StampingLease {
            id: self.id,
            bound_ms: response.ts_upper_bound,
            expires_at_ms: response.expires_at_ms,
            valid_until: valid_until(self.began, response.remaining_ms),
        };
        Ok(Answer { output, epoch: epoch_of(response.epoch) })
    }
}

/// `ReleaseLease`.
pub(crate) struct ReleaseLease {
    pub(crate) id: LeaseId,
}

impl Rpc for ReleaseLease {
    type Response = v1::ReleaseLeaseResponse;
    type Output = ();

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByState
    }

    fn describe(&self) -> String {
        format!("ReleaseLease(lease {})", self.id)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::ReleaseLeaseRequest { lease_id: self.id.0 });
        TsoServiceClient::new(channel).release_lease(request).await
    }

    fn accept(&self, _: Self::Response) -> Result<Answer<()>, Rejected> {
        Ok(Answer { output: (), epoch: None })
    }
}

/// `GetSafeFrontier`.
pub(crate) struct GetSafeFrontier;

impl Rpc for GetSafeFrontier {
    type Response = v1::GetSafeFrontierResponse;
    type Output = SafeFrontier;

    fn describe(&self) -> String {
        "GetSafeFrontier".into()
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::GetSafeFrontierRequest {});
        TsoServiceClient::new(channel).get_safe_frontier(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<SafeFrontier>, Rejected> {
        // Every node answers this call, with 0 if it does not lead.
        if response.frontier_physical_ms == 0 {
            return Err(Rejected::NotLeader);
        }
        let epoch = Epoch::from_parts(response.epoch_hi, response.epoch_lo);
        let output = SafeFrontier { physical_ms: response.frontier_physical_ms, epoch };
        Ok(Answer { output, epoch: Some(epoch) })
    }
}

/// Nothing from a server that does not say how long a lease may be relied on: only its wall clock is left then.
fn valid_until(began: BootTime, remaining_ms: u64) -> Option<BootTime> {
    (remaining_ms > 0).then(|| began + Duration::from_millis(remaining_ms))
}
