//! How many files and connections this process may have open at once.

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::failure::Failure;

/// What connections of clients leave free: for the store, connections among nodes, and the program itself.
///
/// Without it a store could write nothing any more as soon as clients have taken all there are.
const RESERVE: usize = 384;

/// Where there are few, half of them is kept.
const LEAST: usize = 64;

/// The most connections, however many descriptors there are.
const MOST: usize = 10_000;

/// Raises the limit as far as this process may, and returns how many connections of clients it leaves; `wanted`,
/// if these are not too many.
pub(crate) fn connections(wanted: Option<usize>) -> Result<usize, Failure> {
    let limit = raise();
    let most = match limit.checked_sub(RESERVE) {
        Some(most) if most >= limit / 2 => most,
        _ => limit / 2,
    };
    if limit < LEAST {
        return Err(Failure::failed(format!(
            "this process may open {limit} files, which is too few; raise that limit to {LEAST} or more (ulimit -n, \
             LimitNOFILE=)"
        )));
    }
    match wanted {
        None => Ok(most.min(MOST)),
        Some(wanted) if wanted <= most => Ok(wanted),
        Some(wanted) => Err(Failure::usage(format!(
            "--max-connections {wanted} needs a limit of {} open files, and it is {limit} (ulimit -Hn, LimitNOFILE=)",
            wanted.saturating_add(RESERVE)
        ))),
    }
}

fn raise() -> usize {
    let limits = getrlimit(Resource::Nofile);
    if limits.current != limits.maximum {
        let raised = Rlimit { current: limits.maximum, ..limits };
        if let Err(error) = setrlimit(Resource::Nofile, raised) {
            tracing::warn!(%error, "cannot raise the limit of open files");
        }
    }
    getrlimit(Resource::Nofile).current.map_or(usize::MAX, |limit| limit as usize)
}
