//! What the nodes of a cluster agree on.

use std::collections::BTreeMap;

use tonic::metadata::MetadataMap;
use tonic::{Code, Status};
use tsoracle_proto::metadata::{self, SESSION_UNKNOWN};
use tsoracle_proto::v1::{RequestId, SeqGrantEntry, SeqRequestEntry};

/// What is kept of a session: its answers from the first incomplete one on.
#[derive(Debug, Default)]
pub(crate) struct Session {
    first_incomplete: u64,
    answers: BTreeMap<u64, Vec<SeqGrantEntry>>,
}

/// The state that the nodes of a cluster share.
#[derive(Debug, Default)]
pub(crate) struct Shared {
    pub(crate) counters: BTreeMap<String, u64>,
    pub(crate) sessions: BTreeMap<Vec<u8>, Session>,
    pub(crate) next_timestamp: u64,
    /// How many sequence requests were carried out.
    pub(crate) executed: usize,
}

impl Shared {
    pub(crate) fn advance(
        &mut self,
        entries: Vec<SeqRequestEntry>,
        id: Option<&RequestId>,
    ) -> Result<Vec<SeqGrantEntry>, Status> {
        if let Some(id) = id {
            let known = self.sessions.get(session_of(id));
            if known.is_none() && id.retry {
                let mut trailers = MetadataMap::new();
                metadata::insert_flag(&mut trailers, SESSION_UNKNOWN);
                let status = Status::with_metadata(Code::FailedPrecondition, "unknown", trailers);
                return Err(status);
            }
            if let Some(session) = known {
                if id.number < session.first_incomplete {
                    return Err(Status::failed_precondition("forgotten"));
                }
                if let Some(answer) = session.answers.get(&id.number) {
                    return Ok(answer.clone());
                }
            }
        }
        self.executed += 1;
        let mut grants = Vec::new();
        for SeqRequestEntry { key, count } in entries {
            let next = self.counters.entry(key.clone()).or_default();
            grants.push(SeqGrantEntry { key, start: *next, count });
            *next += u64::from(count);
        }
        if let Some(id) = id {
            let session = self.sessions.entry(session_of(id).to_vec()).or_default();
            session.first_incomplete = session.first_incomplete.max(id.first_incomplete);
            session.answers = session.answers.split_off(&session.first_incomplete);
            session.answers.insert(id.number, grants.clone());
        }
        Ok(grants)
    }
}

/// A name is like a session of one request.
fn session_of(id: &RequestId) -> &[u8] {
    if id.name.is_empty() { &id.session } else { id.name.as_bytes() }
}
