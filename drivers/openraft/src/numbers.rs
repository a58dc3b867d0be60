//! What other nodes name, looked at before raft takes it: raft believes every message.

use std::{
    collections::BTreeSet,
    fmt,
    sync::{Arc, OnceLock},
};

use openraft::{
    EntryPayload, Membership,
    raft::{AppendEntriesRequest, AppendEntriesResponse, VoteRequest},
};
use tsoracle_core::{Clock, Error, ErrorKind, Result};
use tsoracle_replica::{
    Addresses, Calls, LogEntry,
    leaps::{Leaps, MAX_NUMBER, Reached},
};

use crate::{
    log::Log,
    types::{Applied, Entry, Id, Meta, Raft, TypeConfig, Vote, next_index, peer_id},
};

/// Members that one change names, at most, and bytes of an address.
const MOST_MEMBERS: usize = 256;
const MAX_ADDRESS_BYTES: usize = 300;

/// How far this node has come, and what it admits besides.
pub(crate) struct Numbers {
    pub(crate) node: u32,
    pub(crate) log: Log,
    pub(crate) peers: Arc<dyn Calls>,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) leaps: Leaps,
    /// Tells who votes, once it is there.
    pub(crate) raft: OnceLock<Raft>,
}

impl Numbers {
    pub(crate) fn new(node: u32, log: Log, peers: Arc<dyn Calls>, clock: Arc<dyn Clock>) -> Self {
        Self { node, log, peers, clock, leaps: Leaps::default(), raft: OnceLock::new() }
    }

    /// Whether a message with that vote may be taken, and a state that ends the log there.
    ///
    /// # Errors
    /// `Invalid` and `Unavailable`, with the reason.
    pub(crate) async fn admit(&self, vote: &Vote, state: Option<&Id>) -> Result<()> {
        let own = self.log.reached();
        let names_this = vote.leader_id.node_id == u64::from(self.node);
        if names_this && vote.leader_id.term > own.term {
            return Err(malformed("names this node with a term that it never had"));
        }
        if vote.leader_id.node_id > u64::from(u32::MAX) {
            return Err(malformed("names a node that cannot be"));
        }
        let named = Reached { term: vote.leader_id.term, index: next_index(state) };
        let now = self.clock.now().boot;
        if self.leaps.check(own, named, now).is_ok() {
            return Ok(());
        }
        self.leaps.admit((self.node, own), named, &self.voters(), (&*self.peers, now)).await
    }

    /// Whether a log may end so.
    pub(crate) fn is_near(&self, last: Option<&Id>) -> bool {
        let term = last.map_or(0, |last| last.leader_id.term);
        let (named, now) = (Reached { term, index: 0 }, self.clock.now().boot);
        let admitted = self.leaps.check(self.log.reached(), named, now);
        admitted.is_ok() && next_index(last) <= MAX_NUMBER
    }

    fn voters(&self) -> Vec<BTreeSet<u32>> {
        let Some(raft) = self.raft.get() else { return vec![] };
        let metrics = raft.metrics();
        let metrics = metrics.borrow();
        let sets = metrics.membership_config.membership().get_joint_config().iter();
        sets.map(|voters| voters.iter().copied().map(peer_id).collect()).collect()
    }

    /// The entry that all nodes agree on up to which this one has applied.
    pub(crate) fn applied(&self) -> Option<Id> {
        self.raft.get().and_then(|raft| raft.metrics().borrow().last_applied)
    }
}

impl fmt::Debug for Numbers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Numbers").field("node", &self.node).finish_non_exhaustive()
    }
}

/// Whether node `from` sends such entries to a node that has applied `applied`.
///
/// Every entry is read as a whole: one that cannot be applied must not come into the log, where each start would
/// find it again.
///
/// # Errors
/// `Invalid`, with what is wrong.
pub(crate) fn check_append(
    rpc: &AppendEntriesRequest<TypeConfig>,
    from: u32,
    applied: Option<&Id>,
) -> Result<()> {
    check_leader(&rpc.vote, from)?;
    let mut before = rpc.prev_log_id;
    for entry in &rpc.entries {
        if entry.log_id.index != next_index(before.as_ref()) {
            return Err(malformed("has entries with a gap between them"));
        }
        if before.is_some_and(|before| entry.log_id.leader_id < before.leader_id) {
            return Err(malformed("has entries whose terms fall"));
        }
        before = Some(entry.log_id);
        check_entry(entry)?;
    }
    let named = rpc.entries.iter().map(|entry| entry.log_id);
    let named = named.chain(rpc.prev_log_id).chain(rpc.leader_commit);
    check_ids(named, &rpc.vote, applied)
}

