//! Every rule of the oracle, written once, as pure functions over typed records.
//!
//! `plan` reads through a `View` and returns a reply with the records to write. It sees no clock,
//! no randomness and no configuration: what it depends on is in the state or travels in the command.
//! The leader plans on a version of the state; what it has worked out is stored only if the state is
//! still at that version.

mod answers;
mod capped;
mod command;
#[cfg(feature = "fuzz")]
pub(crate) mod fuzz;
mod import;
mod keys;
mod lease;
mod named;
mod plan;
mod query;
mod record;
mod reign;
mod reject;
mod restored;
mod rules;
mod sequence;
mod session;
mod view;
mod working_set;
mod written;

pub use crate::RETENTION;
pub use capped::Capped;
pub(crate) use capped::{CAPS, Change};
pub use command::{
    Advance, Command, LeaseAsk, Limits, Moment, NameRetention, OpenSequences, Reply, Requester,
    Seed,
};
pub(crate) use command::{LeaseGrant, millis};
pub(crate) use import::{Import, copied};
pub(crate) use keys::{BACKED_UP, CLAIM, LEASES, META, NAMED, RESTORED, name_of};
pub use keys::{NODE, REIGN};
pub use plan::{Plan, plan};
pub use query::{Answer, Query, answer};
pub(crate) use record::RULES;
pub use record::{Record, ReignRecord, Stage};
pub(crate) use reign::{AHEAD_STEP_MS, ELSEWHERE};
pub use reject::Reject;
pub use restored::RestoredTime;
pub(crate) use restored::{Closing, high_water_ms};
pub use rules::Rules;
pub(crate) use view::{View, Writes};
pub use working_set::WorkingSet;

#[cfg(test)]
mod import_test;
#[cfg(test)]
mod lease_model_test;
#[cfg(test)]
mod lease_test;
#[cfg(test)]
mod named_test;
#[cfg(test)]
mod plan_test;
#[cfg(test)]
mod record_test;
#[cfg(test)]
mod reign_test;
#[cfg(test)]
mod sequence_test;
#[cfg(test)]
mod session_test;
#[cfg(test)]
mod testing;
#[cfg(test)]
mod working_set_test;
