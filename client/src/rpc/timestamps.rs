use std::sync::Arc;

use crate::peers::Channel;
use tokio::time::Instant;
use tsoracle_proto::v1;
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_types::{Epoch, Timestamp, TimestampRange};

use super::{Answer, Attempt, Rejected, Reply, Rpc, malformed};
use crate::stream::sequences::StreamOpener;
use crate::stream::{CallError, Peer};
use crate::values::MaxSafe;

/// `GetTs`.
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
        peer: &Arc<Peer>,
        opener: StreamOpener<'_>,
        until: Instant,
        _resend: bool,
    ) -> Option<Result<Self::Response, CallError>> {
        let called = peer.streams.timestamps.call(peer, opener.channel, self.count, until).await?;
        // The stream's task notes the epoch, once for all callers.
        Some(called.map(|first| v1::GetTsResponse {
            physical_ms: first.physical_ms(),
            logical_start: first.logical(),
            count: self.count,
            ..v1::GetTsResponse::default()
        }))
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::GetTsRequest { count: self.count });
        TsoServiceClient::new(channel).get_ts(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Rejected> {
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
pub(crate) struct GetCurrentMaxSafe;

impl Rpc for GetCurrentMaxSafe {
    type Response = v1::GetCurrentMaxSafeResponse;
    type Output = MaxSafe;

    fn describe(&self) -> String {
        "GetCurrentMaxSafe".into()
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::GetCurrentMaxSafeRequest {});
        TsoServiceClient::new(channel).get_current_max_safe(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Rejected> {
        // Every node answers this call, with 0 if it does not lead.
        if response.max_safe_physical_ms == 0 {
            return Err(Rejected::NotLeader);
        }
        let epoch = Epoch::from_parts(response.epoch_hi, response.epoch_lo);
        let output = MaxSafe { physical_ms: response.max_safe_physical_ms, epoch };
        Ok(Answer { output, epoch: Some(epoch) })
    }
}
