//! Nodes and clients, as services.

use std::{net::SocketAddr, time::Duration};

use async_trait::async_trait;
use tonic::{
    Code, Status,
    transport::{Channel, Endpoint},
};
use tsoracle_client::{Client, ErrorKind as ClientErrorKind};
use tsoracle_core::{
    Epoch, Error, ErrorKind, Grant, LeaderHint, Reject, RequestId, RequestName, Result, SeqBlock,
    SeqGrant, SeqKey, SeqRequest, Timestamp, TimestampRange,
};
use tsoracle_proto::{
    metadata,
    v1::{
        self, cluster_service_client::ClusterServiceClient, tso_service_client::TsoServiceClient,
    },
};

use super::failed;
use tsoracle_verify::why_failed;

use tsoracle_conformance::Service;

pub(super) use v1::change_request::Change;

/// How long connecting may take. A node answers at once, or is not there.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(1);

/// One node, over a connection that follows no hint.
#[derive(Clone, Debug)]
pub(super) struct Remote(TsoServiceClient<Channel>);

impl Remote {
    pub(super) fn new(address: SocketAddr) -> Result<Self> {
        Ok(Self(TsoServiceClient::new(channel(address)?)))
    }
}

fn channel(address: SocketAddr) -> Result<Channel> {
    let endpoint = Endpoint::from_shared(format!("http://{address}")).map_err(failed)?;
    Ok(endpoint.connect_timeout(CONNECT_TIMEOUT).tcp_nodelay(true).connect_lazy())
}

/// Has the node at `address` make a change, if it leads.
pub(super) async fn change(address: SocketAddr, change: Change) -> Result<()> {
    let mut node = ClusterServiceClient::new(channel(address)?);
    node.change(v1::ChangeRequest { change: Some(change) }).await.map_err(error)?;
    Ok(())
}

/// The transfer of leadership to whichever other node the leader likes.
pub(super) fn transfer() -> Change {
    Change::Transfer(0)
}

pub(super) fn add(id: u64, peer: SocketAddr, service: SocketAddr) -> Change {
    let (peer_address, service_address) = (peer.to_string(), service.to_string());
    Change::Add(v1::ClusterMember { id, peer_address, service_address, votes: false })
}

pub(super) fn promote(id: u64) -> Change {
    Change::Promote(id)
}

pub(super) fn remove(id: u64) -> Change {
    Change::Remove(v1::RemoveMember { id, force: false })
}

#[async_trait]
impl Service for Remote {
    async fn get_ts(&self, count: u32) -> Result<Grant> {
        let answer = self.0.clone().get_ts(v1::GetTsRequest { count }).await.map_err(error)?;
        let answer = answer.into_inner();
        let first = Timestamp::from_parts(answer.physical_ms, answer.logical_start)?;
        let epoch = Epoch::from_parts(answer.epoch_hi, answer.epoch_lo);
        Ok(Grant { range: TimestampRange::new(first, answer.count)?, epoch })
    }

    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant> {
        let request_id = request.id().map(request_id).or(request.name().map(named));
        let entry = |(key, count): &(SeqKey, u32)| v1::SeqRequestEntry {
            key: key.as_str().into(),
            count: *count,
        };
        let entries: Vec<_> = request.entries().iter().map(entry).collect();
        let mut node = self.0.clone();
        let (grants, epoch) = if let [v1::SeqRequestEntry { key, count }] = &entries[..] {
            let request = v1::GetSeqRequest { key: key.clone(), count: *count, request_id };
            let v1::GetSeqResponse { key, start, count, epoch } =
                node.get_seq(request).await.map_err(error)?.into_inner();
            (vec![v1::SeqGrantEntry { key, start, count }], epoch)
        } else {
            let request = v1::GetSeqBatchRequest { entries, request_id };
            let answer = node.get_seq_batch(request).await.map_err(error)?.into_inner();
            (answer.grants, answer.epoch)
        };
        let epoch = epoch.ok_or_else(|| failed("an answer has no epoch"))?;
        Ok(SeqGrant {
            blocks: grants.into_iter().map(block).collect::<Result<_>>()?,
            epoch: Epoch::from_parts(epoch.hi, epoch.lo),
        })
    }
}

