#![doc = include_str!("../README.md")]

mod asked;
mod clock;
mod config;
mod directory;
mod driver;
mod engine;
mod epoch;
mod errand;
mod error;
mod group;
mod handover;
mod lease;
mod local;
mod membership;
mod memory;
mod meters;
mod migrate;
mod options;
mod oracle;
mod pace;
mod registry;
mod reign;
mod seal;
mod seq;
mod service;
pub mod state;
mod store;
mod takeover;
mod timestamp;
pub mod versioned;
mod window;

#[doc(hidden)]
pub use inventory;

pub use clock::{BootTime, Clock, ManualClock, Now, SystemClock};
pub use config::DriverConfig;
pub use directory::{Directory, lock_file};
pub use driver::{CommitLimits, Committed, ConsensusDriver, Leadership};
pub use engine::Phase;
pub use epoch::{Epoch, NodeId};
pub use error::{Error, ErrorKind, LeaderHint, Result, on_one_line};
pub use lease::{LeaseHolder, LeaseId, MAX_HOLDER_BYTES, SafeFrontier, StampingLease};
pub use local::LocalDriver;
pub use membership::{Member, Members, Membership, MembershipChange};
pub use memory::MemoryStore;
pub use migrate::{Migrated, Migration, elected};
pub use options::OracleOptions;
pub use oracle::{Granted, MAX_SEQ_PAGE, Oracle, SeqGrant, SeqList, SeqListing, Status};
#[doc(hidden)]
pub use registry::Linked;
pub use registry::{DriverFactory, DriverOption, Opening, Registry, Surroundings};
pub use seal::Seal;
pub use seq::{MAX_BATCH, MAX_KEY_BYTES, RequestId, SeqBlock, SeqKey, SeqRequest, Session};
pub use state::Reject;
pub use store::SeqStore;
pub use timestamp::{
    LOGICAL_BITS, MAX_PHYSICAL_MS, TIMESTAMPS_PER_MS, Timestamp, TimestampIter, TimestampRange,
};
pub use window::MAX_HIGH_WATER_MS;
