//! Epochs are 128-bit numbers everywhere but on the wire, which has them in two halves.

use crate::v1::EpochWire;

impl From<u128> for EpochWire {
    fn from(epoch: u128) -> Self {
        Self { hi: (epoch >> 64) as u64, lo: epoch as u64 }
    }
}

impl From<EpochWire> for u128 {
    fn from(wire: EpochWire) -> Self {
        (u128::from(wire.hi) << 64) | u128::from(wire.lo)
    }
}
