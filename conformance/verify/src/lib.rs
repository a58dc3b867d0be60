//! Checks of a running deployment, over gRPC and from outside.
//!
//! [`verify`] asks every call of the protocol once and looks at each field and status code of the
//! answers. Then it lets many callers loose on all endpoints, in calls, streams and through
//! tsoracle-client, and [checks](tsoracle_history::check) the history of what they saw.
//!
//! What the protocol adds to the public `tsoracle.v1` (streams, request ids, reading, listing and
//! seeding sequences) is checked where the server offers it, and reported as not offered where not.
//! All keys are under a prefix of their own, drawn at random for each run.

mod load;
mod node;
mod probe;
mod verdict;
mod wire;

use std::{io, time::Duration};

use tsoracle_history::Operation;

use load::Load;

pub use node::Tls;
pub use verdict::Verdict;

/// What an error says about a call, as the histories record it.
pub use load::judge::reason as why_failed;

/// What all keys of all runs begin with.
pub const PREFIX: &str = "tsoracle-verify/";

/// The most operations that are recorded; the load ends when it is reached.
pub const MAX_OPERATIONS: usize = 400_000;

/// What to verify, and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// Some or all nodes of one deployment, as `host:port`.
    pub endpoints: Vec<String>,
    /// Encrypts, if present.
    pub tls: Option<Tls>,
    /// Proves who asks, if present.
    pub token: Option<String>,
    /// How long a call may take, connecting included.
    pub timeout: Duration,
    /// How long the load lasts; 0 for none.
    pub duration: Duration,
    /// How many call at the same time.
    pub callers: usize,
}

/// Verifies a deployment. Returns what was found, and the history of the load.
///
/// # Errors
/// `InvalidInput` if an endpoint or the certificates are malformed; `NotConnected` if no endpoint
/// can be reached.
pub async fn verify(options: &Options) -> io::Result<(Verdict, Vec<Operation>)> {
    let nodes = node::connect(options).await?;
    let probe = probe::Probe::new(nodes, options.timeout);
    let wire = wire::check(&probe).await;
    let load = match wire::refused(&wire) {
        // Callers that are refused would fill the server's audit log.
        Some(call) => Load { refused: Some(call), ..Load::default() },
        None => load::run(&probe, options).await?,
    };
    let verdict = Verdict::new(options, probe.prefix(), wire, &load);
    Ok((verdict, load.history))
}
