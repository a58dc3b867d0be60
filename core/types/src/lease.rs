use std::{fmt, time::Duration};

use serde::{Deserialize, Serialize};

use crate::{Epoch, Invalid};

/// The longest name of a lease's holder, in bytes.
pub const MAX_HOLDER_BYTES: usize = 128;

/// Names who holds a stamping lease: 1 to 128 bytes, compared as they are.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "Vec<u8>", into = "Vec<u8>")]
pub struct LeaseHolder(Vec<u8>);

impl LeaseHolder {
    /// Checks and wraps a name.
    ///
    /// # Errors
    /// [`Invalid`] if the name is empty or longer than [`MAX_HOLDER_BYTES`].
    pub fn new(name: impl Into<Vec<u8>>) -> Result<Self, Invalid> {
        let name = name.into();
        match name.len() {
            0 => Err(Invalid::new("a lease's holder must not be empty")),
            1..=MAX_HOLDER_BYTES => Ok(Self(name)),
            n => Err(Invalid::new(format!(
                "a lease's holder has at most {MAX_HOLDER_BYTES} bytes, this one has {n}"
            ))),
        }
    }

    /// The name.
    pub fn as_bytes(&self) -> &[u8] {
        &self.0
    }
}

impl TryFrom<Vec<u8>> for LeaseHolder {
    type Error = Invalid;

    fn try_from(name: Vec<u8>) -> Result<Self, Invalid> {
        Self::new(name)
    }
}

impl From<LeaseHolder> for Vec<u8> {
    fn from(holder: LeaseHolder) -> Self {
        holder.0
    }
}

impl fmt::Debug for LeaseHolder {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "\"{}\"", self.0.escape_ascii())
    }
}

/// Names a stamping lease, and none before or after it.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct LeaseId(pub u64);

impl fmt::Display for LeaseId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A stamping lease: until it runs out, its holder may stamp events by itself, up to a bound.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct StampingLease {
    /// Names it in renewals and in its release.
    pub id: LeaseId,
    /// The last millisecond that the holder may stamp.
    pub bound_ms: u64,
    /// When it runs out by the wall clock of the leader that granted it: for people, since a wall
    /// clock may be wrong.
    pub expires_at_ms: u64,
    /// How long it may be relied on, on the holder's boot clock, from before the request was sent.
    pub remaining: Duration,
    /// The epoch that answered.
    pub epoch: Epoch,
}

/// Up to where the bounds of all leases reach.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SafeFrontier {
    /// The least of the high-water and the bounds of all leases that may still be relied on. It
    /// never falls.
    pub physical_ms: u64,
    /// The epoch that answered.
    pub epoch: Epoch,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn holders_have_1_to_128_bytes() {
        assert!(LeaseHolder::new("").is_err());
        assert!(LeaseHolder::new([0xff; 128]).is_ok());
        assert!(LeaseHolder::new([b'h'; 129]).is_err());
        assert!(postcard::from_bytes::<LeaseHolder>(&[0]).is_err(), "serde goes through it");
    }
}
