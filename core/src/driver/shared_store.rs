use std::{fmt::Debug, future::pending, time::Duration};

use async_trait::async_trait;
use tokio::sync::Notify;

use super::{CommitLimits, Effect, Observed, Reads, Report, Snapshot, Version};
use crate::{BootTime, Result};

/// A service that nodes share, and that decides for all of them: a database with transactions, for example.
///
/// Wrapped in a [`SharedDriver`](crate::SharedDriver) it is a complete driver of any number of nodes that keep
/// nothing themselves. What follows from an answer of the service is the same for all such drivers, and is
/// worked out there: outcomes, claims, evidence, what is final, and how a node stops.
///
/// # Contract
/// - The service compares and writes in one step: **if the state is at the base version, all writes are made,
///   atomically and durably; otherwise none.**
/// - What is read is of one version, and never older than what this process has read or had stored before.
/// - The service elects one node at a time. That is a hint: no commit rests on it.
/// - Any number of reads and commits may be under way at once. One call of the others at a time is.
///
/// # Errors
/// `Corrupt` and `Fatal` are final: every later call fails with them, and this node never leads again. `Uncertain`
/// is for a commit that may have been made, or may yet be. Anything else says that nothing was done, and that
/// another attempt may succeed later; when a driver is opened, `Config` says that none will.
///
/// # Cancellation
/// A commit is never dropped before its end. What an [`elect`](Self::elect) that was dropped has left behind,
/// [`give_up`](Self::give_up) ends.
#[async_trait]
pub trait SharedStore: Debug + Send + Sync + 'static {
    /// How much one commit takes, as [`limits`](crate::ConsensusDriver::limits) has it.
    const LIMITS: CommitLimits;

    /// Reads keys and ranges, all as of one version.
    async fn read(&self, wanted: &Reads) -> Result<Snapshot>;

    /// Makes the writes of `effect`, the version `next` among them, if the state is at `base`. Returns the version
    /// that the state was at: `base` if they are made now.
    async fn commit(&self, base: Version, next: Version, effect: &Effect) -> Result<Version>;

    /// Looks which node is elected. If none is and this one `may_lead`, it stands for election.
    ///
    /// The first look is made when the driver is opened, without standing for election: whatever makes the state
    /// unusable MUST be noticed then. A node that is elected stays so while it looks as often as it wants to.
    async fn elect(&self, may_lead: bool) -> Result<Election>;

    /// Ends whatever this node holds of the service for the sake of leading, so that another node can lead at once.
    ///
    /// For a node that has resigned, that has got no answer for as long as the service takes a silent leader for
    /// alive, or that stops. Unless it stops, it looks again afterwards.
    async fn give_up(&self) -> Result<()>;

    /// Passes on what the service reports by itself, for as long as it is polled. Nothing, by default: what is
    /// reported is found by looking as well, only later.
    async fn watch(&self, _news: &News) {
        pending().await
    }

    /// As [`ConsensusDriver::report`](crate::ConsensusDriver::report).
    fn report(&self, _now: BootTime) -> Report {
        Report::default()
    }
}

/// What a look at the election has found.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Election {
    /// The version of the state meanwhile.
    pub version: Version,
    /// Which node is elected.
    pub elected: Elected,
    /// When to look again: within a second, so that another node which resigns is followed soon.
    pub again: Duration,
}

/// Which node a service has elected.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Elected {
    /// This one. A number other than that of the look before makes a claim of its own: this node was elected again.
    This(i64),
    /// Another one, and `host:port` where it serves; empty if that is not known.
    Other(String),
    /// None, as far as is known.
    None,
}

/// Where a [`SharedStore`] reports what happens.
#[derive(Default, Debug)]
pub struct News {
    pub(super) observed: Observed,
    pub(super) look: Notify,
}

impl News {
    /// The state is at `version`, or was, which is decided.
    pub fn version(&self, version: Version) {
        self.observed.note(version);
    }

    /// The election is to be looked at.
    pub fn look(&self) {
        self.look.notify_one();
    }
}
