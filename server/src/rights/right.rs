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
    /// Release, renew and supersede anybody's stamping lease.
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

/// Any right at all, the one first that is asked for.
const ANY: [Right; 11] =
    [Status, Ts, Seq, Read, List, Lease, Release, Seed, Delete, Cluster, Backup];

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

    /// What a call needs one of, by its path. Nothing for a call that there is not.
    pub(crate) fn of_call(path: &str) -> Option<&'static [Self]> {
        let (service, method) = path.strip_prefix("/tsoracle.v1.")?.split_once('/')?;
        Some(match (service, method) {
            ("TsoService", "GetTs" | "StreamTs") => &[Ts],
            ("TsoService", "GetSeq" | "GetSeqBatch" | "StreamSeq") => &[Seq],
            // By this clients look what a server is, whatever they are going to ask.
            ("TsoService", "GetCurrentMaxSafe") => &ANY,
            ("TsoService", "GetSafeFrontier") => &[Status],
            ("TsoService", "AcquireLease" | "RenewLease" | "ReleaseLease") => &[Lease],
            ("SequenceService", "ReadSeq") => &[Read],
            ("SequenceService", "ListSeqs") => &[List],
            ("SequenceService", "SeedSeq") => &[Seed],
            ("SequenceService", "DeleteSeq") => &[Delete],
            // What was granted is granted once more, as after a deletion.
            ("SequenceService", "OpenSeqs") => &[Delete],
            ("BackupService", "Backup") => &[Backup],
            ("ClusterService", "Members" | "Troubles") => &[Status],
            ("ClusterService", "Change" | "Reload") => &[Cluster],
            _ => return None,
        })
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
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_needs_a_right() {
        let files =
            prost_types::FileDescriptorSet::decode(tsoracle_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut calls = 0;
        for file in files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    assert!(Right::of_call(&path).is_some(), "{path}");
                    calls += 1;
                }
            }
        }
        assert!(calls >= 17, "{calls}");
        for path in
            ["", "/", "/tsoracle.v1.TsoService/", "/tsoracle.v1.TsoService/getts", "/x/GetTs"]
        {
            assert_eq!(Right::of_call(path), None);
        }
    }

    #[test]
    fn calls_of_administrators_need_the_right_that_is_for_them_and_no_other() {
        for (call, right) in [
            ("SequenceService/SeedSeq", Seed),
            ("SequenceService/DeleteSeq", Delete),
            ("SequenceService/OpenSeqs", Delete),
            ("BackupService/Backup", Backup),
            ("ClusterService/Change", Cluster),
            ("ClusterService/Reload", Cluster),
        ] {
            assert_eq!(
                Right::of_call(&format!("/tsoracle.v1.{call}")),
                Some(&[right][..]),
                "{call}"
            );
            assert!(right.is_administrative(), "{call}");
        }
    }

    #[test]
    fn names_are_read_as_written() {
        for right in Right::ALL {
            assert_eq!(Right::of_name(right.name()), Some(right));
        }
        assert_eq!(Right::of_name("everything"), None);
    }
}
