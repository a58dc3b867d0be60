use std::sync::Arc;

use tokio::time::Instant;
use tonic::transport::Channel;
use tonic::{Response, Status};
use tsoracle_proto::v1;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_types::{Epoch, Timestamp, TimestampRange};

use super::{Answer, Attempt, Idempotency, Rpc, Unacceptable, malformed};
use crate::attempt::Failure;
use crate::client::MaxSafe;
use crate::cluster::Cluster;
use crate::pool::Peer;

/// `GetTs`.
#[derive(Debug)]
pub(crate) struct GetTs {
    pub(crate) count: u32,
}

impl Rpc for GetTs {
    type Response = v1::GetTsResponse;
    type Output = TimestampRange;

    fn describe(&self) -> String {
        format!("GetTs(count {})", self.count)
    }

    async fn join(
        &self,
        cluster: &Cluster,
        peer: &Arc<Peer>,
        channel: &Channel,
        until: Instant,
        _resend: bool,
    ) -> Option<Result<Self::Response, Failure>> {
        match peer.timestamps.call(peer, channel, self.count, until).await? {
            Ok(first) => {
                cluster.serves_on_stream(peer);
                // In which epoch it served is told by the stream's task, for all at once.
                Some(Ok(v1::GetTsResponse {
                    physical_ms: first.physical_ms(),
                    logical_start: first.logical(),
                    count: self.count,
                    ..v1::GetTsResponse::default()
                }))
            }
            Err(error) => cluster.unanswered(peer, error, Idempotency::Repeatable).map(Err),
        }
    }

    async fn send(
        &self,
        channel: Channel,
        attempt: Attempt,
    ) -> Result<Response<Self::Response>, Status> {
        let request = attempt.request(v1::GetTsRequest { count: self.count });
        TsoServiceClient::new(channel).get_ts(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Unacceptable> {
        if response.count != self.count {
            return malformed(format!("{} timestamps instead of {}", response.count, self.count));
        }
        let range = Timestamp::from_parts(response.physical_ms, response.logical_start)
            .and_then(|first| TimestampRange::new(first, response.count));
        match range {
            Ok(output) => {
                let epoch = Epoch::from_parts(response.epoch_hi, response.epoch_lo);
                Ok(Answer { output, epoch: Some(epoch) })
            }
            Err(error) => malformed(error.to_string()),
        }
    }
}

/// `GetCurrentMaxSafe`.
#[derive(Debug)]
pub(crate) struct GetCurrentMaxSafe;

impl Rpc for GetCurrentMaxSafe {
    type Response = v1::GetCurrentMaxSafeResponse;
    type Output = MaxSafe;

    fn describe(&self) -> String {
        "GetCurrentMaxSafe".into()
    }

    async fn send(
        &self,
        channel: Channel,
        attempt: Attempt,
    ) -> Result<Response<Self::Response>, Status> {
        let request = attempt.request(v1::GetCurrentMaxSafeRequest {});
        TsoServiceClient::new(channel).get_current_max_safe(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Unacceptable> {
        // Every node answers this one, and those that do not lead answer 0.
        if response.max_safe_physical_ms == 0 {
            return Err(Unacceptable::NotLeader);
        }
        let epoch = Epoch::from_parts(response.epoch_hi, response.epoch_lo);
        let output = MaxSafe { physical_ms: response.max_safe_physical_ms, epoch };
        Ok(Answer { output, epoch: Some(epoch) })
    }
}
