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
use tsoracle_history::Check;

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
    checks
}

/// The one of an epoch's two spellings that compares.
fn epoch(hi: u64, lo: u64) -> tsoracle_types::Epoch {
    tsoracle_types::Epoch::from_parts(hi, lo)
}
