use std::{sync::Arc, time::Duration};

use crate::node::Channel;
use rand::Rng;
use tsoracle_client::Client;
use tsoracle_types::{BootTime, Clock, SystemClock};

use super::log::Log;
use tsoracle_history::Ask;

use crate::node::Node;

/// How long to wait after a failure, so that a node in trouble is not hammered.
const PAUSE: Duration = Duration::from_millis(20);

/// What a deployment offers beyond the public protocol.
#[derive(Clone, Copy, Debug)]
pub(super) struct Offers {
    pub(super) ids: bool,
    pub(super) names: bool,
    pub(super) reads: bool,
    pub(super) deletions: bool,
    pub(super) streams: bool,
}

/// The keys that all callers share. Each is always asked for the same count, so that it is easy to
/// tell which calls in doubt were carried out.
#[derive(Clone)]
pub(super) struct Keys {
    prefix: Arc<str>,
    pub(super) single: Arc<[Ask]>,
    pub(super) batch: Arc<[Ask]>,
}

impl Keys {
    pub(super) fn under(prefix: &str) -> Self {
        let ask = |name: &str, count| Ask { key: format!("{prefix}load/{name}").into(), count };
        Self {
            prefix: prefix.into(),
            single: (1..=4).map(|count| ask(&format!("single-{count}"), count)).collect(),
            batch: (2..=4).map(|count| ask(&format!("batch-{count}"), count)).collect(),
        }
    }

    /// One that no other caller knows, and that may be deleted.
    pub(super) fn own(&self) -> Ask {
        let key = format!("{}load/own-{:08x}", self.prefix, rand::random::<u32>());
        Ask { key: key.into(), count: 1 }
    }

    /// Any one that is asked for alone.
    pub(super) fn any(&self) -> Ask {
        self.single[rand::rng().random_range(0..self.single.len())].clone()
    }
}

/// One of many that call at the same time.
pub(super) struct Caller {
    pub(super) number: usize,
    pub(super) nodes: Vec<Node>,
    pub(super) keys: Keys,
    pub(super) offers: Offers,
    pub(super) timeout: Duration,
    pub(super) until: BootTime,
    pub(super) log: Log,
}

impl Caller {
    /// Calls until it is time: one in four through streams of timestamps, one through streams of
    /// sequences, one through our client, and one call by call.
    pub(super) async fn run(mut self, channel: Channel, name: String, client: Client) -> Log {
        match self.number % 4 {
            1 if self.offers.streams => self.stream_ts(channel, name).await,
            2 if self.offers.streams => self.stream_seq(channel, name).await,
            3 => self.ride(client).await,
            _ => self.call(channel, name).await,
        }
        self.log
    }

    /// For people: who calls, how, and whom.
    pub(super) fn name(&self, how: &str, node: &str) -> Arc<str> {
        format!("caller {} ({how}, {node})", self.number).into()
    }

    pub(super) fn goes_on(&self) -> bool {
        SystemClock.now().boot < self.until && !self.log.is_full()
    }

    /// The node to ask after `node` failed, over the connection that all share.
    pub(super) async fn next_node(&self, node: &str) -> (Channel, String) {
        SystemClock.sleep(PAUSE).await;
        let current = self.nodes.iter().position(|one| one.name == node);
        let next = current.map_or(0, |current| (current + 1) % self.nodes.len());
        (self.nodes[next].channel.clone(), self.nodes[next].name.clone())
    }
}

/// One number of ten, to choose what to do.
pub(super) fn choice() -> u32 {
    rand::rng().random_range(0..10)
}

/// One time in two.
pub(super) fn is_rare() -> bool {
    rand::rng().random_ratio(1, 2)
}

/// How many timestamps to ask for: mostly one.
pub(super) fn any_count() -> u32 {
    let mut rng = rand::rng();
    if rng.random_ratio(3, 4) { 1 } else { rng.random_range(2..=200) }
}
