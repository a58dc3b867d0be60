use tsoracle_core::{Effect, Error, ErrorKind, Result, Version};

use crate::leaps::{MAX_LEAP, MAX_NUMBER};

/// The format this release writes, and the only one it reads. Format 1 held commands.
const FORMAT: u8 = 2;

/// How much one entry may have in it that another node has sent: a multiple of what any driver commits at once, so
/// that releases with other limits go together, and little enough for a chunk of a snapshot.
const MAX_BYTES: usize = 3 << 19;
const MAX_WRITES: usize = 1 << 16;
pub(crate) const MAX_KEY_BYTES: usize = 1_000;

/// How long an encoded version is.
const VERSION_BYTES: usize = 33;

/// What a log carries: one commit.
///
/// Encoded it is bytes without context, which may as well travel in the log of another service. It is
/// named by the version that it makes, since no other commit ever has that version's name.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct LogEntry {
    base: Version,
    next: Version,
    effect: Effect,
}

impl LogEntry {
    /// The commit of `effect` on `base`.
    ///
    /// # Errors
    /// `Fatal` if the effect writes no version, `Invalid` if not one that is later than the base.
    pub fn new(base: Version, effect: Effect) -> Result<Self> {
        let next = effect.version()?;
        if next.position() <= base.position() {
            let context =
                format!("a commit on {base:?} makes {next:?}, which is not a later version");
            return Err(Error::new(ErrorKind::Invalid, context));
        }
        Ok(Self { base, next, effect })
    }

    /// The version that the state must have.
    pub fn base(&self) -> Version {
        self.base
    }

    /// The version that the commit makes: the name of the entry.
    pub fn next(&self) -> Version {
        self.next
    }

    /// The writes.
    pub fn into_effect(self) -> Effect {
        self.effect
    }

    /// The entry as bytes: one for the format, base and next version, then the encoded effect.
    ///
    /// # Errors
    /// `Fatal` if it cannot be encoded, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let effect = self.effect.encode()?;
        let mut bytes = Vec::with_capacity(1 + 2 * VERSION_BYTES + effect.len());
        bytes.push(FORMAT);
        bytes.extend_from_slice(&self.base.encode());
        bytes.extend_from_slice(&self.next.encode());
        bytes.extend_from_slice(&effect);
        Ok(bytes)
    }

    /// As [`decode`](Self::decode), of an entry that another node has sent, before it is stored: it is refused
    /// besides if it has more in it than any node commits, which might fit no snapshot, or if the version that it
    /// makes leaps, which would leave none for later commits.
    ///
    /// # Errors
    /// As for [`decode`](Self::decode), and `Invalid`.
    pub fn decode_received(bytes: &[u8]) -> Result<Self> {
        let refused = |how: String| {
            Err(Error::new(ErrorKind::Invalid, format!("a log entry {how}; it is not stored")))
        };
        if bytes.len() > MAX_BYTES {
            return refused(format!("has {} bytes, {MAX_BYTES} is the most", bytes.len()));
        }
        let entry = Self::decode(bytes)?;
        let (base, next, writes) = (entry.base, entry.next, entry.effect.len());
        if writes > MAX_WRITES {
            return refused(format!("has {writes} writes, {MAX_WRITES} is the most"));
        }
        let longest = entry.effect.iter().map(|(key, _)| key.len()).max().unwrap_or_default();
        if longest > MAX_KEY_BYTES {
            return refused(format!("has a key of {longest} bytes, {MAX_KEY_BYTES} is the most"));
        }
        let leaps = base.era == next.era && next.number - base.number > MAX_LEAP;
        if leaps || next.number > MAX_NUMBER || next.era > MAX_NUMBER {
            return refused(format!("leads from version {base:?} to {next:?}"));
        }
        Ok(entry)
    }

    /// The version that an encoded entry makes, without a look at its writes; `None` if it is no entry.
    pub fn peek(bytes: &[u8]) -> Option<Version> {
        split(bytes).ok().map(|(_, next, _)| next)
    }

    /// The entry that was encoded.
    ///
    /// # Errors
    /// `Fatal` for an unknown format, `Corrupt` for anything else that is no entry. A node that applies
    /// a log MUST stop then: to skip an entry would make it differ from the others.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        let (base, next, effect) = split(bytes)?;
        let effect = Effect::decode(effect)?;
        match Self::new(base, effect) {
            Ok(entry) if entry.next == next => Ok(entry),
            _ => Err(damaged("writes another version than it names")),
        }
    }
}

/// Base and next version, and the encoded effect.
fn split(bytes: &[u8]) -> Result<(Version, Version, &[u8])> {
    match bytes.split_first() {
        Some((&FORMAT, rest)) => {
            let (base, rest) = version(rest)?;
            let (next, effect) = version(rest)?;
            Ok((base, next, effect))
        }
        Some((format, _)) => {
            let (found, known) = (u64::from(*format), u64::from(FORMAT));
            Err(Error::unknown_format("a log entry", found, known).of_kind(ErrorKind::Fatal))
        }
        None => Err(damaged("is empty")),
    }
}

