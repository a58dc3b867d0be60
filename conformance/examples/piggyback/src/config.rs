use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use tsoracle_core::{Error, ErrorKind, Result};

/// How often the leader shows that it is there.
const HEARTBEAT: Duration = Duration::from_millis(100);

/// How long a node that hears nothing of a leader waits, at least and at most, before it campaigns. For
/// the longer of the two it also votes for no other node.
const ELECTION: (Duration, Duration) = (Duration::from_millis(300), Duration::from_millis(600));

/// How long a node that was asked to campaign has to be elected.
pub(crate) const ELECTED: Duration = Duration::from_secs(2);

/// One node of the service.
#[derive(Clone, Debug)]
pub struct Config {
    /// The directory that holds its log and its data; made if missing.
    pub path: PathBuf,
    /// Which of the members this node is.
    pub node: u32,
    /// All nodes that form the cluster, the same on each: where callers find them.
    pub members: BTreeMap<u32, String>,
    /// After how many log entries a snapshot takes the place of the log before it.
    pub snapshot_every: u64,
    /// How many log entries before the last snapshot are kept, for nodes that are a little behind.
    pub log_keep: u64,
}

impl Config {
    /// Node `node` of `members`, in the directory `path`.
    pub fn new(path: impl Into<PathBuf>, node: u32, members: BTreeMap<u32, String>) -> Self {
        Self { path: path.into(), node, members, snapshot_every: 10_000, log_keep: 1_000 }
    }

    pub(crate) fn raft(&self) -> Result<openraft::Config> {
        if !self.members.contains_key(&self.node) {
            let context = format!("node {} is not among the members", self.node);
            return Err(Error::new(ErrorKind::Config, context));
        }
        let config = openraft::Config {
            cluster_name: "piggyback".into(),
            heartbeat_interval: millis(HEARTBEAT),
            election_timeout_min: millis(ELECTION.0),
            election_timeout_max: millis(ELECTION.1),
            snapshot_policy: openraft::SnapshotPolicy::LogsSinceLast(self.snapshot_every),
            max_in_snapshot_log_to_keep: self.log_keep,
            replication_lag_threshold: self.snapshot_every.saturating_mul(2),
            ..openraft::Config::default()
        };
        config.validate().map_err(|error| {
            Error::new(ErrorKind::Config, "raft refuses the config").with_source(error)
        })
    }

    /// How long a node that has heard a leader votes for no other.
    pub(crate) fn vote_lease() -> Duration {
        // A little more, since it is compared with this very time.
        ELECTION.1 + HEARTBEAT / 10
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}
