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
use tsoracle_core::{
    Error, ErrorKind, Member, MemberReport, Members as All, Membership, MembershipChange, Result,
};
use tsoracle_replica::Addresses;

use crate::{
    give_way::{matched, transfer},
    shared::Shared,
    types::peer_id,
    wire::{PING, REMOVED, pack},
};

/// How long a change may take, in which a new node has to catch up.
const DEADLINE: Duration = Duration::from_secs(60);

/// How long a node has to answer a question of this kind.
const ANSWERED: Duration = Duration::from_millis(500);

/// How long a node that is to be added has to show that it is there.
const INTRODUCED: Duration = Duration::from_secs(3);

/// How long a node that catches up may make no progress.
const PROGRESS: Duration = Duration::from_secs(10);

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
            let waits_for = self.0.transport.waits_for();
            let waits_for = waits_for.unwrap_or_else(|| "waiting for the leader".into());
            let context = format!("this node belongs to no cluster yet: {waits_for}");
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
        // It goes on if the caller does not.
        let changing = self.0.tasks.spawn(async move { make(&shared, change).await });
        changing.await.map_err(|_| Error::new(ErrorKind::Uncertain, "the change panicked"))?
    }
}

/// The members as this node sees them; none before it belongs to a cluster.
pub(crate) fn report(shared: &Shared) -> Vec<MemberReport> {
    let metrics = shared.metrics();
    let membership = metrics.membership_config.membership();
    let voters: BTreeSet<_> = membership.voter_ids().collect();
    let leader = shared.leader(&metrics).or(metrics.current_leader);
    let mut unreached = shared.transport.unreached();
    let last = metrics.last_log_index.unwrap_or(0);
    let lag = |id: u64| match (&metrics.replication, id == metrics.id) {
        (_, true) => Some(last - metrics.last_applied.map_or(0, |applied| applied.index).min(last)),
        (Some(followers), _) => {
            let matched = followers.get(&id)?.map_or(0, |matched| matched.index);
            Some(last - matched.min(last))
        }
        (None, _) => None,
    };
    let members = membership.nodes().map(|(&id, at)| MemberReport {
        id,
        peer: at.peer.clone(),
        service: at.service.clone(),
        votes: voters.contains(&id),
        is_own: id == metrics.id,
        leads: leader == Some(id),
        unreached: unreached.remove(&peer_id(id)).filter(|_| id != metrics.id),
        lag: lag(id),
    });
    match voters.is_empty() {
        true => vec![],
        false => members.collect(),
    }
}

async fn make(shared: &Shared, change: MembershipChange) -> Result<()> {
    if !shared.leads() || shared.is_leaving() {
        return Err(shared.not_leader());
    }
    let made = async {
        match change {
            MembershipChange::Add(member) => add(shared, member).await,
            MembershipChange::Promote { id } => promote(shared, id).await,
            MembershipChange::Remove { id, force } => remove(shared, id, force).await,
            MembershipChange::Transfer { to } => transfer(shared, to).await,
            other => Err(invalid(format!("{other:?} is a change that this driver does not know"))),
        }
    };
    timeout(DEADLINE, made).await.map_err(|_| {
        let context = format!("the change took longer than {DEADLINE:?}; look at the members");
        Error::new(ErrorKind::Uncertain, context)
    })?
}

async fn add(shared: &Shared, member: Member) -> Result<()> {
    let at = Addresses { peer: member.peer, service: member.service };
    at.check().map_err(|error| invalid(format!("node {} {error:#}", member.id)))?;
    shared.cluster.allow(&at.peer).map_err(|error| invalid(format!("{error:#}")))?;
    if member.id == 0 || u32::try_from(member.id).is_err() {
        return Err(invalid(format!("{} is no id; ids are from 1 to {}", member.id, u32::MAX)));
    }
    check_addresses(shared, member.id, &at)?;
    let is_member = || {
        let metrics = shared.metrics();
        metrics.membership_config.membership().get_node(&member.id).is_some()
    };
    let node = peer_id(member.id);
    if !is_member() {
        // Neither this nor catching up is in the way of other changes.
        introduced(shared, node, &at).await?;
        let alone = shared.changing.lock().await;
        check_addresses(shared, member.id, &at)?;
        if !is_member() {
            let nodes = BTreeMap::from([(member.id, at)]);
            submit(shared, ChangeMembers::AddNodes(nodes)).await?;
        }
        drop(alone);
    }
    let caught_up = caught_up(shared, member.id).await;
    let votes =
        shared.metrics().membership_config.membership().voter_ids().any(|id| id == member.id);
    if !votes && caught_up.as_ref().is_err_and(|error| *error.kind() == ErrorKind::Unavailable) {
        // It is of no use to the cluster, and would be in the way of the next attempt.
        let _alone = shared.changing.lock().await;
        submit(shared, ChangeMembers::RemoveNodes(BTreeSet::from([member.id]))).await?;
    }
    caught_up
}

