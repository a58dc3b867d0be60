//! Asking the server that leads, whichever was named.

use std::time::Duration;

use tonic::{Code, Response, Status};
use tsoracle_client::ErrorKind;
use tsoracle_core::{BootTime, Clock as _, SystemClock, on_one_line};
use tsoracle_proto::{
    metadata,
    v1::{MembersRequest, MembersResponse, cluster_service_client::ClusterServiceClient},
};

use crate::{
    endpoints::{Channel, Dialer, Endpoints, said, within},
    failure::Failure,
    place,
};

/// The servers that are named lead to the leader within this number of hints, or not at all.
const MAX_HINTS: usize = 8;

/// Pause before the servers are asked again.
const PAUSE: Duration = Duration::from_millis(300);

/// The words of a server that does not lead.
const NOT_LEADER: &str = "not leader";

/// Finds the leader, and stays with it.
#[derive(Debug)]
pub(crate) struct Leader {
    dialer: Dialer,
    names: Vec<String>,
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
        let names: Vec<String> = endpoints.names().map(Into::into).collect();
        let to_ask = names.iter().rev().cloned().collect();
        Ok(Self { dialer: endpoints.dialer()?, names, to_ask })
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
        self.ask_until(BootTime::default(), |_| false, ask).await
    }

    /// As [`ask`](Self::ask), again and again until there is a leader, or until `until`. A server that refuses in a way
    /// that `may_pass` is passed over.
    pub(crate) async fn ask_until<T>(
        &mut self,
        until: BootTime,
        may_pass: impl Fn(&Status) -> bool,
        ask: impl AsyncFn(Channel, Duration) -> Result<Response<T>, Status>,
    ) -> Result<T, Unanswered> {
        let mut why = "no server was asked".to_owned();
        let mut follower;
        loop {
            follower = None;
            for _ in 0..self.names.len() + MAX_HINTS {
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
                match elsewhere(&status) {
                    Some(hint) => {
                        // A socket would be one of this machine, whatever the other one means.
                        let usable =
                            |hint: &String| *hint != endpoint && place::socket(hint).is_none();
                        self.to_ask.extend(hint.filter(usable));
                        follower = Some((endpoint, channel));
                    }
                    None if may_pass(&status) => {
                        why = format!("{endpoint}: {}", said(&status));
                        follower = None;
                    }
                    None => return Err(Unanswered::Refused(endpoint, status)),
                }
            }
            if SystemClock.now().boot >= until {
                break;
            }
            SystemClock.sleep(PAUSE).await;
            self.to_ask = self.names.iter().rev().cloned().collect();
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
async fn advice(endpoint: &str, channel: Channel, timeout: Duration) -> String {
    let request = within(MembersRequest {}, timeout);
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

/// Why a call of the client came to nothing. Where no server leads that was named, it is worth a word who does.
pub(crate) async fn explained(endpoints: &Endpoints, error: tsoracle_client::Error) -> Failure {
    let is_led_elsewhere = matches!(error.kind(), ErrorKind::Timeout | ErrorKind::Unavailable)
        && on_one_line(&error).contains(NOT_LEADER);
    let Ok(dialer) = endpoints.dialer() else { return error.into() };
    for endpoint in endpoints.names().filter(|_| is_led_elsewhere) {
        if let Ok(channel) = dialer.dial(endpoint).await {
            let advice = advice(endpoint, channel, dialer.timeout).await;
            return Failure::failed(format!("{error:#}; {advice}"));
        }
    }
    error.into()
}

/// Where the leader is, if the node that was asked does not lead. Without that trailer it is a refusal.
fn elsewhere(status: &Status) -> Option<Option<String>> {
    let hint = metadata::leader_hint(status.metadata());
    let is_elsewhere = status.code() == Code::FailedPrecondition
        && (hint.is_some() || status.message() == NOT_LEADER);
    is_elsewhere.then(|| hint.and_then(|hint| hint.leader_endpoint))
}
