use tonic::{Request, Response, Status};
use tsoracle_core::{Epoch, Error, MAX_KEY_BYTES, MAX_SEQ_PAGE, Oracle, Phase, SeqKey, SeqList};
use tsoracle_proto::v1::{self, sequence_service_server::SequenceService};

use super::{check_key, client, convert, denied, within_deadline};
use crate::{
    rights::Right,
    status::{Asked, Statuses, never_used},
};

/// How many sequences a page has if the client does not say.
const DEFAULT_PAGE: usize = 100;

/// Looking at sequences, starting them elsewhere than at 0, and deleting them.
#[derive(Clone, Debug)]
pub(crate) struct Sequences {
    pub(crate) oracle: Oracle,
    pub(crate) statuses: Statuses,
}

impl Sequences {
    /// The epoch that this node answers under. Reading needs no lease, so an idle leader has one.
    fn epoch(&self) -> Epoch {
        match *self.oracle.phase().borrow() {
            Phase::Serving { epoch } => epoch,
            _ => Epoch::default(),
        }
    }
}

#[tonic::async_trait]
impl SequenceService for Sequences {
    async fn read_seq(
        &self,
        request: Request<v1::ReadSeqRequest>,
    ) -> Result<Response<v1::ReadSeqResponse>, Status> {
        let refused = |error: Error| self.statuses.of(&error, Asked::Sequences);
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let key = SeqKey::new(request.into_inner().key).map_err(|error| refused(error.into()))?;
        check_key(&client, Right::Read, key.as_str())?;
        match oracle.read_seq(key.clone()).await.map_err(refused)? {
            Some(next) => Ok(Response::new(v1::ReadSeqResponse {
                key: key.into(),
                next,
                epoch: Some(convert::epoch(self.epoch())),
            })),
            None => Err(never_used(key.as_str())),
        }
    }

    async fn list_seqs(
        &self,
        request: Request<v1::ListSeqsRequest>,
    ) -> Result<Response<v1::ListSeqsResponse>, Status> {
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let v1::ListSeqsRequest { prefix, page_size, start_after } = request.into_inner();
        if prefix.len() > MAX_KEY_BYTES {
            let given = prefix.len();
            return Err(Status::invalid_argument(format!(
                "no key is longer than {MAX_KEY_BYTES} bytes, so none begins with one of {given}"
            )));
        }
        // Whoever may see what begins with a prefix may see what begins with a longer one.
        let listed = client.check_key(Right::List, &prefix);
        listed.map_err(|error| denied(&client, Right::List, &prefix, &error))?;
        let limit = match page_size as usize {
            0 => DEFAULT_PAGE,
            asked => asked.min(MAX_SEQ_PAGE),
        };
        let list = SeqList { prefix, after: start_after, limit };
        let listed = oracle.list_seqs(list).await;
        let listed = listed.map_err(|error| self.statuses.of(&error, Asked::Sequences))?;
        let entry = |(key, next): (SeqKey, u64)| v1::SeqEntry { key: key.into(), next };
        Ok(Response::new(v1::ListSeqsResponse {
            entries: listed.entries.into_iter().map(entry).collect(),
            more: listed.more,
            epoch: Some(convert::epoch(self.epoch())),
        }))
    }

    async fn seed_seq(
        &self,
        request: Request<v1::SeedSeqRequest>,
    ) -> Result<Response<v1::SeedSeqResponse>, Status> {
        let refused = |error: Error| self.statuses.of(&error, Asked::Sequences);
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let v1::SeedSeqRequest { key, start } = request.into_inner();
        let key = SeqKey::new(key).map_err(|error| refused(error.into()))?;
        check_key(&client, Right::Seed, key.as_str())?;
        let action = client.audit().begin(client.who(), Right::Seed, key.as_str());
        let seeded = oracle.seed_seq(key.clone(), start).await.map_err(refused);
        let (next, epoch) = action.end(seeded)?;
        let epoch = Some(convert::epoch(epoch));
        Ok(Response::new(v1::SeedSeqResponse { key: key.into(), next, epoch }))
    }

    async fn delete_seq(
        &self,
        request: Request<v1::DeleteSeqRequest>,
    ) -> Result<Response<v1::DeleteSeqResponse>, Status> {
        let refused = |error: Error| self.statuses.of(&error, Asked::Sequences);
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let key = SeqKey::new(request.into_inner().key).map_err(|error| refused(error.into()))?;
        check_key(&client, Right::Delete, key.as_str())?;
        let action = client.audit().begin(client.who(), Right::Delete, key.as_str());
        let (next, epoch) = action.end(oracle.delete_seq(key.clone()).await.map_err(refused))?;
        let epoch = Some(convert::epoch(epoch));
        Ok(Response::new(v1::DeleteSeqResponse { key: key.into(), next, epoch }))
    }

    async fn open_seqs(
        &self,
        request: Request<v1::OpenSeqsRequest>,
    ) -> Result<Response<v1::OpenSeqsResponse>, Status> {
        let refused = |error: Error| self.statuses.of(&error, Asked::Sequences);
        let (oracle, client) = (within_deadline(&self.oracle, &request), client(&request)?);
        let v1::OpenSeqsRequest { floors, accept_sequence_loss } = request.into_inner();
        let floor = |entry: v1::SeqEntry| Ok((SeqKey::new(entry.key)?, entry.next));
        let floors = floors.into_iter().map(floor).collect::<tsoracle_core::Result<Vec<_>>>();
        let floors = floors.map_err(refused)?;
        for (key, _) in &floors {
            check_key(&client, Right::Delete, key.as_str())?;
        }
        if accept_sequence_loss {
            check_key(&client, Right::Delete, "")?;
        }
        let opened: Vec<String> =
            floors.iter().map(|(key, floor)| format!("{} from {floor}", key.as_str())).collect();
        let object = match accept_sequence_loss {
            true => "open all sequences, with their loss accepted".into(),
            false => format!("open {}", opened.join(", ")),
        };
        let action = client.audit().begin(client.who(), Right::Delete, &object);
        let keys: Vec<_> = floors.iter().map(|(key, _)| key.clone()).collect();
        let answered = oracle.open_seqs(floors, accept_sequence_loss).await;
        let (nexts, closed) = action.end(answered.map_err(refused))?;
        let entry = |(key, next): (SeqKey, u64)| v1::SeqEntry { key: key.into(), next };
        Ok(Response::new(v1::OpenSeqsResponse {
            entries: keys.into_iter().zip(nexts).map(entry).collect(),
            closed,
            epoch: Some(convert::epoch(self.epoch())),
        }))
    }
}
