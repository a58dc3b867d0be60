use std::fmt;

/// Something that a client may be allowed to do.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Right {
    /// Get timestamps.
    Ts,
    /// Advance sequences.
    Seq,
    /// Read the next value of a sequence.
    Read,
    /// List sequences.
    List,
    /// See where the oracle stands: the frontier, its members, what is wrong. What time is safe is for all to see
    /// who have any right.
    Status,
    /// Acquire stamping leases, and renew and release one's own.
    Lease,
    /// Release anybody's stamping lease.
    Release,
    /// Let a new sequence begin elsewhere than at 0.
    Seed,
    /// Delete sequences.
    Delete,
    /// Change the members of the cluster, or which of them leads, and have a server read its settings again.
    Cluster,
    /// Take copies of the state.
    Backup,
}

use Right::{Backup, Cluster, Delete, Lease, List, Read, Release, Seed, Seq, Status, Ts};

impl Right {
    /// All there are.
    pub const ALL: [Self; 11] =
        [Ts, Seq, Read, List, Status, Lease, Release, Seed, Delete, Cluster, Backup];

    /// What it is called in a policy.
    pub fn name(self) -> &'static str {
        match self {
            Ts => "ts",
            Seq => "seq",
            Read => "read",
            List => "list",
            Status => "status",
            Lease => "lease",
            Release => "release",
            Seed => "seed",
            Delete => "delete",
            Cluster => "cluster",
            Backup => "backup",
        }
    }

    pub(super) fn of_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|right| right.name() == name)
    }

    /// Whether it can be held for some sequences alone.
    pub(super) fn takes_keys(self) -> bool {
        matches!(self, Seq | Read | List | Seed | Delete)
    }

    /// Whether it changes the cluster, or what belongs to others.
    pub fn is_administrative(self) -> bool {
        matches!(self, Release | Seed | Delete | Cluster | Backup)
    }

    pub(super) fn bit(self) -> u16 {
        1 << self as u16
    }
}

impl fmt::Display for Right {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_as_written() {
        for right in Right::ALL {
            assert_eq!(Right::of_name(right.name()), Some(right));
        }
        assert_eq!(Right::of_name("everything"), None);
    }
}
