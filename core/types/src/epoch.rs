use std::fmt;

use serde::{Deserialize, Serialize};

/// Identifies one reign, a leadership from fence to release. A later reign always has a higher epoch.
///
/// Its upper half is the era of the state, its lower half a counter that each fence raises. Drivers know
/// nothing of epochs.
#[derive(
    Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug, Serialize, Deserialize,
)]
pub struct Epoch(pub u128);

impl Epoch {
    /// The epoch whose upper and lower 64 bits are given, as the protocol carries it.
    pub const fn from_parts(hi: u64, lo: u64) -> Self {
        Self((hi as u128) << 64 | lo as u128)
    }

    /// The upper 64 bits.
    pub const fn hi(self) -> u64 {
        (self.0 >> 64) as u64
    }

    /// The lower 64 bits.
    pub const fn lo(self) -> u64 {
        self.0 as u64
    }
}

impl fmt::Display for Epoch {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// Names a node for as long as its storage lives.
///
/// A driver hands out the id whose directory lock this process holds, so that "opened by this node"
/// means "by an earlier, dead process". A driver without such a lock draws a new id per process.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct NodeId(pub u128);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn parts_round_trip(hi: u64, lo: u64) {
            let epoch = Epoch::from_parts(hi, lo);
            prop_assert_eq!((epoch.hi(), epoch.lo()), (hi, lo));
        }

        #[test]
        fn the_upper_part_weighs_more(a: (u64, u64), b: (u64, u64)) {
            let order = Epoch::from_parts(a.0, a.1).cmp(&Epoch::from_parts(b.0, b.1));
            prop_assert_eq!(order, a.cmp(&b));
        }
    }
}
