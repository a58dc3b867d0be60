//! The contract of drivers: a versioned state, of which a driver compares the version and stores the
//! effect.

mod announcer;
mod config;
mod effect;
mod local;
mod membership;
mod memory;
mod observed;
mod registry;
mod report;
mod shared;
mod shared_store;
mod snapshot;
mod stopped;
mod store;
mod version;

use std::{fmt::Debug, sync::Arc};

use async_trait::async_trait;
use tokio::sync::watch;

use self::observed::Observed;
pub use self::{
    announcer::Announcer,
    config::DriverConfig,
    effect::{Effect, Entry},
    local::{LocalDriver, new_node},
    membership::{Member, Members, Membership, MembershipChange},
    memory::MemoryStore,
    registry::{DriverFactory, DriverOption, OpenContext, OpenFuture, Registry},
    report::{Certificate, Finding, MemberReport, Problem, Report, Unreached},
    shared::SharedDriver,
    shared_store::{Elected, Election, News, SharedStore},
    snapshot::{KeyRange, Reads, Snapshot},
    stopped::{StoppedReader, StoppedState},
    store::SeqStore,
    version::{VERSION, Version},
};
#[doc(hidden)]
pub use self::{registry::Linked, stopped::LinkedReader};
use crate::{BootTime, LeaderHint, NodeId, Result};

/// A system that stores a versioned state, agrees on the order of its commits, and says who should try
/// to lead.
///
/// For a store that one process owns, implement [`SeqStore`](crate::SeqStore) instead, and wrap it in a
/// [`LocalDriver`](crate::LocalDriver); for a service that decides, [`SharedStore`](crate::SharedStore), and wrap it
/// in a [`SharedDriver`](crate::SharedDriver).
///
/// The state is an ordered map of bytes to bytes. One of its keys, [`VERSION`], holds its [`Version`]. The
/// engine works out every commit on a version that it has read; a driver compares that version, and stores
/// the writes. It never looks into keys or values, except for the version that an effect writes.
///
/// # Contract
/// - [`commit`](Self::commit): **if the state is at the base version, all writes of the effect are made,
///   atomically and durably; otherwise none.** At most one commit ever follows a base.
/// - [`read`](Self::read) is of one version, and never older than what this process has read or had stored
///   before the call was made. It may be older than the newest state elsewhere.
/// - What was answered as stored MUST survive a power loss: synced locally, or held by a majority.
/// - A storage error is final: after one, every call fails as `Fatal` or `Corrupt`, reads too, and the
///   channel of leadership is closed. A failed sync is never tried again.
/// - Any number of calls may be under way at once, and all are answered.
/// - Leadership is a hint: two nodes that both believe to lead cannot both commit on one base.
///
/// # Cancellation
/// Dropping a future never cancels work that has begun: a commit whose future is dropped is stored whole,
/// or not at all.
#[async_trait]
pub trait ConsensusDriver: Debug + Send + Sync + 'static {
    /// Who this node is: the identity whose storage it has locked against any other process.
    ///
    /// It lasts as long as that storage. A driver without such a lock MUST draw a new id per process.
    fn node(&self) -> NodeId;

    /// Who should try to lead. The current value is there at once; intermediate ones may be skipped.
    ///
    /// A closed channel means that this node will never lead again.
    fn leadership(&self) -> watch::Receiver<Leadership>;

    /// Reads keys and ranges, all as of one version.
    ///
    /// # Errors
    /// `Unavailable`: ask again later. `Corrupt` and `Fatal`: this node is done for.
    async fn read(&self, wanted: &Reads) -> Result<Snapshot>;

    /// Stores `effect` if the state is at version `base`. The effect writes the next version, whose name
    /// no other commit ever has.
    ///
    /// On return with [`Outcome::Stored`], the writes are durable, and every later read of this process
    /// sees them.
    ///
    /// # Errors
    /// `NotLeader` and `Unavailable`: it is not stored and never will be. `Uncertain`: it may be stored,
    /// or become so later; a driver that is in doubt says this. `Corrupt` and `Fatal`: this node is done
    /// for, and the outcome is unknown.
    async fn commit(&self, base: Version, effect: Effect) -> Result<Outcome>;

    /// When this process first observed the commit that made `version`, by number and name, once it was
    /// decided; or when it had applied a later one of the same era, or a snapshot that holds it. `None` if
    /// it has not, or does not remember: then a successor waits longer than it had to.
    ///
    /// What is only in a log and may still be overwritten MUST NOT count.
    fn seen(&self, version: &Version) -> Option<BootTime>;

    /// What the wall clocks of the other nodes show when the boot clock of this one shows `boot`, in milliseconds
    /// since 1970, as far as they have said so. Drivers whose nodes do not speak to each other know none.
    ///
    /// It is a hint: the engine does not follow a wall clock of its own that most others contradict.
    fn peer_clocks(&self, _boot: BootTime) -> Vec<u64> {
        Vec::new()
    }

    /// This node leads under `claim` and cannot renew its lease: others should lead, if they can. Does
    /// nothing for a claim that is over, or where no other node can lead.
    ///
    /// If this node is to lead again after that, it MUST be under a new claim, and should be only once its
    /// storage has taken a write. A node whose storage hangs MUST
    /// announce its leadership all the same, if the other nodes take it for the leader: it could not be
    /// resigned otherwise.
    async fn resign(&self, claim: u64);

    /// How much one commit takes at most: not less than a request for [`MAX_BATCH`](crate::MAX_BATCH)
    /// of the longest keys, with all that it may clear away. Whatever keeps within it is taken.
    fn limits(&self) -> CommitLimits;

    /// The nodes of the cluster, if they can be changed while it runs; `None`, by default, for a driver without
    /// such a thing.
    fn membership(&self) -> Option<Arc<dyn Membership>> {
        None
    }

    /// What this node knows of itself and its peers `now`, for people: who is there, and how far; what is wrong, such
    /// as what it waits for, or which node runs twice. A failure is none of these. Nothing, by default. It MUST NOT
    /// wait for anything.
    fn report(&self, _now: BootTime) -> Report {
        Report::default()
    }

    /// Stops the driver: commits in flight end first, then leadership ends and locks are released.
    /// May be called again, and while another call is under way. Afterwards every call fails and
    /// changes nothing, and the state can be opened again at once.
    ///
    /// # Errors
    /// Whatever kept it from stopping cleanly; the driver is stopped all the same.
    async fn shutdown(&self) -> Result<()>;
}

/// Who should try to lead, as one node sees it.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Leadership {
    /// This node.
    Leader {
        /// A number of this process, new whenever the driver wants this node to try again. It proves
        /// nothing.
        claim: u64,
    },
    /// Another node.
    Follower {
        /// Where that node serves, if known.
        leader: Option<LeaderHint>,
    },
    /// No node, or it is not known.
    Unknown,
}

/// What became of a commit.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Outcome {
    /// This very commit made the state's version.
    Stored,
    /// It is not stored and never will be: the state had moved on from the base.
    Conflict {
        /// The state's version. Its position is at least the base's, and it is neither the base nor the
        /// commit's own.
        found: Version,
    },
}

/// How much one commit takes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct CommitLimits {
    /// Keys written or deleted, the version's among them.
    pub writes: usize,
    /// Bytes, as [`Effect::size`] counts them.
    pub bytes: usize,
}
