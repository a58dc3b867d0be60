//! Asking the server that leads, whichever was named.

use std::time::Duration;

use tonic::{Code, Request, Response, Status};
use tsoracle_proto::{
    metadata,
    v1::{MembersRequest, MembersResponse, cluster_service_client::ClusterServiceClient},
};

use crate::{
    endpoints::{Channel, Dialer, Endpoints, said},
    failure::Failure,
    place,
};

/// The first servers to be asked lead to the leader within this number of steps, or not at all.
const MAX_STEPS: usize = 8;

/// Finds the leader, and stays with it.
#[derive(Debug)]
pub(crate) struct Leader {
    dialer: Dialer,
    /// The next one last.
    to_ask: Vec<String>,
}

/// Why there is no answer.
#[derive(Debug)]
pub(crate) enum Unanswered {
    /// No leader could be asked.
    Unreached(String),
    /// It has refused.
    Refused(String, Status),
}

impl Unanswered {
    /// What the leader has said, and where it is.
    pub(crate) fn status(&self) -> Option<(&str, &Status)> {
        match self {
            Self::Unreached(_) => None,
            Self::Refused(endpoint, status) => Some((endpoint, status)),
        }
    }
}

impl From<Unanswered> for Failure {
    fn from(unanswered: Unanswered) -> Self {
        match unanswered {
            Unanswered::Unreached(why) => Self::failed(why),
            Unanswered::Refused(endpoint, status) => {
                Self::failed(format!("{endpoint}: {}", said(&status)))
            }
        }
    }
}

impl Leader {
    pub(crate) fn new(endpoints: &Endpoints) -> Result<Self, Failure> {
        let mut to_ask: Vec<String> = endpoints.names().map(Into::into).collect();
        to_ask.reverse();
        Ok(Self { dialer: endpoints.dialer()?, to_ask })
    }

    /// Where it is, once it has answered.
    pub(crate) fn endpoint(&self) -> &str {
        self.to_ask.last().map_or("", |endpoint| endpoint)
    }

    /// Asks the leader, wherever it is.
    pub(crate) async fn ask<T>(
        &mut self,
        ask: impl AsyncFn(Channel, Duration) -> Result<Response<T>, Status>,
    ) -> Result<T, Unanswered> {
        let mut why = "no server was asked".to_owned();
        let mut follower = None;
        for _ in 0..MAX_STEPS {
            let Some(endpoint) = self.to_ask.pop() else { break };
            let channel = match self.dialer.dial(&endpoint).await {
                Ok(channel) => channel,
                Err(error) => {
                    why = format!("{endpoint} cannot be reached: {error:#}");
                    follower = None;
                    continue;
                }
            };
            let status = match ask(channel.clone(), self.dialer.timeout).await {
                Ok(answer) => {
                    self.to_ask.push(endpoint);
                    return Ok(answer.into_inner());
                }
                Err(status) => status,
            };
            let Some(hint) = elsewhere(&status) else {
                return Err(Unanswered::Refused(endpoint, status));
            };
            // A socket would be one of this machine, whatever the other one means.
            let usable = |hint: &String| *hint != endpoint && place::socket(hint).is_none();
            self.to_ask.extend(hint.filter(usable));
            follower = Some((endpoint, channel));
        }
        if let Some((endpoint, channel)) = follower {
            why = advice(&endpoint, channel, self.dialer.timeout).await;
        }
        Err(Unanswered::Unreached(why))
    }
}

/// The address of the leader's clients, as a node says that lists the members.
pub(crate) fn leader_of(members: MembersResponse) -> Option<String> {
    let leader = members.members.into_iter().find(|member| member.id == members.leader)?;
    Some(leader.service_address)
}

/// What a person does about a node that was asked, does not lead, and named no other: an address of administrators names
/// none, but each node knows the members.
pub(crate) async fn advice(endpoint: &str, channel: Channel, timeout: Duration) -> String {
    let mut request = Request::new(MembersRequest {});
    request.set_timeout(timeout);
    let members = ClusterServiceClient::new(channel).members(request).await;
    match members.ok().and_then(|members| leader_of(members.into_inner())) {
        Some(leader) => format!(
            "{endpoint} does not lead; the leader's clients reach it at {leader}; give the addresses of all nodes"
        ),
        None => {
            format!(
                "{endpoint} does not lead, and names no leader; give the addresses of all nodes"
            )
        }
    }
}

/// Where the leader is, if the node that was asked does not lead. Without that trailer it is a refusal.
fn elsewhere(status: &Status) -> Option<Option<String>> {
    let hint = metadata::leader_hint(status.metadata());
    let is_elsewhere = status.code() == Code::FailedPrecondition
        && (hint.is_some() || status.message() == "not leader");
    is_elsewhere.then(|| hint.and_then(|hint| hint.leader_endpoint))
}
