//! Many callers at once, and what they saw.

mod caller;
mod calls;
pub(super) mod judge;
mod log;
mod riders;
mod streams;

use std::{
    io,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering::Relaxed},
    },
    time::Duration,
};

use tsoracle_types::{Clock, SystemClock};

use super::{
    MAX_OPERATIONS, Options,
    node::{client, dial},
    probe::Probe,
    wire,
};
use tsoracle_history::Operation;

use caller::{Caller, Keys, Offers};
use log::Log;

/// What came of the load.
#[derive(Default)]
pub(super) struct Load {
    pub(super) history: Vec<Operation>,
    /// How long it lasted.
    pub(super) lasted: Duration,
    /// There was none, since this client may not make this call.
    pub(super) refused: Option<&'static str>,
    /// It ended early, because enough was recorded.
    pub(super) is_full: bool,
}

/// Lets callers loose on all endpoints, and afterwards looks where each key stands.
pub(super) async fn run(probe: &Probe, options: &Options) -> io::Result<Load> {
    if options.duration.is_zero() {
        return Ok(Load::default());
    }
    let offers = Offers::of(probe).await;
    let keys = Keys::under(probe.prefix());
    let left = Arc::new(AtomicUsize::new(MAX_OPERATIONS));
    let began = SystemClock.now().boot;
    let shared = client(options)?;
    let mut callers = Vec::new();
    for number in 0..options.callers {
        let name = &options.endpoints[number % options.endpoints.len()];
        let Ok(channel) = dial(name, options).await else { continue };
        let caller = Caller {
            number,
            nodes: probe.nodes.clone(),
            keys: keys.clone(),
            offers,
            timeout: options.timeout,
            until: began + options.duration,
            log: Log::new(left.clone()),
        };
        callers.push(tokio::spawn(caller.run(channel, name.clone(), shared.clone())));
    }
    let mut load = Load::default();
    for caller in callers {
        load.add(caller.await.map_err(io::Error::other)?);
    }
    load.lasted = SystemClock.now().boot.since(began);
    load.is_full = left.load(Relaxed) == 0;
    load.add(calls::look_at_each_key(probe, &keys, offers).await);
    shared.close().await;
    Ok(load)
}

impl Load {
    fn add(&mut self, log: Log) {
        self.history.extend(log.operations);
    }
}

impl Offers {
    /// What the deployment offers beyond the public protocol. What it does not say is taken for no.
    async fn of(probe: &Probe) -> Self {
        Self {
            ids: wire::ids::are_offered(probe).await.unwrap_or(false),
            names: wire::ids::are_names_offered(probe).await,
            reads: wire::listing::is_read_offered(probe).await,
            deletions: wire::deleting::is_offered(probe).await,
            streams: wire::streams::are_offered(probe).await,
        }
    }
}
