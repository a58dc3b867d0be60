use std::sync::Arc;

use tonic::{Request, Response, Status};
use tsoracle_core::{Error, Member, Membership, MembershipChange, Oracle, Rules};
use tsoracle_proto::v1::{self, change_request::Change, cluster_service_server::ClusterService};

use super::client;
use crate::{
    Reloads,
    rights::Right,
    status::{Asked, Statuses},
};

/// The nodes of a cluster, for drivers that can change them.
#[derive(Clone, Debug)]
pub(crate) struct Cluster {
    pub(crate) oracle: Oracle,
    pub(crate) statuses: Statuses,
    pub(crate) reloads: Option<Reloads>,
}

impl Cluster {
    fn membership(&self) -> Result<Arc<dyn Membership>, Status> {
        self.oracle.membership().ok_or_else(|| {
            Status::unimplemented("this driver has no members that can be changed while it runs")
        })
    }

    fn refused(&self, error: &Error) -> Status {
        self.statuses.of(error, Asked::Sequences)
    }
}

#[tonic::async_trait]
impl ClusterService for Cluster {
    async fn members(
        &self,
        _: Request<v1::MembersRequest>,
    ) -> Result<Response<v1::MembersResponse>, Status> {
        let members = self.membership()?.members().await.map_err(|error| self.refused(&error))?;
        let wire = |member: Member| v1::ClusterMember {
            id: member.id,
            peer_address: member.peer,
            service_address: member.service,
            votes: member.votes,
        };
        Ok(Response::new(v1::MembersResponse {
            members: members.members.into_iter().map(wire).collect(),
            leader: members.leader.unwrap_or(0),
        }))
    }

    async fn troubles(
        &self,
        _: Request<v1::TroublesRequest>,
    ) -> Result<Response<v1::TroublesResponse>, Status> {
        let troubles = self.oracle.problems().iter().map(ToString::to_string).collect();
        let status = self.oracle.status();
        let kept = status.rules.and_then(Rules::kept_from_release_before);
        Ok(Response::new(v1::TroublesResponse {
            troubles,
            free_bytes: status.free_bytes,
            reserve_bytes: status.reserve_bytes,
            rules: status.rules.map(Rules::version),
            newest_rules: Rules::NEWEST.version(),
            kept_from_release_before: kept.map(str::to_owned),
        }))
    }

    async fn reload(
        &self,
        request: Request<v1::ReloadRequest>,
    ) -> Result<Response<v1::ReloadResponse>, Status> {
        let client = client(&request)?;
        let Some(reloads) = &self.reloads else {
            return Err(Status::unimplemented(
                "this server has no settings that it could read again",
            ));
        };
        let action = client.audit().begin(client.who(), Right::Cluster, "read the settings again");
        let reloaded = reloads.ask().await.map_err(|reason| {
            Status::failed_precondition(format!("what was before still holds: {reason}"))
        });
        let next_start = action.end(reloaded)?;
        Ok(Response::new(v1::ReloadResponse { next_start }))
    }

    async fn change(
        &self,
        request: Request<v1::ChangeRequest>,
    ) -> Result<Response<v1::ChangeResponse>, Status> {
        let (membership, client) = (self.membership()?, client(&request)?);
        let change = match request.into_inner().change {
            Some(Change::Add(member)) => MembershipChange::Add(Member {
                id: member.id,
                peer: member.peer_address,
                service: member.service_address,
                votes: false,
            }),
            Some(Change::Promote(id)) => MembershipChange::Promote { id },
            Some(Change::Remove(v1::RemoveMember { id, force })) => {
                MembershipChange::Remove { id, force }
            }
            Some(Change::Transfer(id)) => {
                MembershipChange::Transfer { to: Some(id).filter(|id| *id != 0) }
            }
            None => return Err(Status::invalid_argument("the request names no change")),
        };
        let object = in_words(&change);
        let action = client.audit().begin(client.who(), Right::Cluster, &object);
        let changed = membership.change(change).await;
        action.end(changed.map_err(|error| self.refused(&error)))?;
        Ok(Response::new(v1::ChangeResponse {}))
    }
}

/// As an audit log has it.
fn in_words(change: &MembershipChange) -> String {
    match change {
        MembershipChange::Add(Member { id, peer, .. }) => format!("add node {id} at {peer}"),
        MembershipChange::Promote { id } => format!("promote node {id}"),
        MembershipChange::Remove { id, force: false } => format!("remove node {id}"),
        MembershipChange::Remove { id, force: true } => format!("remove node {id} by force"),
        MembershipChange::Transfer { to: Some(id) } => format!("transfer to node {id}"),
        MembershipChange::Transfer { to: None } => "transfer".into(),
        other => format!("{other:?}"),
    }
}
