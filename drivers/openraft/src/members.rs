use std::{
    collections::{BTreeMap, BTreeSet},
    sync::Arc,
    time::Duration,
};

use async_trait::async_trait;
use futures::future::join_all;
use openraft::{
    ChangeMembers,
    error::{ClientWriteError, RaftError},
};
use tokio::time::timeout;
use tsoracle_cluster::Addresses;
use tsoracle_core::{
    Clock as _, Error, ErrorKind, Member, Members as All, Membership, MembershipChange, Result,
    SystemClock,
};

use crate::{
    elections,
    network::peer_id,
    shared::Shared,
    types::Metrics,
    wire::{PING, STAND},
};

/// How long a change may take, in which a new node has to catch up.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a node has to answer to count as there.
const PING_DEADLINE: Duration = Duration::from_millis(500);

/// How long a successor has to catch up, and to be elected.
const CATCH_UP: Duration = Duration::from_millis(500);

/// How often to look whether something has happened.
const LOOK: Duration = Duration::from_millis(2);

/// The nodes of the cluster.
#[derive(Debug)]
pub(crate) struct Members(pub(crate) Arc<Shared>);

#[async_trait]
impl Membership for Members {
    async fn members(&self) -> Result<All> {
        let metrics = self.0.metrics();
        let membership = metrics.membership_config.membership();
        let voters: BTreeSet<_> = membership.voter_ids().collect();
        if voters.is_empty() {
            let context = "this node belongs to no cluster yet; `tsoracle cluster add` takes it in";
            return Err(Error::new(ErrorKind::Unavailable, context));
        }
        let members = membership.nodes().map(|(&id, at)| Member {
            id,
            peer: at.peer.clone(),
            service: at.service.clone(),
            votes: voters.contains(&id),
        });
        Ok(All { members: members.collect(), leader: metrics.current_leader })
    }

    async fn change(&self, change: MembershipChange) -> Result<()> {
        let shared = self.0.clone();
        // Goes on if the caller does not.
        let changing = self.0.runtime.spawn(async move { make(&shared, change).await });
        changing.await.map_err(|_| Error::new(ErrorKind::Uncertain, "the change panicked"))?
    }
}

async fn make(shared: &Shared, change: MembershipChange) -> Result<()> {
    let _alone = shared.changing.lock().await;
    if !shared.leads() || shared.is_leaving() {
        return Err(shared.not_leader());
    }
    let made = async {
        match change {
            MembershipChange::Add(member) => add(shared, member).await,
            MembershipChange::Promote { id } => promote(shared, id).await,
            MembershipChange::Remove { id, force } => remove(shared, id, force).await,
            MembershipChange::Transfer { to } => transfer(shared, to).await,
        }
    };
    timeout(DEADLINE, made).await.map_err(|_| {
        let context = format!("the change took longer than {DEADLINE:?}; look at the members");
        Error::new(ErrorKind::Uncertain, context)
    })?
}

async fn add(shared: &Shared, member: Member) -> Result<()> {
    let at = Addresses { peer: member.peer, service: member.service };
    at.check().map_err(|error| invalid(format!("node {} {error}", member.id)))?;
    shared.cluster.allow(&at.peer).map_err(|error| invalid(error.to_string()))?;
    if member.id == 0 || u32::try_from(member.id).is_err() {
        return Err(invalid(format!("{} is no id; ids are from 1 to {}", member.id, u32::MAX)));
    }
    let metrics = shared.metrics();
    for (&id, known) in metrics.membership_config.membership().nodes() {
        let is_same = id == member.id;
        if is_same && *known != at {
            let context = format!(
                "node {id} is a member already, at {} and {}; remove it, and add it under a new id",
                known.peer, known.service
            );
            return Err(invalid(context));
        }
        if !is_same && (known.peer == at.peer || known.service == at.service) {
            return Err(invalid(format!("node {id} is at one of these addresses already")));
        }
    }
    if metrics.membership_config.membership().get_node(&member.id).is_none() {
        let nodes = BTreeMap::from([(member.id, at)]);
        submit(shared, ChangeMembers::AddNodes(nodes)).await?;
    }
    caught_up(shared, Some(member.id)).await.map(drop)
}