fn request_id(id: &RequestId) -> v1::RequestId {
    v1::RequestId {
        session: id.session.0.to_vec().into(),
        number: id.number.get(),
        first_incomplete: id.first_incomplete.get(),
        retry: id.retry,
        close: id.close,
        name: String::new(),
    }
}

/// A request that only has its name's hash is sent under a name that is made of that.
fn named(name: &RequestName) -> v1::RequestId {
    v1::RequestId { name: format!("{name:?}"), ..v1::RequestId::default() }
}

fn block(grant: v1::SeqGrantEntry) -> Result<SeqBlock> {
    Ok(SeqBlock { key: SeqKey::new(grant.key)?, start: grant.start, count: grant.count })
}

/// What a status says, by the table of the protocol. What only the connection says is uncertain,
/// unless there was none.
fn error(status: Status) -> Error {
    let (why, is_open) = why_failed(&status);
    let kind = match status.code() {
        _ if is_open => ErrorKind::Uncertain,
        Code::FailedPrecondition if *why == *"not leader" => ErrorKind::NotLeader(hint(&status)),
        Code::FailedPrecondition if *why == *"session unknown" => {
            ErrorKind::Rejected(Reject::SessionUnknown)
        }
        Code::Unavailable => ErrorKind::Unavailable,
        Code::InvalidArgument => ErrorKind::Invalid,
        Code::ResourceExhausted => ErrorKind::Overloaded,
        _ => ErrorKind::Fatal,
    };
    Error::new(kind, format!("{why}: {}", status.message()))
}

fn hint(status: &Status) -> Option<LeaderHint> {
    let hint = metadata::leader_hint(status.metadata())?;
    let epoch = hint.leader_epoch.map(|epoch| Epoch::from_parts(epoch.hi, epoch.lo));
    hint.leader_endpoint.map(|endpoint| LeaderHint { endpoint, epoch })
}

/// A client, which does not say under which epoch it was answered.
#[derive(Debug)]
pub(super) struct Riding(Client);

impl Riding {
    pub(super) fn new(client: Client) -> Self {
        Self(client)
    }
}

#[async_trait]
impl Service for Riding {
    async fn get_ts(&self, count: u32) -> Result<Grant> {
        let range = self.0.get_ts_batch(count).await.map_err(error_of_client)?;
        Ok(Grant { range, epoch: Epoch::default() })
    }

    async fn get_seq(&self, request: SeqRequest) -> Result<SeqGrant> {
        let entries: Vec<_> =
            request.entries().iter().map(|(key, count)| (key.as_str(), *count)).collect();
        let blocks = match (entries.as_slice(), request.name()) {
            ([(key, count)], Some(name)) => {
                let name = format!("{name:?}");
                self.0.get_seq_as(&name, key, *count).await.map(|block| vec![block])
            }
            ([(key, count)], None) => self.0.get_seq(key, *count).await.map(|block| vec![block]),
            _ => self.0.get_seq_batch(&entries).await,
        };
        Ok(SeqGrant { blocks: blocks.map_err(error_of_client)?, epoch: Epoch::default() })
    }
}

fn error_of_client(error: tsoracle_client::Error) -> Error {
    let kind = match error.kind() {
        ClientErrorKind::Uncertain | ClientErrorKind::Protocol => ErrorKind::Uncertain,
        ClientErrorKind::Unavailable | ClientErrorKind::Timeout => ErrorKind::Unavailable,
        ClientErrorKind::Exhausted => ErrorKind::Overloaded,
        _ => ErrorKind::Invalid,
    };
    Error::new(kind, format!("{:?}: {error:#}", error.kind()))
}
