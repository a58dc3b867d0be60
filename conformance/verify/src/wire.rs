//! Each call once, and each field and status code of the answers.

mod batches;
pub(super) mod deleting;
pub(super) mod ids;
mod leases;
pub(super) mod listing;
mod nodes;
mod sequences;
pub(super) mod streams;
mod timestamps;

use super::probe::Probe;
use tsoracle_history::{Check, Status};

pub(super) async fn check(probe: &Probe) -> Vec<Check> {
    let mut checks = Vec::new();
    checks.extend(timestamps::check(probe).await);
    checks.extend(sequences::check(probe).await);
    checks.extend(batches::check(probe).await);
    checks.extend(nodes::check(probe).await);
    checks.extend(leases::check(probe).await);
    checks.extend(ids::check(probe).await);
    checks.extend(streams::check(probe).await);
    checks.extend(listing::check(probe).await);
    checks.push(deleting::check(probe).await);
    checks.extend(anything(&checks));
    checks
}

/// A client that may do nothing finds nothing that holds.
fn anything(checks: &[Check]) -> Option<Check> {
    let of = |status| checks.iter().filter(move |check| check.status == status);
    let refused = of(Status::NotOffered).find_map(|check| check.note.clone())?;
    if of(Status::Held).next().is_some() {
        return None;
    }
    let mut check = Check::new("rights", "this client may call something");
    check.violated(&[], || format!("nothing could be checked; {refused}"));
    Some(check)
}

/// A call without which there is no load, and that this client may not make.
pub(super) fn refused(checks: &[Check]) -> Option<&'static str> {
    let needed = ["GetTs", "GetSeq", "GetSeqBatch"];
    let refused = checks.iter().filter(|check| check.status == Status::NotOffered);
    refused.map(|check| check.name).find(|name| needed.contains(name))
}

/// The one of an epoch's two spellings that compares.
fn epoch(hi: u64, lo: u64) -> tsoracle_types::Epoch {
    tsoracle_types::Epoch::from_parts(hi, lo)
}
