#![doc = include_str!("../README.md")]

mod admin;
mod backup;
mod caller;
mod driver;
mod engine;
mod error;
#[cfg(feature = "fuzz")]
#[doc(hidden)]
pub mod fuzz;
mod identity;
mod import;
mod latency;
mod migrate;
mod options;
mod oracle;
mod random;
mod refusals;
mod reload;
pub mod series;
// For the models and benchmarks of this crate, and for tests that look into what is stored. It is no part of the
// public interface.
#[doc(hidden)]
pub mod state;
mod storage;
mod supervised;
mod varint;

#[doc(hidden)]
pub use inventory;

pub use admin::{Floor, adopt, initialize, wait_until_leader};
pub use backup::{
    Assembled, Assembly, BackupHeader, BackupReader, BackupWriter, Contents, RestoreTerms,
    Restored, RestoredTime, inspected, restore,
};
pub use caller::{Caller, CallerId, CallerLimits, Places, Room};
pub use driver::{
    Announcer, Certificate, CommitLimits, ConsensusDriver, DriverConfig, DriverFactory,
    DriverOption, Effect, Elected, Election, Entry, Finding, KeyRange, Leadership, LocalDriver,
    Member, MemberReport, Members, Membership, MembershipChange, MemoryStore, News, OpenContext,
    OpenFuture, Outcome, Problem, Reads, Registry, Report, SeqStore, SharedDriver, SharedStore,
    Snapshot, StoppedReader, StoppedState, Unreached, VERSION, Version, new_node,
};
#[doc(hidden)]
pub use driver::{Linked, LinkedReader};
pub use engine::{Change, MAX_HIGH_WATER_MS, Phase, WallClock, size_in_words};
pub use error::{Error, ErrorKind, LeaderHint, Result};
pub use identity::{Identity, MAX_IDENTITY_BYTES};
pub use import::StateCounts;
pub use latency::{Latency, LatencySummary, Timing};
pub use migrate::Migration;
pub use options::{OracleOptions, Space};
pub use oracle::{
    CopiedCommit, CopyPart, Grant, MAX_SEQ_PAGE, Oracle, Overview, SPANS, SeqGrant, SeqList,
    SeqListing, StateCopy, Status, Usage,
};
pub use random::Random;
pub use refusals::{Refusals, shortened};
pub use reload::{Reload, Reloader};
pub use state::{Reject, Rules};
pub use storage::{
    Directory, LOCK_FILE, LockedToRead, Seal, lock_file, mark_moved, sync_directory,
};
pub use supervised::{endless, supervised};
pub use tsoracle_types::*;
