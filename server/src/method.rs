//! The calls of the protocol.

use crate::rights::Right::{
    self, Backup, Cluster, Delete, Lease, List, Read, Release, Seed, Seq, Status, Ts,
};

/// A call of the protocol: its path, whether it is a stream, whose requests count one by one, and of which rights it
/// needs one.
struct Call(&'static str, bool, &'static [Right]);

/// Any right at all, the one first that is asked for.
const ANY: &[Right] = &[Status, Ts, Seq, Read, List, Lease, Release, Seed, Delete, Cluster, Backup];

const CALLS: [Call; 21] = [
    Call("/tsoracle.v1.TsoService/GetTs", false, &[Ts]),
    Call("/tsoracle.v1.TsoService/GetSeq", false, &[Seq]),
    Call("/tsoracle.v1.TsoService/GetSeqBatch", false, &[Seq]),
    Call("/tsoracle.v1.TsoService/StreamTs", true, &[Ts]),
    Call("/tsoracle.v1.TsoService/StreamSeq", true, &[Seq]),
    // By this clients look what a server is, whatever they are going to ask.
    Call("/tsoracle.v1.TsoService/GetCurrentMaxSafe", false, ANY),
    Call("/tsoracle.v1.TsoService/GetSafeFrontier", false, &[Status]),
    Call("/tsoracle.v1.TsoService/AcquireLease", false, &[Lease]),
    Call("/tsoracle.v1.TsoService/RenewLease", false, &[Lease]),
    // The caller's own, or that of another identity.
    Call("/tsoracle.v1.TsoService/ReleaseLease", false, &[Lease, Release]),
    Call("/tsoracle.v1.SequenceService/ReadSeq", false, &[Read]),
    Call("/tsoracle.v1.SequenceService/ListSeqs", false, &[List]),
    Call("/tsoracle.v1.SequenceService/SeedSeq", false, &[Seed]),
    Call("/tsoracle.v1.SequenceService/DeleteSeq", false, &[Delete]),
    // What was granted is granted once more, as after a deletion.
    Call("/tsoracle.v1.SequenceService/OpenSeqs", false, &[Delete]),
    Call("/tsoracle.v1.BackupService/Backup", false, &[Backup]),
    Call("/tsoracle.v1.ClusterService/Members", false, &[Status]),
    Call("/tsoracle.v1.ClusterService/Troubles", false, &[Status]),
    Call("/tsoracle.v1.ClusterService/Change", false, &[Cluster]),
    Call("/tsoracle.v1.ClusterService/Reload", false, &[Cluster]),
    Call("", false, &[]),
];

/// A call of the protocol, by its index among them. The last one stands for all that there are not.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Method(u8);

impl Method {
    const GET_SEQ_BATCH: Self = Self(2);
    pub(crate) const STREAM_TS: Self = Self(3);
    pub(crate) const STREAM_SEQ: Self = Self(4);
    pub(crate) const UNKNOWN: Self = Self(CALLS.len() as u8 - 1);

    /// How many there are, that one included.
    pub(crate) const COUNT: usize = CALLS.len();

    /// All of them.
    pub(crate) fn all() -> [Self; Self::COUNT] {
        std::array::from_fn(|index| Self(index as u8))
    }

    pub(crate) fn of(path: &str) -> Self {
        Self::all().into_iter().find(|method| method.call().0 == path).unwrap_or(Self::UNKNOWN)
    }

    /// Its index among all.
    pub(crate) fn index(self) -> usize {
        usize::from(self.0)
    }

    /// Whether it is a stream.
    pub(crate) fn streams(self) -> bool {
        self.call().1
    }

    /// Whether it counts its requests by itself, once it knows how many there are.
    pub(crate) fn counts_itself(self) -> bool {
        self.streams() || self == Self::GET_SEQ_BATCH
    }

    /// Of which rights it needs one. Nothing for a call that there is not.
    pub(crate) fn rights(self) -> Option<&'static [Right]> {
        Some(self.call().2).filter(|rights| !rights.is_empty())
    }

    /// Its service and its name, as a span has it.
    pub(crate) fn path(self) -> &'static str {
        self.call().0.trim_start_matches('/')
    }

    /// As a label has it.
    pub(crate) fn name(self) -> &'static str {
        match self.call().0.rsplit_once('/') {
            Some((_, name)) => name,
            None => "unknown",
        }
    }

    fn call(self) -> &'static Call {
        &CALLS[self.index()]
    }
}

#[cfg(test)]
mod tests {
    use prost::Message as _;

    use super::*;

    #[test]
    fn every_call_of_the_protocol_is_counted_by_its_name_and_needs_a_right() {
        let files =
            prost_types::FileDescriptorSet::decode(tsoracle_proto::FILE_DESCRIPTOR_SET).unwrap();
        let mut calls = 0;
        for file in files.file {
            for service in &file.service {
                for method in &service.method {
                    let path = format!("/{}.{}/{}", file.package(), service.name(), method.name());
                    let found = Method::of(&path);
                    assert_eq!(found.name(), method.name(), "{path}");
                    assert_eq!(found.streams(), method.client_streaming(), "{path}");
                    assert!(found.rights().is_some(), "{path}");
                    calls += 1;
                }
            }
        }
        assert_eq!(calls, CALLS.len() - 1);
        for path in
            ["", "/", "/tsoracle.v1.TsoService/", "/tsoracle.v1.TsoService/getts", "/x/GetTs"]
        {
            let method = Method::of(path);
            assert_eq!((method.name(), method.rights()), ("unknown", None), "{path}");
        }
        assert_eq!(Method::GET_SEQ_BATCH.name(), "GetSeqBatch");
        assert_eq!(Method::STREAM_TS.name(), "StreamTs");
        assert_eq!(Method::STREAM_SEQ.name(), "StreamSeq");
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
            let method = Method::of(&format!("/tsoracle.v1.{call}"));
            assert_eq!(method.rights(), Some(&[right][..]), "{call}");
            assert!(right.is_administrative(), "{call}");
        }
    }
}
