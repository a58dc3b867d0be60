//! Carries out one call: finds the leader, attempts the call at one peer after the other, and judges failures.

mod attempt;
mod backoff;
mod cluster;
mod failure;
mod fast_path;
mod history;
mod oracles;
mod retry;
mod route;
mod verdict;

pub(crate) use cluster::{Cluster, Limit};
pub(crate) use fast_path::TimestampCall;
pub(crate) use oracles::Oracles;
