use serde::{Deserialize, Serialize};

use super::Outcome;
use crate::{Error, ErrorKind, Result};

/// The key under which a state holds its own [`Version`].
pub const VERSION: &[u8] = b"v";

/// The first byte of an encoded version.
const FORMAT: u8 = 1;

/// Names one state: every commit makes a new one.
///
/// Of two versions of one state, the one with the lower [`position`](Self::position) is the older one.
/// Two of the same position and different names never belong to one history.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Default, Debug, Serialize, Deserialize)]
pub struct Version {
    /// Raised only when an operator adopts a state that was restored or imported.
    pub era: u64,
    /// Raised by one with each commit.
    pub number: u64,
    /// Drawn at random for each commit, and never used again.
    pub name: u128,
}

impl Version {
    /// The version of a state without a single entry.
    pub const EMPTY: Self = Self { era: 0, number: 0, name: 0 };

    /// The version that a commit on this one makes. `name` is drawn at random for it.
    ///
    /// # Errors
    /// `Fatal` once all numbers are used up, which takes longer than any disk lasts.
    pub fn next(self, name: u128) -> Result<Self> {
        let number = self.number.checked_add(1);
        let number = number.ok_or_else(|| {
            Error::new(ErrorKind::Fatal, "the version numbers of the state are used up")
        })?;
        Ok(Self { number, name, ..self })
    }

    /// Where in the order of versions this one stands: era, then number.
    pub const fn position(&self) -> (u64, u64) {
        (self.era, self.number)
    }

    /// What becomes of a commit of `next` on this base, at a state that is at `current`. This is all that
    /// a driver decides.
    ///
    /// `Stored` if its writes are to be made, or were made by an earlier copy of it: then `current` is
    /// `next`. `None` if the state is behind the base, and so cannot tell yet.
    pub fn admits(self, next: Self, current: Self) -> Option<Outcome> {
        if current == self || current == next {
            Some(Outcome::Stored)
        } else if current.position() >= self.position() {
            Some(Outcome::Conflict { found: current })
        } else {
            None
        }
    }

    /// The version as it is stored under [`VERSION`].
    pub fn encode(&self) -> [u8; 33] {
        let mut bytes = [FORMAT; 33];
        bytes[1..9].copy_from_slice(&self.era.to_be_bytes());
        bytes[9..17].copy_from_slice(&self.number.to_be_bytes());
        bytes[17..].copy_from_slice(&self.name.to_be_bytes());
        bytes
    }

    /// The version that was stored; [`EMPTY`](Self::EMPTY) if there is none.
    ///
    /// # Errors
    /// `Corrupt` if it is not one that this release knows.
    pub fn decode(stored: Option<&[u8]>) -> Result<Self> {
        let Some(bytes) = stored else { return Ok(Self::EMPTY) };
        let corrupt = || {
            let context = format!("the state's version is damaged or unknown: {bytes:02x?}");
            Error::new(ErrorKind::Corrupt, context)
        };
        let (format, body) = bytes.split_first().ok_or_else(corrupt)?;
        if *format > FORMAT {
            return Err(Error::unknown_format(
                "the state's version",
                u64::from(*format),
                u64::from(FORMAT),
            ));
        }
        if *format != FORMAT {
            return Err(corrupt());
        }
        let body: &[u8; 32] = body.try_into().map_err(|_| corrupt())?;
        let (era, rest) = body.split_first_chunk().ok_or_else(corrupt)?;
        let (number, name) = rest.split_first_chunk().ok_or_else(corrupt)?;
        let name = name.try_into().map_err(|_| corrupt())?;
        Ok(Self {
            era: u64::from_be_bytes(*era),
            number: u64::from_be_bytes(*number),
            name: u128::from_be_bytes(name),
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn a_version_is_read_as_written(era: u64, number: u64, name: u128) {
            let version = Version { era, number, name };
            prop_assert_eq!(Version::decode(Some(&version.encode())).unwrap(), version);
        }
    }

    #[test]
    fn what_is_no_version_is_refused() {
        let stored = Version { era: 1, number: 2, name: 3 }.encode();
        let mut unknown = stored;
        unknown[0] = 2;
        for bytes in [&[][..], &stored[..32], &unknown, &[&stored[..], &[0]].concat()] {
            let error = Version::decode(Some(bytes)).unwrap_err();
            assert_eq!(*error.kind(), ErrorKind::Corrupt);
        }
        assert_eq!(Version::decode(None).unwrap(), Version::EMPTY);
    }

    #[test]
    fn only_the_base_itself_admits_a_commit() {
        let version = |era, number, name| Version { era, number, name };
        let (base, next) = (version(1, 5, 50), version(1, 6, 60));
        assert_eq!(base.admits(next, base), Some(Outcome::Stored));
        assert_eq!(base.admits(next, next), Some(Outcome::Stored));
        for found in [version(1, 5, 51), version(1, 6, 61), version(1, 9, 60), version(2, 0, 50)] {
            assert_eq!(base.admits(next, found), Some(Outcome::Conflict { found }));
        }
        for behind in [version(1, 4, 50), version(0, 9, 9), Version::EMPTY] {
            assert_eq!(base.admits(next, behind), None);
        }
    }

    #[test]
    fn numbers_end_with_an_error() {
        let last = Version { number: u64::MAX, ..Version::EMPTY };
        assert_eq!(*last.next(1).unwrap_err().kind(), ErrorKind::Fatal);
        let next = Version { era: 3, number: 4, name: 5 }.next(6).unwrap();
        assert_eq!(next, Version { era: 3, number: 5, name: 6 });
    }
}
