use std::sync::Arc;

use crate::peers::Channel;
use tokio::time::Instant;
use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tsoracle_proto::v1::tso_service_client::TsoServiceClient;
use tsoracle_proto::{metadata, v1};
use tsoracle_types::{SeqBlock, SeqKey};

use super::{Answer, Attempt, Idempotency, Rejected, Reply, Rpc, epoch_of, malformed};
use crate::session::OpenRequest;
use crate::stream::sequences::{Entry, Grant, StreamOpener};
use crate::stream::{CallError, Peer};

/// `GetSeq`.
pub(crate) struct GetSeq {
    pub(crate) key: SeqKey,
    pub(crate) count: u32,
    pub(crate) request: OpenRequest,
    /// The caller chose the id, and relies on it.
    pub(crate) named: bool,
}

impl Rpc for GetSeq {
    type Response = v1::GetSeqResponse;
    type Output = SeqBlock;

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByRequestId(&self.request)
    }

    fn requires_request_ids(&self) -> bool {
        self.named
    }

    fn describe(&self) -> String {
        let (key, count, request) = (&self.key, self.count, self.request.describe());
        format!("GetSeq(key {key:?}, count {count}, {request})")
    }

    async fn join(
        &self,
        peer: &Arc<Peer>,
        opener: StreamOpener<'_>,
        until: Instant,
        resend: bool,
    ) -> Option<Result<Self::Response, CallError>> {
        let entry = Entry::Numbered(self.request(resend));
        Some(match peer.streams.sequences.call(opener, entry, Instant::now(), until).await {
            Ok(Grant::Whole(granted)) => Ok(*granted),
            Ok(Grant::Start(start)) => {
                let (key, count) = (self.key.as_str().to_owned(), self.count);
                Ok(v1::GetSeqResponse { key, start, count, epoch: None })
            }
            Err(not_granted) => Err(not_granted.error),
        })
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(self.request(attempt.resend));
        TsoServiceClient::new(channel).get_seq(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Rejected> {
        let v1::GetSeqResponse { key, start, count, epoch } = response;
        let grant = v1::SeqGrantEntry { key, start, count };
        let output = block(&self.key, self.count, &grant)?;
        Ok(Answer { output, epoch: epoch_of(epoch) })
    }
}

impl GetSeq {
    fn request(&self, resend: bool) -> v1::GetSeqRequest {
        v1::GetSeqRequest {
            key: self.key.as_str().to_owned(),
            count: self.count,
            request_id: Some(self.request.id(resend)),
        }
    }
}

/// The block of a grant that came over a stream, if it matches the request.
pub(crate) fn granted(key: &SeqKey, count: u32, grant: Grant) -> Result<SeqBlock, Rejected> {
    match grant {
        Grant::Start(start) => block_at(key, count, start),
        Grant::Whole(granted) => {
            let v1::GetSeqResponse { key: granted_key, start, count: granted_count, .. } = *granted;
            let grant = v1::SeqGrantEntry { key: granted_key, start, count: granted_count };
            block(key, count, &grant)
        }
    }
}

/// The status with which a unary call would have failed.
pub(crate) fn status(failed: v1::SeqFailure) -> Status {
    let v1::SeqFailure { code, message, uncommitted, hint, session_unknown } = failed;
    let mut trailers = MetadataMap::new();
    if uncommitted {
        metadata::insert_flag(&mut trailers, metadata::UNCOMMITTED);
    }
    if session_unknown {
        metadata::insert_flag(&mut trailers, metadata::SESSION_UNKNOWN);
    }
    if let Some(hint) = hint {
        metadata::insert_leader_hint(&mut trailers, &hint);
    }
    Status::with_metadata(Code::from(code as i32), message, trailers)
}

/// `GetSeqBatch`.
pub(crate) struct GetSeqBatch {
    pub(crate) entries: Vec<(SeqKey, u32)>,
    pub(crate) request: OpenRequest,
}

impl Rpc for GetSeqBatch {
    type Response = v1::GetSeqBatchResponse;
    type Output = Vec<SeqBlock>;

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByRequestId(&self.request)
    }

    fn describe(&self) -> String {
        format!("GetSeqBatch({} keys, {})", self.entries.len(), self.request.describe())
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let entry = |(key, count): &(SeqKey, u32)| v1::SeqRequestEntry {
            key: key.as_str().to_owned(),
            count: *count,
        };
        let request = attempt.request(v1::GetSeqBatchRequest {
            entries: self.entries.iter().map(entry).collect(),
            request_id: Some(self.request.id(attempt.resend)),
        });
        TsoServiceClient::new(channel).get_seq_batch(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<Self::Output>, Rejected> {
        let (asked, granted) = (self.entries.len(), response.grants.len());
        if asked != granted {
            return malformed(format!("{granted} blocks instead of {asked}"));
        }
        let pairs = self.entries.iter().zip(&response.grants);
        let output = pairs.map(|((key, count), grant)| block(key, *count, grant));
        let output = output.collect::<Result<_, _>>()?;
        Ok(Answer { output, epoch: epoch_of(response.epoch) })
    }
}

/// The block of a grant, if it matches the request.
fn block(key: &SeqKey, count: u32, grant: &v1::SeqGrantEntry) -> Result<SeqBlock, Rejected> {
    if grant.key != key.as_str() || grant.count != count {
        let (other, granted) = (&grant.key, grant.count);
        return malformed(format!("{granted} of {other:?} instead of {count} of {key:?}"));
    }
    block_at(key, count, grant.start)
}

fn block_at(key: &SeqKey, count: u32, start: u64) -> Result<SeqBlock, Rejected> {
    if start.checked_add(u64::from(count)).is_none() {
        return malformed(format!("{count} values from {start} on exceed 64 bits"));
    }
    Ok(SeqBlock { key: key.clone(), start, count })
}

/// `GetSeqBatch` without entries: closes a session.
pub(crate) struct CloseSession {
    pub(crate) id: v1::RequestId,
}

impl Rpc for CloseSession {
    type Response = v1::GetSeqBatchResponse;
    type Output = ();

    fn describe(&self) -> String {
        "GetSeqBatch(close)".into()
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request_id = Some(self.id.clone());
        let request = attempt.request(v1::GetSeqBatchRequest { entries: Vec::new(), request_id });
        TsoServiceClient::new(channel).get_seq_batch(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<()>, Rejected> {
        Ok(Answer { output: (), epoch: epoch_of(response.epoch) })
    }
}
