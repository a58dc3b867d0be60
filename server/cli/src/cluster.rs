use clap::{Args, Subcommand};
use serde::Serialize;
use tonic::{Code, Status};
use tsoracle_proto::{
    metadata,
    v1::{
        ChangeRequest, ClusterMember, MembersRequest, MembersResponse, RemoveMember,
        change_request::Change, cluster_service_client::ClusterServiceClient,
    },
};

use crate::{
    endpoints::{Dialer, Endpoints, said, within},
    failure::Failure,
    leader::Leader,
    output::{Output, word},
};

pub(crate) const EXAMPLES: &str = "\
Examples:
  tsoracle cluster members --endpoint db1:50551
  tsoracle cluster add 4 --peer db4:50552 --service db4:50551 --endpoint db1:50551
  tsoracle cluster promote 4 --endpoint db1:50551
  tsoracle cluster remove 2 --endpoint db1:50551
  tsoracle cluster transfer --to 3 --endpoint db1:50551

A node that lost its disk never comes back under its old id: remove that, empty the directory, and
add the node under an id that was never used. OPERATIONS.md walks through it.

Exit codes: 0 done, 1 not done or not certain, 2 wrong arguments.";

/// What to do with a cluster's nodes.
#[derive(Subcommand, Debug)]
pub(crate) enum Command {
    /// Show the nodes
    Members(Arguments),
    /// Take in a node that was started with `join=true`; it gets no vote yet
    #[command(
        override_usage = "tsoracle cluster add [OPTIONS] --peer <HOST:PORT>\n       --service <HOST:PORT> <ID>"
    )]
    Add(AddArguments),
    /// Give a node that has caught up its vote
    Promote(NodeArguments),
    /// Let a node go, which then never comes back under its id
    ///
    /// Refused for the last node with a vote, and while those that are left could not agree without it.
    Remove(RemoveArguments),
    /// Have another node lead
    Transfer(TransferArguments),
}

/// What all of them take.
#[derive(Args, Debug)]
pub(crate) struct Arguments {
    #[command(flatten)]
    endpoints: Endpoints,

    #[command(flatten)]
    output: Output,
}

/// Options of `tsoracle cluster add`.
#[derive(Args, Debug)]
pub(crate) struct AddArguments {
    /// An id that no node of this cluster ever had
    id: u64,

    /// Where the other nodes reach it
    #[arg(long, value_name = "HOST:PORT")]
    peer: String,

    /// Where clients reach it
    #[arg(long, value_name = "HOST:PORT")]
    service: String,

    #[command(flatten)]
    common: Arguments,
}

/// Options of `tsoracle cluster promote`.
#[derive(Args, Debug)]
pub(crate) struct NodeArguments {
    /// The node's id
    id: u64,

    #[command(flatten)]
    common: Arguments,
}

/// Options of `tsoracle cluster remove`.
#[derive(Args, Debug)]
pub(crate) struct RemoveArguments {
    /// The node's id
    id: u64,

    /// Even if the nodes that are left cannot agree then: the cluster serves again only when enough
    /// of them are back
    #[arg(long)]
    force: bool,

    #[command(flatten)]
    common: Arguments,
}

/// Options of `tsoracle cluster transfer`.
#[derive(Args, Debug)]
pub(crate) struct TransferArguments {
    /// The node that shall lead [default: any that has caught up]
    #[arg(long, value_name = "ID")]
    to: Option<u64>,

    #[command(flatten)]
    common: Arguments,
}

#[derive(Serialize)]
struct Shown<'a> {
    id: u64,
    peer: &'a str,
    service: &'a str,
    votes: bool,
    leads: bool,
}

pub(crate) async fn run(command: Command) -> Result<(), Failure> {
    let (change, Arguments { endpoints, output }) = match command {
        Command::Members(common) => (None, common),
        Command::Add(AddArguments { id, peer, service, common }) => {
            let (peer_address, service_address) = (peer, service);
            let member = ClusterMember { id, peer_address, service_address, votes: false };
            (Some(Change::Add(member)), common)
        }
        Command::Promote(NodeArguments { id, common }) => (Some(Change::Promote(id)), common),
        Command::Remove(RemoveArguments { id, force, common }) => {
            (Some(Change::Remove(RemoveMember { id, force })), common)
        }
        Command::Transfer(TransferArguments { to, common }) => {
            (Some(Change::Transfer(to.unwrap_or(0))), common)
        }
    };
    let dialer = endpoints.dialer()?;
    let endpoint = match change {
        Some(change) => {
            let mut leader = Leader::new(&endpoints)?;
            let asked = leader.ask(async |channel, timeout| {
                let request = within(ChangeRequest { change: Some(change.clone()) }, timeout);
                ClusterServiceClient::new(channel).change(request).await
            });
            asked.await.map_err(|error| match error.status() {
                Some((endpoint, status)) => refused(endpoint, status),
                None => error.into(),
            })?;
            leader.endpoint().into()
        }
        None => String::new(),
    };
    // The node that made the change knows of it.
    let known = Some(endpoint).filter(|endpoint| !endpoint.is_empty());
    let asked: Vec<_> = known.into_iter().chain(endpoints.names().map(Into::into)).collect();
    show(&members(&dialer, &asked).await?, output)
}

fn refused(endpoint: &str, status: &Status) -> Failure {
    let message = said(status);
    match status.code() {
        Code::Unavailable if !metadata::has_flag(status.metadata(), metadata::UNCOMMITTED) => {
            let advice = "it may have been done; look at `tsoracle cluster members`";
            Failure::failed(format!("{endpoint}: {message}; {advice}"))
        }
        _ => Failure::failed(format!("{endpoint}: {message}")),
    }
}

/// The members, as the first server says that answers.
async fn members(dialer: &Dialer, endpoints: &[String]) -> Result<MembersResponse, Failure> {
    let mut failure = Failure::failed("no server was asked");
    for endpoint in endpoints {
        let answer = match dialer.dial(endpoint).await {
            Ok(channel) => {
                let request = within(MembersRequest {}, dialer.timeout);
                ClusterServiceClient::new(channel).members(request).await
            }
            Err(error) => Err(Status::unavailable(error)),
        };
        match answer {
            Ok(answer) => return Ok(answer.into_inner()),
            Err(status) => failure = refused(endpoint, &status),
        }
    }
    Err(failure)
}

fn show(members: &MembersResponse, output: Output) -> Result<(), Failure> {
    for member in &members.members {
        let shown = Shown {
            id: member.id,
            peer: &member.peer_address,
            service: &member.service_address,
            votes: member.votes,
            leads: member.id == members.leader,
        };
        output.print(&shown, || {
            let role = match (shown.leads, shown.votes) {
                (true, _) => "leads",
                (false, true) => "votes",
                (false, false) => "learns",
            };
            let (peer, service) = (word(shown.peer), word(shown.service));
            format!("{}  {role}  peer {peer}  service {service}", shown.id)
        })?;
    }
    Ok(())
}
