use std::fmt;

use tsoracle_core::{Epoch, Error, ErrorKind, Result};

/// How the rest is laid out below the prefix. Anything else is refused.
const FORMAT: &str = "tsoracle-etcd/1";

/// What every commit writes beside the state, under one key: its modification revision is the
/// version of the state.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(crate) struct Version {
    /// The etcd cluster that the commit was made in.
    pub(crate) cluster: u64,
    /// How often the state was taken over from another cluster.
    pub(crate) era: u32,
    /// A revision that the cluster had reached before the commit.
    pub(crate) revision: i64,
    /// Tells a commit from any other.
    pub(crate) commit: String,
}

impl Version {
    pub(crate) fn parse(key: &str, bytes: &[u8]) -> Result<Self> {
        let text = String::from_utf8_lossy(bytes);
        let words: Vec<_> = text.split(' ').collect();
        if words[0] != FORMAT {
            let context = format!(
                "the state has format {:?} under {key}, and this release knows {FORMAT:?} only",
                words[0]
            );
            return Err(Error::new(ErrorKind::Corrupt, context));
        }
        let parsed = match words[..] {
            [_, cluster, era, revision, commit] => (|| {
                Some(Self {
                    cluster: u64::from_str_radix(cluster, 16).ok()?,
                    era: era.parse().ok()?,
                    revision: revision.parse().ok()?,
                    commit: commit.into(),
                })
            })(),
            _ => None,
        };
        parsed.ok_or_else(|| {
            let context = format!("the value under {key} is damaged: {text:?}");
            Error::new(ErrorKind::Corrupt, context)
        })
    }
}

impl fmt::Display for Version {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { cluster, era, revision, commit } = self;
        write!(f, "{FORMAT} {cluster:x} {era} {revision} {commit}")
    }
}

/// The epoch of a claim: an era, and the revision in which the election key was created. Every claim
/// creates the key anew, so that no two claims of an era have the same.
pub(crate) fn epoch(era: u32, created: i64) -> Epoch {
    Epoch(u128::from(era) << 96 | u128::from(created.cast_unsigned()) << 32)
}

/// The revision in which the election key of a claim was created.
pub(crate) fn created(epoch: Epoch) -> i64 {
    ((epoch.0 >> 32) as u64).cast_signed()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_version_reads_as_it_was_written() {
        let version =
            Version { cluster: u64::MAX, era: 3, revision: 77, commit: "0f-12".to_owned() };
        assert_eq!(Version::parse("k", version.to_string().as_bytes()).unwrap(), version);
    }

    #[test]
    fn another_format_and_damage_are_refused() {
        for text in ["tsoracle-etcd/2 1 0 1 a", "", "garbage", "tsoracle-etcd/1 1 0 x a"] {
            let error = Version::parse("k", text.as_bytes()).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt, "{text:?}: {error}");
        }
    }

    #[test]
    fn epochs_rise_with_revisions_and_with_eras_above_all() {
        assert!(epoch(0, 1) < epoch(0, 2));
        assert!(epoch(0, i64::MAX) < epoch(1, 1));
        assert_eq!(created(epoch(7, i64::MAX - 3)), i64::MAX - 3);
    }
}
