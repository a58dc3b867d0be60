#![doc = include_str!("../README.md")]

mod clock;
mod epoch;
mod invalid;
mod lease;
mod seq;
mod timestamp;

pub use clock::{BootTime, Clock, ManualClock, Now, SystemClock};
pub use epoch::{Epoch, NodeId};
pub use invalid::{Invalid, on_one_line};
pub use lease::{LeaseHolder, LeaseId, MAX_HOLDER_BYTES, SafeFrontier, StampingLease};
pub use seq::{
    MAX_BATCH, MAX_KEY_BYTES, MAX_REQUEST_NAME_BYTES, RETENTION, RequestId, RequestName, SeqBlock,
    SeqKey, SeqRequest, Session,
};
pub use timestamp::{
    LOGICAL_BITS, MAX_PHYSICAL_MS, TIMESTAMPS_PER_MS, Timestamp, TimestampIter, TimestampRange,
};