/// Whether node `from` asks for such a vote.
///
/// # Errors
/// As for [`check_append`].
pub(crate) fn check_vote(rpc: &VoteRequest<u64>, from: u32) -> Result<()> {
    if rpc.vote.committed || rpc.vote.leader_id.node_id != u64::from(from) {
        return Err(malformed("asks for a vote for another node"));
    }
    check_ids(rpc.last_log_id, &rpc.vote, None)
}

/// Whether node `from` sends such a state, which says of itself that it is `found`.
///
/// # Errors
/// As for [`check_append`].
pub(crate) fn check_state(
    (vote, meta): (&Vote, &Meta),
    from: u32,
    found: &Applied,
    applied: Option<&Id>,
) -> Result<()> {
    check_leader(vote, from)?;
    if meta.last_log_id.is_none() || *meta != found.clone().into_meta() {
        return Err(malformed("comes with another state than it names"));
    }
    check_membership(meta.last_membership.membership())?;
    let ids = meta.last_log_id.into_iter().chain(*meta.last_membership.log_id());
    check_ids(ids, vote, applied)
}

/// Whether such an answer fits entries from behind `before` up to `last`.
///
/// # Errors
/// As for [`check_append`].
pub(crate) fn check_answer(answer: &AppendEntriesResponse<u64>, last: Option<&Id>) -> Result<()> {
    match answer {
        AppendEntriesResponse::PartialSuccess(matching)
            if matching.as_ref() > last || next_index(matching.as_ref()) > next_index(last) =>
        {
            Err(malformed("acknowledges more than was sent"))
        }
        _ => Ok(()),
    }
}

fn check_leader(vote: &Vote, from: u32) -> Result<()> {
    if vote.committed && vote.leader_id.node_id == u64::from(from) {
        Ok(())
    } else {
        Err(malformed("is of a leader that another node is"))
    }
}

/// Whether entries of these ids can be in one log with what is applied here.
fn check_ids(ids: impl IntoIterator<Item = Id>, vote: &Vote, applied: Option<&Id>) -> Result<()> {
    ids.into_iter().try_for_each(|id| {
        if id.index >= MAX_NUMBER {
            return Err(malformed(&format!("names the index {}", id.index)));
        }
        if id.leader_id > vote.leader_id {
            return Err(malformed("names an entry of a later term than its own"));
        }
        let agrees = applied.is_none_or(|applied| {
            let (index, leader) =
                (id.index.cmp(&applied.index), id.leader_id.cmp(&applied.leader_id));
            leader.is_eq() || (leader == index)
        });
        if agrees { Ok(()) } else { Err(malformed("contradicts what was agreed on")) }
    })
}

fn check_entry(entry: &Entry) -> Result<()> {
    match &entry.payload {
        EntryPayload::Blank => Ok(()),
        EntryPayload::Normal(payload) => LogEntry::decode_received(&payload.0).map(drop),
        EntryPayload::Membership(membership) => check_membership(membership),
    }
}

fn check_membership(membership: &Membership<u64, Addresses>) -> Result<()> {
    let sets = membership.get_joint_config();
    if sets.is_empty() || sets.iter().any(BTreeSet::is_empty) {
        return Err(malformed("has members without a vote among them"));
    }
    let are_known = sets.iter().flatten().all(|voter| membership.get_node(voter).is_some());
    let is_fit = |(&id, at): (&u64, &Addresses)| {
        let fits = |address: &str| address.len() <= MAX_ADDRESS_BYTES;
        (1..=u64::from(u32::MAX)).contains(&id)
            && at.check().is_ok()
            && fits(&at.peer)
            && fits(&at.service)
    };
    if !are_known || membership.nodes().count() > MOST_MEMBERS || !membership.nodes().all(is_fit) {
        return Err(malformed("has members that cannot be"));
    }
    Ok(())
}

fn malformed(how: &str) -> Error {
    Error::new(ErrorKind::Invalid, format!("a message {how}; it is ignored"))
}
