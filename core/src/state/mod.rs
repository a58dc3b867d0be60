//! The pure state machine: every rule of the oracle, written once.
//!
//! [`plan`] reads through a [`View`] and returns a reply with the writes to make. It sees no clock,
//! no randomness and no configuration: whatever it depends on is in the state or travels in the
//! command, so that replicas which apply the same commands hold the same bytes.

mod command;
mod import;
mod keys;
mod lease;
mod plan;
mod query;
mod record;
mod reign;
mod reject;
mod sequence;
mod session;
mod view;

pub(crate) use command::millis;
pub use command::{Advance, Command, LeaseAsk, LeaseGrant, Limits, Moment, Reads, Reply, Seed};
pub use import::Import;
pub use keys::{CLAIM, NODE, REIGN};
pub use plan::{Planned, apply, apply_over, plan};
pub use query::{Answer, Query, answer};
pub use record::{ReignRecord, Stage};
pub use reject::Reject;
pub use session::RETENTION;
pub use view::{Overlay, View};

pub use crate::versioned::{Effect, Entry};

#[cfg(test)]
mod import_test;
#[cfg(test)]
mod lease_model_test;
#[cfg(test)]
mod lease_test;
#[cfg(test)]
mod plan_test;
#[cfg(test)]
mod reign_test;
#[cfg(test)]
mod sequence_test;
#[cfg(test)]
mod session_test;
#[cfg(test)]
mod testing;
