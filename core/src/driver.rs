use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use crate::{
    BootTime, Epoch, LeaderHint, Membership, NodeId, Result,
    state::{Answer, Command, Query, Reject, Reply},
    versioned,
};

/// A system that agrees on commands in one order and says who leads.
///
/// Whoever has only a store implements [`SeqStore`](crate::SeqStore) and wraps it in a
/// [`LocalDriver`](crate::LocalDriver) instead.
///
/// The crate `tsoracle-conformance` has a check for each of these sentences.
///
/// # Contract
/// - Commands of one commit are applied with [`apply`](crate::state::apply), to the state that all
///   earlier commits have left, as one atomic and durable step, and never otherwise. Nobody sees a
///   part of it.
/// - Commits of one epoch MUST take effect in the order in which [`commit`](Self::commit) was
///   called, which is the order in which their futures were first polled; one that failed as
///   `Uncertain` MUST NOT take effect after a later one has. One that was held up while another
///   node fenced a higher epoch is refused, whenever it arrives.
/// - Any number of calls may be under way at once, and all are answered.
/// - What was answered MUST survive a power loss: synced locally, or held by a majority.
/// - A storage error is final: after one, every call fails as `Fatal`, and leadership ends. A failed
///   sync is never tried again.
///
/// # Cancellation
/// Dropping a future never cancels work that has begun: a commit whose future is dropped takes effect
/// whole, in its turn, or not at all. Writes go through a task or thread that owns the store; callers
/// hold only a reply channel.
#[async_trait]
pub trait ConsensusDriver: Debug + Send + Sync + 'static {
    /// Who this node is: the identity whose storage it has locked against any other process.
    ///
    /// It lasts as long as that storage. A driver without such a lock MUST draw a new id per process.
    fn node(&self) -> NodeId;

    /// Who leads. The current value is there at once; intermediate ones may be skipped.
    ///
    /// Every claim of leadership MUST have a higher epoch than any before it, on any node, whatever
    /// was stopped, killed or lost power in between. A node that is elected again makes a new claim,
    /// which is a new value. A closed channel means that this node will never lead again.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Applies `commands` under `epoch`, and answers each on its own.
    ///
    /// On return with `Ok`, there is one answer per command, in their order; the commands are durable;
    /// and every later read and commit sees them. A refused command has left no trace, and the others
    /// of its batch have taken effect. An epoch that is over may also be refused as `NotLeader`.
    ///
    /// # Errors
    /// `NotLeader` and `Unavailable`: certainly not committed. `Uncertain`: it may have been, and
    /// if not yet, never after a later commit. `Corrupt` and `Fatal`: this node is done for.
    async fn commit(&self, epoch: Epoch, commands: Vec<Command>) -> Result<Committed>;

    /// Answers a question from a state that holds every commit answered before the call, as of one
    /// moment. A node that is cut off waits or fails; it never answers from a state of its own.
    ///
    /// # Errors
    /// As for [`commit`](Self::commit), but never `Uncertain`.
    async fn read(&self, query: Query) -> Result<Answer>;

    /// How much one commit takes at most: not less than a request for [`MAX_BATCH`](crate::MAX_BATCH)
    /// of the longest keys. Whatever keeps within it is taken.
    fn limits(&self) -> CommitLimits;

    /// The nodes of the cluster, if they can be changed while it runs; `None` for a driver without
    /// such a thing.
    fn membership(&self) -> Option<Arc<dyn Membership>>;

    /// Stops the driver: commits in flight end first, then leadership ends and locks are let go.
    /// May be called again, and while another call is under way. Afterwards every call fails and
    /// changes nothing, and the state can be opened again at once.
    ///
    /// # Errors
    /// Whatever kept it from stopping cleanly; the driver is stopped all the same.
    async fn shutdown(&self) -> Result<()>;

    /// The driver below that compares and stores, for as long as both contracts are in use; `None` for
    /// one that still applies commands itself.
    fn versioned(&self) -> Option<Arc<dyn versioned::ConsensusDriver>> {
        None
    }
}

/// Who leads, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leadership {
    /// This node, under an epoch it has claimed.
    Leader {
        /// The claim.
        epoch: Epoch,
    },
    /// Another node.
    Follower {
        /// Where that node serves, if known.
        leader: Option<LeaderHint>,
    },
    /// Nobody, or nobody knows.
    Unknown,
}

/// The outcome of a commit.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Committed {
    /// Per command, in order.
    pub results: Vec<Result<Reply, Reject>>,
    /// If the commands began with a fence: when this node had observed the very write of the reign
    /// record that the fence replaced, before it fenced. An observation of any other write is not
    /// one. `None` if there was none.
    pub replaced_seen: Option<BootTime>,
}

/// How much one commit takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitLimits {
    /// Commands.
    pub commands: usize,
    /// Bytes, as [`Command::size_hint`] counts them.
    pub bytes: usize,
}