/// Whether a node can be added at these addresses.
fn check_addresses(shared: &Shared, node: u64, at: &Addresses) -> Result<()> {
    let metrics = shared.metrics();
    for (&id, known) in metrics.membership_config.membership().nodes() {
        let is_same = id == node;
        if is_same && known != at {
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
    Ok(())
}

/// Finds a node that is to be added, and takes it into the cluster as far as its directory is concerned.
///
/// # Errors
/// `Unavailable`, with the reason, if it does not answer as it should.
async fn introduced(shared: &Shared, node: u32, at: &Addresses) -> Result<()> {
    let transport = &shared.transport;
    transport.set_peer(node, &at.peer).map_err(|error| invalid(format!("{error:#}")))?;
    let since = shared.clock.now().boot;
    let error = loop {
        let ping = transport.call(node, PING, bytes::Bytes::new(), ANSWERED).await;
        let Err(error) = ping else { return Ok(()) };
        let is_late = shared.clock.now().boot.since(since) > INTRODUCED;
        if !transport.invite(node).await? && (is_late || *error.kind() == ErrorKind::Config) {
            break error;
        }
        shared.clock.sleep(LOOK).await;
    };
    // Nothing is left behind.
    match transport.was_removed(node) {
        true => transport.drop_peer(node),
        false => transport.forget(node).await?,
    }
    let context = format!(
        "node {node} is not added: {error:#}; it has to run at {} with join=true, the name of this cluster and \
         an empty directory",
        at.peer
    );
    Err(Error::new(ErrorKind::Unavailable, context))
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
    caught_up(shared, id).await?;
    let _alone = shared.changing.lock().await;
    submit(shared, ChangeMembers::AddVoterIds(BTreeSet::from([id]))).await
}

async fn remove(shared: &Shared, id: u64, force: bool) -> Result<()> {
    let alone = shared.changing.lock().await;
    let metrics = shared.metrics();
    let membership = metrics.membership_config.membership();
    let Some(at) = membership.get_node(&id) else {
        return match shared.transport.was_removed(peer_id(id)) {
            true => Ok(()),
            false => Err(invalid(format!("node {id} is no member"))),
        };
    };
    let mut voters: BTreeSet<_> = membership.voter_ids().collect();
    let change = match voters.remove(&id) {
        true => ChangeMembers::RemoveVoters(BTreeSet::from([id])),
        false => ChangeMembers::RemoveNodes(BTreeSet::from([id])),
    };
    if voters.is_empty() {
        return Err(invalid(format!("node {id} is the last one that votes; it cannot be removed")));
    }
    if membership.voter_ids().any(|voter| voter == id) {
        let reachable = reachable(shared, &voters).await;
        if !force && reachable * 2 <= voters.len() {
            let context = format!(
                "without node {id}, {} nodes vote, of which only {reachable} can be reached: no \
                 majority; bring one back first, or use --force",
                voters.len()
            );
            return Err(invalid(context));
        }
    }
    submit(shared, change).await?;
    drop(alone);
    tell_removed(shared, peer_id(id), at).await;
    Ok(())
}

/// Tells a node that it was removed, if it is there. If not, the other members will once it is.
async fn tell_removed(shared: &Shared, node: u32, at: &Addresses) {
    let vote = shared.metrics().vote;
    let (Ok(told), true) = (pack(&vote), u64::from(node) != shared.node()) else { return };
    if shared.transport.set_peer(node, &at.peer).is_ok() {
        // Its answer is that of a node that was removed, and is refused.
        let _ = shared.transport.call(node, REMOVED, told, ANSWERED).await;
        shared.transport.drop_peer(node);
    }
}

/// Waits until a node holds what this leader had in its log at the beginning.
///
/// # Errors
/// `Unavailable` if it cannot be reached meanwhile; `NotLeader`.
async fn caught_up(shared: &Shared, node: u64) -> Result<()> {
    let goal = shared.metrics().last_log_index;
    let mut reached = shared.clock.now().boot;
    while node != shared.node() && matched(&shared.metrics(), node) < goal {
        if !shared.leads() {
            return Err(shared.not_leader());
        }
        shared.clock.sleep(LOOK).await;
        let now = shared.clock.now().boot;
        if now.since(reached) > PROGRESS {
            // A state that is on its way is no progress of the log.
            let ping = bytes::Bytes::new();
            shared.transport.call(peer_id(node), PING, ping, ANSWERED).await.map_err(|error| {
                let context = format!("node {node} does not catch up: {error:#}");
                Error::new(ErrorKind::Unavailable, context)
            })?;
            reached = now;
        }
    }
    Ok(())
}

/// How many of these can be reached, this node included.
async fn reachable(shared: &Shared, nodes: &BTreeSet<u64>) -> usize {
    let pings = nodes.iter().map(|&node| async move {
        let ping = bytes::Bytes::new();
        node == shared.node()
            || shared.transport.call(peer_id(node), PING, ping, ANSWERED).await.is_ok()
    });
    join_all(pings).await.into_iter().filter(|there| *there).count()
}

async fn submit(shared: &Shared, change: ChangeMembers<u64, Addresses>) -> Result<()> {
    // The change before is in force only when it is on this node's disk, too.
    shared.store.write(vec![]).await?;
    match shared.raft.change_membership(change, false).await {
        Ok(_) => Ok(()),
        Err(RaftError::APIError(ClientWriteError::ForwardToLeader(_))) => {
            // It may have been begun before leadership was lost.
            let context = format!("the change may have been made; {}", shared.not_leader());
            Err(Error::new(ErrorKind::Uncertain, context))
        }
        Err(RaftError::APIError(ClientWriteError::ChangeMembershipError(error))) => {
            Err(Error::new(ErrorKind::Unavailable, format!("not changed: {error:#}")))
        }
        Err(RaftError::Fatal(_)) => Err(shared.lifecycle.gone()),
    }
}

fn invalid(context: String) -> Error {
    Error::new(ErrorKind::Invalid, context)
}
