use std::fmt::Debug;

use async_trait::async_trait;

use crate::Result;

/// The nodes of a cluster, and how to change them while it runs.
///
/// # Contract
/// - Any node answers [`members`](Self::members), as far as it knows.
/// - Only the leader makes changes; every other node refuses as `NotLeader`, with a hint.
/// - Changes may be asked for at once, and the driver orders them. One that waits for a node holds up no
///   other.
/// - A change that returned `Ok` MUST survive a power loss of all nodes.
/// - A change that is already in effect is not an error.
/// - An oracle has released its reign when it asks for a [transfer](MembershipChange::Transfer). If this
///   node leads all the same when the transfer has ended, with or without success, it MUST make a new
///   claim of leadership.
///
/// # Cancellation
/// Dropping the future of a change does not undo it.
#[async_trait]
pub trait Membership: Debug + Send + Sync + 'static {
    /// Who belongs to the cluster, as this node knows.
    ///
    /// # Errors
    /// `Unavailable` while this node belongs to none.
    async fn members(&self) -> Result<Members>;

    /// Makes one change, and returns once it is in force.
    ///
    /// # Errors
    /// `NotLeader`; `Invalid` for a change that would end the cluster, or that names who is not
    /// there; `Unavailable`: not done; `Uncertain`: it may have been done, look at the members.
    async fn change(&self, change: MembershipChange) -> Result<()>;
}

/// A cluster's nodes.
#[derive(Clone, PartialEq, Eq, Default, Debug)]
pub struct Members {
    /// In the order of their ids.
    pub members: Vec<Member>,
    /// The id of the one that leads, if known.
    pub leader: Option<u64>,
}

/// A node of a cluster.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Member {
    /// Names it for good: a node that lost its state joins again under another id.
    pub id: u64,
    /// `host:port` where the other nodes reach it.
    pub peer: String,
    /// `host:port` where clients reach it.
    pub service: String,
    /// Whether it has a vote. One without only learns what the others agree on.
    pub votes: bool,
}

/// A change to a cluster's nodes.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub enum MembershipChange {
    /// Takes a node in, without a vote. Returns once it has caught up.
    Add(Member),
    /// Gives a node that has caught up its vote.
    Promote {
        /// Which.
        id: u64,
    },
    /// Lets a node go: never the last one that votes, and never one without which the rest that can
    /// be reached have no majority.
    Remove {
        /// Which.
        id: u64,
        /// Even if the others that can be reached have no majority then.
        force: bool,
    },
    /// Has another node lead. Asked for through [`Oracle::membership`](crate::Oracle::membership), it
    /// costs no lease.
    Transfer {
        /// Which; `None` for any that has caught up.
        to: Option<u64>,
    },
}
