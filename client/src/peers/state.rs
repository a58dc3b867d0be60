use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Weak};

use tokio::sync::watch;
use tonic::metadata::MetadataMap;
use tsoracle_proto::metadata::{self, SESSIONS};
use tsoracle_types::Epoch;

use super::dialer::Connection;
use super::leader::Leader;
use tsoracle_proto::Address;

/// What is known about a peer from its answers, and from their absence.
pub(crate) struct PeerState {
    address: Address,
    leader: Arc<Leader>,
    connections: Weak<dyn Connections>,
    honours_request_ids: AtomicBool,
    ignores_request_ids: AtomicBool,
    lacks_streams: AtomicBool,
    /// The other peers are being probed.
    pub(super) is_suspected: AtomicBool,
    /// Counts the leaders that were found while this peer did not answer.
    superseded: watch::Sender<u64>,
}

/// The connections to all peers.
pub(crate) trait Connections: Send + Sync {
    /// Those to the configured addresses other than `address`.
    fn others(&self, address: &Address) -> Vec<Connection>;
}

impl PeerState {
    pub(super) fn new(
        address: Address,
        leader: Arc<Leader>,
        connections: Weak<dyn Connections>,
    ) -> Self {
        Self {
            address,
            leader,
            connections,
            honours_request_ids: AtomicBool::new(false),
            ignores_request_ids: AtomicBool::new(false),
            lacks_streams: AtomicBool::new(false),
            is_suspected: AtomicBool::new(false),
            superseded: watch::Sender::default(),
        }
    }

    pub(crate) fn address(&self) -> &Address {
        &self.address
    }

    /// Notes what the headers of an answer, or of a failure, say.
    pub(crate) fn note_headers(&self, headers: &MetadataMap) {
        if metadata::has_flag(headers, SESSIONS) {
            self.honours_request_ids.store(true, Ordering::Relaxed);
        }
    }

    /// Notes that the peer served in `epoch`.
    pub(crate) fn served(&self, epoch: Epoch) {
        self.leader.served(&self.address, epoch);
    }

    /// The connections to the other peers.
    pub(super) fn others(&self) -> Vec<Connection> {
        self.connections.upgrade().map_or_else(Vec::new, |all| all.others(&self.address))
    }

    /// The peer at `address` leads in `epoch`. Whether that ends the wait for this one.
    pub(super) fn is_superseded_by(&self, address: &Address, epoch: Epoch) -> bool {
        let is_latest = self.leader.served(address, epoch);
        if is_latest {
            self.superseded.send_modify(|leaders| *leaders += 1);
        }
        is_latest
    }

    /// Returns once another peer is found to lead, from now on.
    pub(crate) fn superseded(self: &Arc<Self>) -> impl Future<Output = ()> + use<> {
        let mut leaders = self.superseded.subscribe();
        // The sender lives as long as the state.
        let state = self.clone();
        async move {
            let _ = leaders.changed().await;
            drop(state);
        }
    }

    /// Whether the server honours request ids, if its answers have shown it.
    pub(crate) fn honours_request_ids(&self) -> Option<bool> {
        if self.honours_request_ids.load(Ordering::Relaxed) {
            return Some(true);
        }
        self.ignores_request_ids.load(Ordering::Relaxed).then_some(false)
    }

    /// A successful answer lacked the header. Not a failure: that may come from a proxy.
    pub(crate) fn set_ignores_request_ids(&self) {
        self.ignores_request_ids.store(true, Ordering::Relaxed);
    }

    /// The server answered that it does not serve streams.
    pub(crate) fn set_lacks_streams(&self) {
        self.lacks_streams.store(true, Ordering::Relaxed);
    }

    /// Whether the server may serve streams: unless it has answered otherwise.
    pub(crate) fn may_have_streams(&self) -> bool {
        !self.lacks_streams.load(Ordering::Relaxed)
    }
}

/// For tests without peers.
#[cfg(test)]
impl PeerState {
    pub(crate) fn alone() -> Arc<Self> {
        struct NoOthers;
        impl Connections for NoOthers {
            fn others(&self, _: &Address) -> Vec<Connection> {
                vec![]
            }
        }
        let address = Address::parse("alone:1", tsoracle_proto::Scheme::Plaintext).unwrap();
        Arc::new(Self::new(address, Arc::default(), Weak::<NoOthers>::new()))
    }
}