async fn promote(shared: &Shared, id: u64) -> Result<()> {
    let metrics = shared.metrics();
    let membership = metrics.membership_config.membership();
    if membership.get_node(&id).is_none() {
        return Err(invalid(format!("node {id} is no member; add it first")));
    }
    if membership.voter_ids().any(|voter| voter == id) {
        return Ok(());
    }
    caught_up(shared, Some(id)).await?;
    submit(shared, ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
}

async fn remove(shared: &Shared, id: u64, force: bool) -> Result<()> {
    let metrics = shared.metrics();
    let membership = metrics.membership_config.membership();
    if membership.get_node(&id).is_none() {
        return Ok(());
    }
    let mut voters: BTreeSet<_> = membership.voter_ids().collect();
    if !voters.remove(&id) {
        return submit(shared, ChangeMembers::RemoveNodes(BTreeSet::from([id]))).await;
    }
    if voters.is_empty() {
        return Err(invalid(format!("node {id} is the last one that votes; it cannot be removed")));
    }
    let reachable = reachable(shared, &voters).await;
    if !force && reachable * 2 <= voters.len() {
        let context = format!(
            "without node {id}, {} nodes vote, of which only {reachable} can be reached: no \
             majority; bring one back first, or use --force",
            voters.len()
        );
        return Err(invalid(context));
    }
    submit(shared, ChangeMembers::RemoveVoters(BTreeSet::from([id]))).await
}

async fn transfer(shared: &Shared, to: Option<u64>) -> Result<()> {
    let voters = other_voters(shared, &shared.metrics());
    match to {
        Some(to) if to == shared.node() => return Ok(()),
        Some(to) if !voters.contains(&to) => {
            return Err(invalid(format!("node {to} has no vote, so it cannot lead")));
        }
        None if voters.is_empty() => {
            return Err(invalid("there is no other node that votes".into()));
        }
        _ => {}
    }
    let _leaving = Leaving::new(shared);
    hand_over(shared, to).await
}

/// Nothing more is begun for as long as it lives.
struct Leaving<'a>(&'a Shared);

impl<'a> Leaving<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.leaving.send_modify(|leaving| *leaving += 1);
        Self(shared)
    }
}

impl Drop for Leaving<'_> {
    fn drop(&mut self) {
        self.0.leaving.send_modify(|leaving| *leaving -= 1);
    }
}

/// Has a voter that holds the whole log stand for election at once. This node grants it its vote, so
/// that a cluster of three does not wait for a third one.
pub(crate) async fn hand_over(shared: &Shared, to: Option<u64>) -> Result<()> {
    let caught_up = timeout(CATCH_UP, caught_up_voter(shared, to)).await;
    let successor = caught_up.map_err(|_| {
        Error::new(ErrorKind::Unavailable, "no other node that votes has the whole log")
    })??;
    tracing::info!(successor, "handing leadership over");
    // Those who hear from this leader grant nobody else their vote for a while, nor does this leader
    // while it has only just been elected.
    let quiet = Quiet::new(shared);
    let heard = match other_voters(shared, &shared.metrics()).len() {
        ..=2 => shared.elected.silence(),
        _ => Duration::ZERO,
    };
    SystemClock.sleep(elections::vote_lease(&shared.cluster).saturating_sub(heard)).await;
    let deadline = shared.cluster.election * 2 + CATCH_UP;
    let elected = timeout(deadline, async {
        let transport = &shared.transport;
        transport.call(peer_id(successor), STAND, bytes::Bytes::new(), CATCH_UP).await?;
        let other = |metrics: &Metrics| {
            metrics.current_leader.is_some_and(|leader| leader != shared.node())
        };
        let mut metrics = shared.raft.metrics();
        let elected = metrics.wait_for(other).await.ok().and_then(|now| now.current_leader);
        match elected {
            Some(elected) if elected != successor && to.is_some() => {
                let context = format!("node {elected} was elected instead of node {successor}");
                Err(Error::new(ErrorKind::Unavailable, context))
            }
            _ => Ok(()),
        }
    });
    let elected = elected.await;
    drop(quiet);
    elected.map_err(|_| {
        let context = format!("node {successor} was not elected within {deadline:?}");
        Error::new(ErrorKind::Unavailable, context)
    })?
}

