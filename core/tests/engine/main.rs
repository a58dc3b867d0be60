//! The engine over a state in memory, with time, faults and pauses in the tests' hands.

#![allow(clippy::unwrap_used, reason = "in a rig, a failed unwrap is a failed test")]

mod admin;
mod ahead;
mod clocks;
mod contention;
mod copying;
mod driver;
mod handover;
mod leases;
mod meters;
mod misbehaviour;
mod problems;
mod reads;
mod resigning;
mod rig;
mod sequences;
mod space;
mod stamping;
mod takeover;
mod uncertain;
