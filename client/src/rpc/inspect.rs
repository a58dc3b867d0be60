//! Reads and lists sequences, and sets where they start.

use crate::peers::Channel;
use tsoracle_proto::v1;
use tsoracle_proto::v1::sequence_service_client::SequenceServiceClient;
use tsoracle_types::SeqKey;

use super::{Answer, Attempt, Idempotency, Rejected, Reply, Rpc, epoch_of, malformed};
use crate::values::SeqPage;

/// `ReadSeq`.
pub(crate) struct ReadSeq {
    pub(crate) key: SeqKey,
}

impl Rpc for ReadSeq {
    type Response = v1::ReadSeqResponse;
    type Output = u64;

    fn describe(&self) -> String {
        format!("ReadSeq(key {:?})", self.key)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::ReadSeqRequest { key: self.key.as_str().to_owned() });
        SequenceServiceClient::new(channel).read_seq(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<u64>, Rejected> {
        if response.key != self.key.as_str() {
            return malformed(format!("{:?} instead of {:?}", response.key, self.key));
        }
        Ok(Answer { output: response.next, epoch: epoch_of(response.epoch) })
    }
}

/// `ListSeqs`.
pub(crate) struct ListSeqs {
    pub(crate) prefix: String,
    /// The last key of the previous page; empty for the first page.
    pub(crate) after: String,
    /// 0 for the server's choice.
    pub(crate) page_size: u32,
}

impl ListSeqs {
    /// The entries, if they are in order and match the request.
    fn entries(&self, listed: Vec<v1::SeqEntry>) -> Result<Vec<(SeqKey, u64)>, Rejected> {
        let mut entries: Vec<(SeqKey, u64)> = Vec::with_capacity(listed.len());
        for v1::SeqEntry { key, next } in listed {
            let last = entries.last().map_or(self.after.as_str(), |(key, _)| key.as_str());
            if !key.starts_with(&self.prefix) || (key.as_str() <= last && !last.is_empty()) {
                let (prefix, after) = (&self.prefix, last);
                return malformed(format!("{key:?} in a list of {prefix:?} after {after:?}"));
            }
            match SeqKey::new(key) {
                Ok(key) => entries.push((key, next)),
                Err(error) => return malformed(error.to_string()),
            }
        }
        Ok(entries)
    }
}

impl Rpc for ListSeqs {
    type Response = v1::ListSeqsResponse;
    type Output = SeqPage;

    fn describe(&self) -> String {
        format!("ListSeqs(prefix {:?}, after {:?})", self.prefix, self.after)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::ListSeqsRequest {
            prefix: self.prefix.clone(),
            page_size: self.page_size,
            start_after: self.after.clone(),
        });
        SequenceServiceClient::new(channel).list_seqs(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<SeqPage>, Rejected> {
        if response.more && response.entries.is_empty() {
            return malformed("an empty page with more behind it");
        }
        let entries = self.entries(response.entries)?;
        let output = SeqPage { entries, more: response.more };
        Ok(Answer { output, epoch: epoch_of(response.epoch) })
    }
}

/// `SeedSeq`.
pub(crate) struct SeedSeq {
    pub(crate) key: SeqKey,
    pub(crate) start: u64,
}

impl Rpc for SeedSeq {
    type Response = v1::SeedSeqResponse;
    type Output = ();

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByState
    }

    fn describe(&self) -> String {
        format!("SeedSeq(key {:?}, start {})", self.key, self.start)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let key = self.key.as_str().to_owned();
        let request = attempt.request(v1::SeedSeqRequest { key, start: self.start });
        SequenceServiceClient::new(channel).seed_seq(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<()>, Rejected> {
        let (key, next) = (&response.key, response.next);
        if key != self.key.as_str() || next != self.start {
            return malformed(format!("{key:?} at {next} instead of {:?}", self.key));
        }
        Ok(Answer { output: (), epoch: epoch_of(response.epoch) })
    }
}

/// `DeleteSeq`.
pub(crate) struct DeleteSeq {
    pub(crate) key: SeqKey,
}

impl Rpc for DeleteSeq {
    type Response = v1::DeleteSeqResponse;
    type Output = u64;

    fn idempotency(&self) -> Idempotency<'_> {
        Idempotency::ByState
    }

    fn describe(&self) -> String {
        format!("DeleteSeq(key {:?})", self.key)
    }

    async fn send(&self, channel: Channel, attempt: Attempt) -> Reply<Self::Response> {
        let request = attempt.request(v1::DeleteSeqRequest { key: self.key.as_str().to_owned() });
        SequenceServiceClient::new(channel).delete_seq(request).await
    }

    fn accept(&self, response: Self::Response) -> Result<Answer<u64>, Rejected> {
        if response.key != self.key.as_str() {
            return malformed(format!("{:?} instead of {:?}", response.key, self.key));
        }
        Ok(Answer { output: response.next, epoch: epoch_of(response.epoch) })
    }
}