/// Sends no heartbeats for as long as it lives.
struct Quiet<'a>(&'a Shared);

impl<'a> Quiet<'a> {
    fn new(shared: &'a Shared) -> Self {
        shared.raft.runtime_config().heartbeat(false);
        Self(shared)
    }
}

impl Drop for Quiet<'_> {
    fn drop(&mut self) {
        self.0.raft.runtime_config().heartbeat(true);
    }
}

fn other_voters(shared: &Shared, metrics: &Metrics) -> BTreeSet<u64> {
    let voters = metrics.membership_config.membership().voter_ids();
    voters.filter(|voter| *voter != shared.node()).collect()
}

/// Waits until `to`, or any other voter, holds the whole log.
async fn caught_up_voter(shared: &Shared, to: Option<u64>) -> Result<u64> {
    loop {
        let metrics = shared.metrics();
        let voters = other_voters(shared, &metrics);
        if voters.is_empty() {
            return Err(Error::new(ErrorKind::Unavailable, "no other node votes"));
        }
        let found = voters
            .into_iter()
            .filter(|voter| to.is_none_or(|to| to == *voter))
            .find(|voter| matched(&metrics, *voter) >= metrics.last_log_index);
        match found {
            Some(voter) => return Ok(voter),
            None => SystemClock.sleep(LOOK).await,
        }
    }
}

fn matched(metrics: &Metrics, node: u64) -> Option<u64> {
    let log_id = metrics.replication.as_ref()?.get(&node)?.as_ref()?;
    Some(log_id.index)
}

/// Waits until a node holds what this leader had in its log at the beginning.
async fn caught_up(shared: &Shared, node: Option<u64>) -> Result<()> {
    let goal = shared.metrics().last_log_index;
    while let Some(node) = node {
        let metrics = shared.metrics();
        if node == shared.node() || matched(&metrics, node) >= goal {
            break;
        }
        if !shared.leads() {
            return Err(shared.not_leader());
        }
        SystemClock.sleep(LOOK).await;
    }
    Ok(())
}

/// How many of these can be reached, this node included.
async fn reachable(shared: &Shared, nodes: &BTreeSet<u64>) -> usize {
    let pings = nodes.iter().map(|&node| async move {
        let ping = bytes::Bytes::new();
        node == shared.node()
            || shared.transport.call(peer_id(node), PING, ping, PING_DEADLINE).await.is_ok()
    });
    join_all(pings).await.into_iter().filter(|there| *there).count()
}

async fn submit(shared: &Shared, change: ChangeMembers<u64, Addresses>) -> Result<()> {
    // The change before is in force only when it is on this node's disk, too.
    shared.keeper.write_now(vec![]).await?;
    match shared.raft.change_membership(change, false).await {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(forward))) => {
            // It may have been begun before leadership was lost.
            let context = format!("the change may have been made; {}", shared.forwarded(&forward));
            Err(Error::new(ErrorKind::Uncertain, context))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            Err(Error::new(ErrorKind::Unavailable, format!("not changed: {error}")))
        }
        Err(RaftError::Fatal(_)) => Err(shared.gone()),
    }
}

fn invalid(context: String) -> Error {
    Error::new(ErrorKind::Invalid, context)
}
