use serde::{Deserialize, Serialize};
use tsoracle_core::{Epoch, Error, ErrorKind, Result, state::Command};

/// The format this release writes, and the only one it reads.
const VERSION: u8 = 1;

/// About how many bytes an entry has, and each command in it: room is made for them at once.
const ROOM: (usize, usize) = (64, 80);

/// Names a log entry. No two entries ever have the same name, whatever was restarted in between.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct EntryId {
    /// The node that proposed it.
    pub node: u32,
    /// Its claim at that time, which every start raises.
    pub claim: u32,
    /// Counts the entries proposed under the claim.
    pub counter: u64,
}

/// What a log carries: the commands of one commit.
///
/// Encoded it is bytes without context, which may as well travel in the log of another service.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub struct LogEntry {
    /// Names it.
    pub id: EntryId,
    /// The claim of leadership it is committed under.
    pub epoch: Epoch,
    /// What is to be done.
    pub commands: Vec<Command>,
}

impl LogEntry {
    /// The entry as bytes: one for the format, then postcard.
    ///
    /// # Errors
    /// `Fatal` if it cannot be encoded, which is a bug.
    pub fn encode(&self) -> Result<Vec<u8>> {
        let mut bytes = Vec::with_capacity(ROOM.0 + ROOM.1 * self.commands.len());
        bytes.push(VERSION);
        postcard::to_extend(self, bytes).map_err(|source| {
            Error::new(ErrorKind::Fatal, "cannot encode a log entry").with_source(source)
        })
    }

    /// The name of an encoded entry, without a look at the rest; nothing if it has none.
    pub fn peek(bytes: &[u8]) -> Option<EntryId> {
        let rest = bytes.strip_prefix(&[VERSION])?;
        postcard::take_from_bytes(rest).ok().map(|(id, _)| id)
    }

    /// The entry that was encoded.
    ///
    /// # Errors
    /// `Fatal` for an unknown format, `Corrupt` for anything else that is no entry. Whoever applies
    /// a log MUST stop then: to skip an entry would make this node differ from the others.
    pub fn decode(bytes: &[u8]) -> Result<Self> {
        match bytes.split_first() {
            Some((&VERSION, rest)) => match postcard::take_from_bytes(rest) {
                Ok((entry, [])) => Ok(entry),
                Ok(_) => Err(damaged("has more bytes than it should")),
                Err(source) => Err(damaged("cannot be read").with_source(source)),
            },
            Some((version, _)) => {
                let context = format!(
                    "a log entry has format {version}, this release reads {VERSION}; upgrade this \
                     node"
                );
                Err(Error::new(ErrorKind::Fatal, context))
            }
            None => Err(damaged("is empty")),
        }
    }
}

fn damaged(how: &str) -> Error {
    Error::new(ErrorKind::Corrupt, format!("a log entry {how}; restore this node, or replace it"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn entry() -> LogEntry {
        LogEntry {
            id: EntryId { node: 1, claim: 2, counter: 3 },
            epoch: Epoch(4),
            commands: vec![Command::Release, Command::Init { high_water_ms: 5 }],
        }
    }

    #[test]
    fn an_entry_is_read_as_written() {
        let written = entry().encode().unwrap();
        assert_eq!(LogEntry::decode(&written).unwrap(), entry());
        assert_eq!(LogEntry::peek(&written), Some(entry().id));
        assert_eq!(LogEntry::peek(b"\x09newer"), None);
    }

    #[test]
    fn what_is_no_entry_of_this_format_is_refused() {
        let mut newer = entry().encode().unwrap();
        newer[0] = 9;
        let error = LogEntry::decode(&newer).unwrap_err();
        assert_eq!(*error.kind(), ErrorKind::Fatal);
        assert!(error.to_string().contains("format 9"), "{error}");
        let written = entry().encode().unwrap();
        for length in 0..written.len() {
            let error = LogEntry::decode(&written[..length]).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt, "{length}");
        }
        let longer = [&written[..], &[0]].concat();
        assert_eq!(*LogEntry::decode(&longer).unwrap_err().kind(), ErrorKind::Corrupt);
    }
}
