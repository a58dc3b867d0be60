#![doc = include_str!("../README.md")]

mod admin;
mod clock;
mod driver;
mod engine;
mod epoch;
mod error;
mod lease;
mod migrate;
mod options;
mod oracle;
mod random;
mod seq;
// For the models and benchmarks of this crate, and for tests that look into what is stored. It is no part of the
// public interface.
#[doc(hidden)]
pub mod state;
mod storage;
mod timestamp;
mod varint;

#[doc(hidden)]
pub use inventory;

pub use admin::{adopt, elected, initialize};
pub use clock::{BootTime, Clock, ManualClock, Now, SystemClock};
#[doc(hidden)]
pub use driver::Linked;
pub use driver::{
    CommitLimits, ConsensusDriver, DriverConfig, DriverFactory, DriverOption, Effect, Entry,
    KeyRange, Leadership, LocalDriver, Member, Members, Membership, MembershipChange, MemoryStore,
    Opening, Outcome, Reads, Registry, SeqStore, Snapshot, Surroundings, VERSION, Version,
};
pub use engine::{MAX_HIGH_WATER_MS, Phase};
pub use epoch::{Epoch, NodeId};
pub use error::{Error, ErrorKind, LeaderHint, Result, on_one_line};
pub use lease::{LeaseHolder, LeaseId, MAX_HOLDER_BYTES, SafeFrontier, StampingLease};
pub use migrate::{Migrated, Migration};
pub use options::OracleOptions;
pub use oracle::{Granted, MAX_SEQ_PAGE, Oracle, SeqGrant, SeqList, SeqListing, Status};
pub use random::Random;
pub use seq::{MAX_BATCH, MAX_KEY_BYTES, RequestId, SeqBlock, SeqKey, SeqRequest, Session};
pub use state::Reject;
pub use storage::{Directory, Seal, lock_file, sync_directory};
pub use timestamp::{
    LOGICAL_BITS, MAX_PHYSICAL_MS, TIMESTAMPS_PER_MS, Timestamp, TimestampIter, TimestampRange,
};