fn version(bytes: &[u8]) -> Result<(Version, &[u8])> {
    let (version, rest) =
        bytes.split_at_checked(VERSION_BYTES).ok_or_else(|| damaged("breaks off"))?;
    Ok((Version::decode(Some(version))?, rest))
}

fn damaged(how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a log entry {how}; restore this node, or replace it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LogEntry {
        let base = Version { era: 1, number: 4, name: 7 };
        let mut effect = Effect::default();
        effect.put(*b"key", *b"value");
        effect.delete(*b"gone");
        effect.set_version(base.next(8).unwrap());
        LogEntry::new(base, effect).unwrap()
    }

    #[test]
    fn an_entry_is_read_as_written() {
        let written = entry().encode().unwrap();
        assert_eq!(LogEntry::decode(&written).unwrap(), entry());
        assert_eq!(LogEntry::peek(&written), Some(entry().next()));
        assert_eq!(LogEntry::peek(b"\x09newer"), None);
    }

    #[test]
    fn what_is_no_entry_of_this_format_is_refused() {
        for format in [1, 9] {
            let mut other = entry().encode().unwrap();
            other[0] = format;
            let error = LogEntry::decode(&other).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Fatal);
            assert!(error.to_string().contains(&format!("format {format}")), "{error}");
        }
        let written = entry().encode().unwrap();
        for length in 0..written.len() {
            let error = LogEntry::decode(&written[..length]).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt, "{length}");
        }
        let longer = [&written[..], &[0]].concat();
        assert_eq!(*LogEntry::decode(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
        let mut misnamed = written;
        misnamed[2 * VERSION_BYTES] ^= 1;
        assert_eq!(*LogEntry::decode(&misnamed).unwrap_err().kind(), ErrorKind::Corrupt);
    }

    /// What becomes of an entry from another node with these writes.
    fn received(writes: impl Iterator<Item = (Vec<u8>, Vec<u8>)>) -> Result<LogEntry> {
        let base = Version { era: 1, number: 4, name: 7 };
        let mut effect = Effect::default();
        writes.for_each(|(key, value)| effect.put(key, value));
        effect.set_version(base.next(8).unwrap());
        LogEntry::decode_received(&LogEntry::new(base, effect).unwrap().encode().unwrap())
    }

    #[test]
    fn what_no_node_commits_is_not_stored() {
        let refused = |outcome: Result<LogEntry>, why: &str| {
            let error = outcome.unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid);
            assert!(error.to_string().contains(why), "{error}");
        };
        let key = |length: usize| vec![b'k'; length];
        received([(key(MAX_KEY_BYTES), vec![])].into_iter()).unwrap();
        refused(
            received([(key(MAX_KEY_BYTES + 1), vec![])].into_iter()),
            "has a key of 1001 bytes",
        );
        let large = |bytes: usize| received([(key(1), vec![0; bytes])].into_iter());
        large(MAX_BYTES - 1_000).unwrap();
        refused(large(MAX_BYTES), "is the most");
        // The version is one of the writes.
        let many =
            |count: usize| received((0..count).map(|n| (n.to_be_bytes()[4..].to_vec(), vec![])));
        many(MAX_WRITES - 1).unwrap();
        refused(many(MAX_WRITES), "writes, 65536 is the most");
    }

    #[test]
    fn a_version_that_leaves_no_room_for_later_ones_is_not_stored() {
        let received = |base: Version, next: Version| {
            let mut effect = Effect::default();
            effect.set_version(next);
            LogEntry::decode_received(&LogEntry::new(base, effect).unwrap().encode().unwrap())
        };
        let at = |era, number| Version { era, number, name: u128::from(era + number) };
        received(at(1, 4), at(1, 4 + MAX_LEAP)).unwrap();
        received(at(1, 4), at(2, 4 + 2 * MAX_LEAP)).unwrap();
        received(at(1, MAX_NUMBER - 1), at(1, MAX_NUMBER)).unwrap();
        for (base, next) in [
            (at(1, 4), at(1, 5 + MAX_LEAP)),
            (at(1, MAX_NUMBER), at(1, MAX_NUMBER + 1)),
            (at(1, 4), at(MAX_NUMBER + 1, 5)),
        ] {
            let error = received(base, next).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Invalid, "{next:?}");
            assert!(error.to_string().contains("leads from version"), "{error}");
        }
    }

    #[test]
    fn a_commit_makes_a_later_version() {
        let entry = entry();
        let error = LogEntry::new(entry.next(), entry.into_effect()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Invalid);
        let error = LogEntry::new(Version::EMPTY, Effect::default()).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
    }
}
